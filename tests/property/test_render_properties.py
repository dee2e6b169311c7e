"""What holds for the rendering of any accepted document on any containerd."""

from __future__ import annotations

import base64
import random
import tomllib
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent.errors import ConfigUnsupported
from agent.hosts_toml import Target
from agent.model import Capability, DesiredConfig, Mirror, Scheme
from agent.plan import Observed, PublishHost, make_plan
from agent.render import Rendered, toml_string
from agent.runtime import Flavour
from agent.tree import HOST_DIRECTORY_MODE, HOSTS_TOML, PUBLIC_MODE, SECRET_MODE, is_our_file, is_plain_name
from tests.support import documents, rendering
from tests.support.documents import PLACEHOLDER

_VERSIONS = [None, "1.6.20", "1.7.24", "2.0.7", "2.1.9", "2.2.3"]
_NODE_IPS = ["10.0.0.7", "fd00::7"]

targets = st.builds(
    rendering.target, st.sampled_from(Flavour), st.sampled_from(_VERSIONS), node_ip=st.sampled_from(_NODE_IPS)
)
_quiet_documents = documents.documents(rewriting=documents.noop_rewrites)


def _rendered(fields: documents.Fields, target: Target) -> tuple[DesiredConfig, Rendered]:
    """Render, or give the example up when this containerd certainly cannot do what is asked."""
    config = rendering.config(fields)
    try:
        return config, rendering.RENDERER.render(config, target)
    except ConfigUnsupported as err:
        assert err.reason in _allowed_refusals(config, target)  # noqa: PT017 -- a refusal must have its cause
        assume(False)  # noqa: FBT003 -- hypothesis' own signature
        raise


def _allowed_refusals(config: DesiredConfig, target: Target) -> set[str]:
    version = str(target.containerd.version)
    mirrors = [mirror for host in config.hosts for mirror in host.mirrors]
    is_stock = target.containerd.flavour is Flavour.STOCK
    causes = {
        "RewriteUnsupported": (is_stock and any(mirror.rewrites for mirror in mirrors))
        or any('"' in rule.pattern for mirror in mirrors for rule in mirror.rewrites),
        "HostUnsupported": version == "1.6.20" and any(host.name.count(":") > 1 for host in config.hosts),
        "CapabilityUnsupported": version != "2.2.3"
        and any(mirror.capabilities == (Capability.REFERRERS,) for mirror in mirrors),
    }
    return {reason for reason, is_cause in causes.items() if is_cause}


def _url(mirror: Mirror, target: Target) -> str:
    """Return the URL of a mirror, found in another way than the agent's."""
    host = mirror.host
    if PLACEHOLDER in host:
        ip = str(target.node_ip)
        host = host.replace(PLACEHOLDER, f"[{ip}]" if ":" in ip else ip)
    elif host.count(":") > 1 and "[" not in host:
        host = f"[{host}]"
    return f"{mirror.scheme.value}://{host}"


def _distinct(mirrors: tuple[Mirror, ...], target: Target) -> dict[str, Mirror]:
    """Return the mirrors by URL, the first of equal ones, in order."""
    found: dict[str, Mirror] = {}
    for mirror in mirrors:
        found.setdefault(_url(mirror, target), mirror)
    return found


def _file_names(table: dict[str, Any]) -> list[str]:
    return [*table.get("ca", ()), *(name for pair in table.get("client", ()) for name in pair)]


@settings(max_examples=60)
@given(documents.documents(), targets)
def test_hosts_are_exactly_the_mirrors_in_their_order(fields: documents.Fields, target: Target) -> None:
    """No value of a document can add, hide or move an endpoint, nor a key at the root."""
    config, rendered = _rendered(fields, target)
    assert [host.name for host in config.hosts] == [directory.name for directory in rendered.tree.hosts]
    for host, directory in zip(config.hosts, rendered.tree.hosts, strict=True):
        found = rendering.hosts_toml(directory)
        expected = _distinct(host.mirrors, target)
        assert list(expected) == list(found["host"])
        last = list(expected)[-1]
        assert (host.server or (None if host.fallback else last)) == found.get("server")
        if host.fallback:
            assert {"host", *(["server"] if host.server else [])} == set(found)


@settings(max_examples=60)
@given(documents.documents(), targets)
def test_each_mirror_says_what_its_fields_say(fields: documents.Fields, target: Target) -> None:
    """Credentials decode to what was given, capabilities and rewrites are right, TLS is as asked."""
    config, rendered = _rendered(fields, target)
    for host, directory in zip(config.hosts, rendered.tree.hosts, strict=True):
        tables = rendering.hosts_toml(directory)["host"]
        for url, mirror in _distinct(host.mirrors, target).items():
            written = next(
                one
                for one in fields["hosts"][host.name]["mirrors"]
                if (one["scheme"], one["host"]) == (mirror.scheme.value, mirror.host)
            )
            _check_mirror(written, tables[url], target)


def _check_mirror(written: documents.Fields, table: dict[str, Any], target: Target) -> None:
    flavour, version = target.containerd.flavour, str(target.containerd.version)
    words = written.get("capabilities", ["pull", "resolve"])
    assert [word for word in words if word != "referrers" or version == "2.2.3"] == table["capabilities"]
    assert (written["scheme"] == "http" or written.get("skipVerify", False)) == table.get("skip_verify", False)
    assert written.get("overridePath", False) == table.get("override_path", False)
    is_timeout_unread = version in {"1.6.20", "1.7.24"}
    assert (None if is_timeout_unread else written.get("dialTimeout")) == table.get("dial_timeout")
    assert bool(written.get("ca") and written["scheme"] == "https") == ("ca" in table)
    assert ("client" in written) == ("client" in table)
    assert _credentials(written) == _credentials_in(table, flavour)
    expected = {
        name: [value] if isinstance(value, str) else value for name, value in written.get("headers", {}).items()
    }
    assert expected == {name: value for name, value in table.get("header", {}).items() if name != "Authorization"}
    _check_rewrites(written.get("rewrites", []), table.get("rewrite"), flavour)


def _credentials(written: documents.Fields) -> str | None:
    auth = written.get("auth", {})
    if auth.get("username"):
        return f"{auth['username']}:{auth['password']}"
    return base64.b64decode(auth["auth"]).decode() if auth.get("auth") else None


def _credentials_in(table: dict[str, Any], flavour: Flavour) -> str | None:
    if flavour is Flavour.DECKHOUSE:
        assert "Authorization" not in table.get("header", {})
        encoded = table.get("auth", {}).get("auth")
        assert encoded is None or ["auth"] == list(table["auth"])
    else:
        assert "auth" not in table
        (encoded,) = table.get("header", {}).get("Authorization", [None])
        assert encoded is None or encoded.startswith("Basic ")
        encoded = encoded and encoded.removeprefix("Basic ")
    return base64.b64decode(encoded, validate=True).decode() if encoded else None


def _check_rewrites(rules: list[dict[str, str]], found: Any, flavour: Flavour) -> None:
    if flavour is Flavour.STOCK or not rules:
        assert found is None
    elif flavour is Flavour.DECKHOUSE:
        assert [(rule["from"], rule["to"]) for rule in rules] == [(rule["regex"], rule["replace"]) for rule in found]
    else:
        assert {rule["from"]: rule["to"] for rule in reversed(rules)} == found


@settings(max_examples=50)
@given(documents.documents(), targets)
def test_every_file_that_is_named_is_there_and_before_its_referrer(fields: documents.Fields, target: Target) -> None:
    """A missing CA makes every pull of its registry fail; a name that leaves the root must not exist."""
    _, rendered = _rendered(fields, target)
    for directory in rendered.tree.hosts:
        names = [file.name for file in directory.files]
        assert is_plain_name(directory.name)
        assert all(is_plain_name(name) and is_our_file(name) for name in names)
        assert HOSTS_TOML == names[-1]
        assert len(set(names)) == len(names)
        found = rendering.hosts_toml(directory)
        root = str(rendering.REGISTRY_DIR / directory.name)
        named = [path for table in (found, *found["host"].values()) for path in _file_names(table)]
        assert {f"{root}/{name}" for name in names[:-1]} >= set(named)
        assert all(
            rendering.REGISTRY_DIR / directory.name == rendering.REGISTRY_DIR.joinpath(path).parent for path in named
        )


@settings(max_examples=25)
@given(documents.documents(), targets)
def test_only_credentials_are_private(fields: documents.Fields, target: Target) -> None:
    """hosts.toml and keys 0600, certificates 0644, directories for root alone."""
    _, rendered = _rendered(fields, target)
    for path, file in rendered.tree.files():
        is_private = path.name == HOSTS_TOML or path.name.endswith(".key")
        assert (SECRET_MODE if is_private else PUBLIC_MODE) == file.mode
    assert (0o600, 0o644, 0o700) == (SECRET_MODE, PUBLIC_MODE, HOST_DIRECTORY_MODE)


@settings(max_examples=40)
@given(documents.documents(), targets, st.randoms(use_true_random=False))
def test_the_same_config_is_the_same_bytes(fields: documents.Fields, target: Target, shuffle: random.Random) -> None:
    """Twice, and with the hosts in another order: else every pass would write and every node differ."""
    _, first = _rendered(fields, target)
    names = list(fields["hosts"])
    shuffle.shuffle(names)
    reordered = fields | {"hosts": {name: fields["hosts"][name] for name in names}}
    for again in (fields, reordered):
        assert first.tree == rendering.RENDERER.render(rendering.config(again), target).tree


@settings(max_examples=30)
@given(_quiet_documents, targets, documents.texts | documents.hostile_texts)
def test_a_file_begins_by_saying_whose_it_is(fields: documents.Fields, target: Target, origin: str) -> None:
    """A managed-by comment with the version; neither version nor origin can end their line."""
    where = rendering.target(target.containerd.flavour, node_ip=target.node_ip, origin=origin)
    _, rendered = _rendered(fields, where)
    for directory in rendered.tree.hosts:
        head = rendering.text(directory).split("\n")[:3]
        assert all(line.startswith("# ") for line in head)
        assert head[0].startswith("# Managed by registry-agent.")
        quoted = [line[line.index('"') : line.rindex('"') + 1] for line in head[1:]]
        said = [tomllib.loads(f"said = {text}")["said"] for text in quoted]
        assert [fields["version"], origin] == said


@settings(max_examples=20)
@given(documents.documents(), targets)
def test_the_rendering_is_a_plan_of_nothing_else(fields: documents.Fields, target: Target) -> None:
    """What is rendered can be planned onto an empty disk, host by host."""
    _, rendered = _rendered(fields, target)
    plan = make_plan(rendered.tree, Observed())
    published = [one.directory for one in plan.operations if isinstance(one, PublishHost)]
    assert list(rendered.tree.hosts) == published


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(Scheme), documents.ports), min_size=1, max_size=4, unique=True),
    st.sampled_from(_NODE_IPS),
)
def test_a_placeholder_beside_its_own_address_counts_once(endpoints: list[tuple[Scheme, int]], node_ip: str) -> None:
    """The first of each pair wins, and one notice tells of each loss."""
    address = f"[{node_ip}]" if ":" in node_ip else node_ip
    mirrors = [
        documents.mirror(f"{host}:{port}", scheme.value)
        for scheme, port in endpoints
        for host in (PLACEHOLDER, address)
    ]
    rendered = rendering.render(documents.with_mirror(*mirrors), rendering.target(node_ip=node_ip))
    (directory,) = rendered.tree.hosts
    expected = [f"{scheme.value}://{address}:{port}" for scheme, port in endpoints]
    assert expected == list(rendering.hosts_toml(directory)["host"])
    assert ["DuplicateMirror"] * len(endpoints) == [notice.code for notice in rendered.notices]


@settings(max_examples=500)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x7f")
@example("\U0001f511")
@example("\u2028\u2029\x85\ufeff")
@example("\\\"\"\"'''#\n\r\t\0")
@example("\\u0041\\")
def test_any_text_survives_the_toml_filter(text: str) -> None:
    """As a value and as a key, through a TOML parser and back; in one line, whatever is in it."""
    quoted = toml_string(text)
    assert {"a": text} == tomllib.loads(f"a = {quoted}")
    assert {text: {"b": 1}} == tomllib.loads(f"[{quoted}]\nb = 1")
    assert not any(character < " " or character == "\x7f" for character in quoted)


@settings(max_examples=30)
@given(documents.documents(), st.sampled_from(_VERSIONS), st.sampled_from(_NODE_IPS))
def test_stock_containerd_is_never_given_a_config_with_rewrites(
    fields: documents.Fields, version: str | None, node_ip: str
) -> None:
    """Either it is refused with that reason, or there was nothing to rewrite."""
    target = rendering.target(Flavour.STOCK, version, node_ip=node_ip)
    config = rendering.config(fields)
    rules = [rule for host in config.hosts for mirror in host.mirrors for rule in mirror.rewrites]
    assume(rules)
    with pytest.raises(ConfigUnsupported) as caught:
        rendering.RENDERER.render(config, target)
    assert caught.value.reason in _allowed_refusals(config, target)
