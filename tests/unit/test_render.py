"""What is rendered for which containerd: flavours, versions, what is refused and what is left out."""

from __future__ import annotations

import base64
import tomllib
from typing import Any

import pytest

from agent.errors import ConfigUnsupported, RenderFailed
from agent.render import Renderer, toml_string
from agent.runtime import Flavour
from agent.tree import PUBLIC_MODE, SECRET_MODE
from tests.support import documents, rendering
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY, OTHER_CA, document, host, mirror, with_mirror

_URL = "https://mirror.example.com"
_DIRECTORY = "/etc/containerd/registry.d/registry.example.com"
_ENCODED = base64.b64encode(b"robot:s3cret").decode()
_AUTH = documents.auth("robot", "s3cret")
_REWRITES = [{"from": "^system/deckhouse", "to": "repo/deckhouse/ee"}, {"from": "^test/(.+)", "to": "x/${1}"}]
_FLAVOURS = list(Flavour)


def _mirrors(fields: documents.Fields, **where: Any) -> dict[str, Any]:
    """Return the host table of the one hosts.toml."""
    rendered = rendering.render(fields, rendering.target(**where))
    (directory,) = rendered.tree.hosts
    found: dict[str, Any] = rendering.hosts_toml(directory)["host"]
    return found


def _one(fields: documents.Fields, **where: Any) -> dict[str, Any]:
    """Return the settings of the one mirror that is rendered."""
    (settings,) = _mirrors(with_mirror(fields), **where).values()
    found: dict[str, Any] = settings
    return found


def _codes(fields: documents.Fields, **where: Any) -> list[str]:
    return [notice.code for notice in rendering.render(fields, rendering.target(**where)).notices]


def _refusal(fields: documents.Fields, **where: Any) -> str:
    with pytest.raises(ConfigUnsupported) as caught:
        rendering.render(fields, rendering.target(**where))
    assert caught.value.remedy
    return caught.value.reason


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_the_simplest_mirror_has_capabilities_and_nothing_else(flavour: Flavour) -> None:
    """Never push, verified TLS, and no `server`: containerd appends the original registry itself."""
    (directory,) = rendering.render(document(), rendering.target(flavour)).tree.hosts
    assert {"host": {_URL: {"capabilities": ["pull", "resolve"]}}} == rendering.hosts_toml(directory)


def test_deckhouse_reads_credentials_from_an_auth_table() -> None:
    """One key `auth`, base64 of user:password."""
    assert {"capabilities": ["pull", "resolve"], "auth": {"auth": _ENCODED}} == _one(mirror(auth=_AUTH))


@pytest.mark.parametrize("flavour", [Flavour.K3S, Flavour.STOCK])
def test_other_builds_read_credentials_from_the_header(flavour: Flavour) -> None:
    """Header name and scheme exactly so; further headers follow."""
    expected = {"Authorization": [f"Basic {_ENCODED}"], "X-One": ["1"], "X-Many": ["1", "2"]}
    settings = _one(mirror(auth=_AUTH, headers={"X-One": "1", "X-Many": ["1", "2"]}), flavour=flavour)
    assert {"capabilities": ["pull", "resolve"], "header": expected} == settings
    assert list(expected) == list(settings["header"])


def test_encoded_credentials_are_written_verbatim() -> None:
    """The producer's `auth` field goes through when there is no user name."""
    assert {"auth": "dTpw"} == _one(mirror(auth=documents.auth(encoded="dTpw")))["auth"]


def test_headers_stand_beside_the_auth_table_on_deckhouse() -> None:
    """Only the credentials move."""
    settings = _one(mirror(auth=_AUTH, headers={"X-One": "1"}))
    assert ({"X-One": ["1"]}, {"auth": _ENCODED}) == (settings["header"], settings["auth"])


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_an_authorization_header_of_the_document_is_kept(flavour: Flavour) -> None:
    """A Bearer token is the writer's business."""
    settings = _one(mirror(headers={"authorization": "Bearer t"}), flavour=flavour)
    assert {"Authorization": ["Bearer t"]} == settings["header"]


def test_deckhouse_reads_rewrites_as_a_list_in_order() -> None:
    """The first rule that matches is the only one that counts."""
    expected = [{"regex": rule["from"], "replace": rule["to"]} for rule in _REWRITES]
    assert expected == _one(mirror(rewrites=_REWRITES))["rewrite"]


def test_k3s_reads_rewrites_as_a_table() -> None:
    """Pattern = replacement; of two equal patterns the first would have won."""
    rules = [*_REWRITES, {"from": "^system/deckhouse", "to": "never"}]
    expected = {rule["from"]: rule["to"] for rule in _REWRITES}
    assert expected == _one(mirror(rewrites=rules), flavour=Flavour.K3S)["rewrite"]


def test_stock_containerd_cannot_rewrite() -> None:
    """Without the rewrite every pull would ask for a repository that is not there."""
    assert "RewriteUnsupported" == _refusal(with_mirror(mirror(rewrites=_REWRITES)), flavour=Flavour.STOCK)


def test_one_mirror_with_a_rewrite_is_enough_to_refuse_on_stock() -> None:
    """Half a config is none: the next mirror may be the one that is up."""
    fields = document({"a": host(), "b": host(mirror(), mirror("other", rewrites=_REWRITES[:1]))})
    assert "RewriteUnsupported" == _refusal(fields, flavour=Flavour.STOCK)


def test_stock_containerd_accepts_rewrites_that_change_nothing() -> None:
    """They are left out, since it would not read them."""
    rules = [{"from": "^(.*)$", "to": "$1"}, {"from": "^a/b", "to": "a/b"}]
    assert "rewrite" not in _one(mirror(rewrites=rules), flavour=Flavour.STOCK)


def test_a_ca_is_a_file_named_after_scheme_and_host() -> None:
    """The contract's name, public, written before the hosts.toml that names it."""
    (directory,) = rendering.render(with_mirror(mirror("nexus.example.com:8443", ca=CA))).tree.hosts
    name = "https-nexus.example.com:8443-ca.crt"
    assert [name, "hosts.toml"] == [file.name for file in directory.files]
    assert [PUBLIC_MODE, SECRET_MODE] == [file.mode for file in directory.files]
    assert CA.encode() == directory.files[0].content
    assert [f"{_DIRECTORY}/{name}"] == rendering.hosts_toml(directory)["host"]["https://nexus.example.com:8443"]["ca"]


def test_a_ca_without_a_final_newline_gets_one() -> None:
    """Files end with a line end."""
    (directory,) = rendering.render(with_mirror(mirror(ca=CA.rstrip("\n")))).tree.hosts
    assert CA.encode() == directory.files[0].content


def test_each_mirror_has_its_own_ca() -> None:
    """Two mirrors, two files, each named by its own table."""
    (directory,) = rendering.render(with_mirror(mirror("a", ca=CA), mirror("b", ca=OTHER_CA))).tree.hosts
    found = rendering.hosts_toml(directory)["host"]
    assert [f"{_DIRECTORY}/https-a-ca.crt"] == found["https://a"]["ca"]
    assert [f"{_DIRECTORY}/https-b-ca.crt"] == found["https://b"]["ca"]


def test_http_skips_verification_and_names_no_ca() -> None:
    """Up to 1.6.31 and 1.7.15 that combination is what makes containerd speak plain http."""
    settings = _one(mirror(scheme="http", ca=CA))
    assert {"capabilities": ["pull", "resolve"], "skip_verify": True} == settings


def test_a_client_certificate_is_a_pair_of_files() -> None:
    """An array of pairs; the flat array is the mistake that fails every pull. The key is not public."""
    client = {"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}
    (directory,) = rendering.render(with_mirror(mirror(client=client))).tree.hosts
    names = ["https-mirror.example.com-client.crt", "https-mirror.example.com-client.key"]
    assert [*names, "hosts.toml"] == [file.name for file in directory.files]
    assert [PUBLIC_MODE, SECRET_MODE, SECRET_MODE] == [file.mode for file in directory.files]
    assert [CLIENT_CERTIFICATE.encode(), CLIENT_KEY.encode()] == [file.content for file in directory.files[:2]]
    assert [[f"{_DIRECTORY}/{name}" for name in names]] == rendering.hosts_toml(directory)["host"][_URL]["client"]


def test_extensions_are_written_under_containerds_names() -> None:
    """Each of them, true to its type."""
    settings = _one(
        mirror(capabilities=["push", "pull"], skipVerify=True, overridePath=True, dialTimeout="200ms"),
    )
    expected = {"capabilities": ["push", "pull"], "skip_verify": True, "override_path": True, "dial_timeout": "200ms"}
    assert expected == settings


@pytest.mark.parametrize(
    ("version", "is_written"),
    [
        (None, True),
        ("1.6.20", False),
        ("1.7.24", False),
        ("2.0.6", False),
        ("2.0.7", True),
        ("2.1.0", True),
        ("2.2.3", True),
    ],
)
def test_a_dial_timeout_is_left_out_where_it_is_unknown(version: str | None, *, is_written: bool) -> None:
    """Where it is not read it does no harm; where it surely is not, a notice says so."""
    fields = mirror(dialTimeout="5s")
    assert is_written == ("dial_timeout" in _one(fields, containerd=version))
    expected = [] if is_written else ["DialTimeoutUnsupported"]
    assert expected == _codes(with_mirror(fields), containerd=version)


@pytest.mark.parametrize(
    ("version", "is_written"), [(None, False), ("1.7.24", False), ("2.1.9", False), ("2.2.0", True), ("2.3.4", True)]
)
def test_referrers_is_left_out_where_it_would_drop_the_file(version: str | None, *, is_written: bool) -> None:
    """An unknown word makes containerd ignore the whole file, so it must be known for certain."""
    fields = mirror(capabilities=["pull", "referrers", "resolve"])
    expected = ["pull", "referrers", "resolve"] if is_written else ["pull", "resolve"]
    assert expected == _one(fields, containerd=version)["capabilities"]
    assert ([] if is_written else ["ReferrersUnsupported"]) == _codes(with_mirror(fields), containerd=version)


@pytest.mark.parametrize("version", [None, "1.7.24", "2.1.9"])
def test_referrers_alone_is_refused_where_it_is_unknown(version: str | None) -> None:
    """Leaving it out would leave an empty list, and that means everything, push too."""
    fields = with_mirror(mirror(capabilities=["referrers"]))
    assert "CapabilityUnsupported" == _refusal(fields, containerd=version)


def test_referrers_alone_is_written_where_it_is_known() -> None:
    """From 2.2."""
    assert ["referrers"] == _one(mirror(capabilities=["referrers"]), containerd="2.2.0")["capabilities"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([["pull"], ["resolve"]], ["NoResolver"]),
        ([["push"]], ["NoResolver"]),
        ([["pull"], ["resolve", "pull"]], []),
        ([["pull"], None], []),
    ],
)
def test_a_host_whose_mirrors_serve_no_tags_is_a_notice(words: list[list[str] | None], expected: list[str]) -> None:
    """containerd wants one mirror with both pull and resolve, else tags come from the original registry."""
    mirrors = [mirror(f"m{number}", capabilities=each) for number, each in enumerate(words)]
    assert expected == _codes(with_mirror(*mirrors))


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_containerd_before_1_6_is_refused(flavour: Flavour) -> None:
    """Whatever the config asks: registry.d is not read the way all this relies on."""
    assert "ContainerdTooOld" == _refusal(document(), flavour=flavour, containerd="1.5.18")


@pytest.mark.parametrize(
    ("key", "version", "is_supported"),
    [
        ("_default", "1.6.16", False),
        ("_default", "1.6.17", True),
        ("_default", "1.7.0", True),
        ("_default", None, True),
        ("[fd00::1]:5001", "1.6.38", False),
        ("[fd00::1]:5001", "1.7.0", True),
        ("[fd00::1]:5001", None, True),
        ("fd00::1", "1.6.20", False),
        ("a:5001", "1.6.0", True),
    ],
)
def test_a_host_that_is_never_looked_up_is_refused(key: str, version: str | None, *, is_supported: bool) -> None:
    """containerd would pull from the original registry as if nothing were configured."""
    fields = document({key: host()})
    if is_supported:
        (directory,) = rendering.render(fields, rendering.target(containerd=version)).tree.hosts
        assert key == directory.name
    else:
        assert "HostUnsupported" == _refusal(fields, containerd=version)


def test_an_ipv6_mirror_serves_any_containerd() -> None:
    """The border is about references, not about endpoints; a bare address gets brackets in its URL."""
    assert ["https://[fd00::1]"] == list(_mirrors(with_mirror(mirror("fd00::1")), containerd="1.6.20"))


def test_the_placeholder_needs_the_nodes_address() -> None:
    """The reason names what to set."""
    assert "NodeIPUnknown" == _refusal(with_mirror(mirror("${discovered_node_ip}:5001")))


@pytest.mark.parametrize(("node_ip", "shown"), [("10.0.0.7", "10.0.0.7:5001"), ("fd00::7", "[fd00::7]:5001")])
def test_the_placeholder_is_resolved_in_url_and_file_names(node_ip: str, shown: str) -> None:
    """Never the literal, neither in hosts.toml nor in a directory."""
    fields = with_mirror(mirror("${discovered_node_ip}:5001", ca=CA))
    (directory,) = rendering.render(fields, rendering.target(node_ip=node_ip)).tree.hosts
    assert [f"https-{shown}-ca.crt", "hosts.toml"] == [file.name for file in directory.files]
    assert [f"https://{shown}"] == list(rendering.hosts_toml(directory)["host"])
    assert "discovered_node_ip" not in rendering.text(directory)


@pytest.mark.parametrize("first", ["${discovered_node_ip}:5001", "10.0.0.7:5001"])
def test_of_mirrors_that_become_one_the_first_counts(first: str) -> None:
    """On a master the placeholder repeats a listed address; a table twice would be no TOML."""
    second = {"${discovered_node_ip}:5001": "10.0.0.7:5001"}.get(first, "${discovered_node_ip}:5001")
    fields = with_mirror(mirror(first, ca=CA), mirror(second, ca=OTHER_CA), mirror("10.0.0.8:5001"))
    rendered = rendering.render(fields, rendering.target(node_ip="10.0.0.7"))
    (directory,) = rendered.tree.hosts
    assert ["https://10.0.0.7:5001", "https://10.0.0.8:5001"] == list(rendering.hosts_toml(directory)["host"])
    assert ["https-10.0.0.7:5001-ca.crt", "hosts.toml"] == [file.name for file in directory.files]
    assert CA.encode() == directory.files[0].content
    assert ["DuplicateMirror"] == [notice.code for notice in rendered.notices]


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_no_fallback_makes_the_last_mirror_the_server(flavour: Flavour) -> None:
    """The only portable way to forbid the original registry; TLS and header go along, auth cannot."""
    client = {"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}
    last = mirror("last", ca=CA, client=client, auth=_AUTH, headers={"X-One": "1"}, overridePath=True)
    fields = with_mirror(mirror("first"), last, fallback=False)
    (directory,) = rendering.render(fields, rendering.target(flavour)).tree.hosts
    found = rendering.hosts_toml(directory)
    table = found["host"]["https://last"]
    assert "https://last" == found["server"]
    names = ("capabilities", "ca", "client", "override_path", "header")
    assert {name: table[name] for name in names} == {name: found[name] for name in names}
    assert {*names, "server", "host"} == set(found)
    assert ["https://first", "https://last"] == list(found["host"])


def test_no_fallback_on_http_speaks_http_at_last_too() -> None:
    """The server is the mirror in every respect."""
    (directory,) = rendering.render(with_mirror(mirror(scheme="http"), fallback=False)).tree.hosts
    found = rendering.hosts_toml(directory)
    assert ("http://mirror.example.com", True) == (found["server"], found["skip_verify"])


def test_no_fallback_leaves_rewrites_to_the_tables() -> None:
    """Root keys know no rewrite; k3s and Deckhouse keep theirs in the host tables."""
    fields = with_mirror(mirror(rewrites=_REWRITES), fallback=False)
    for flavour in (Flavour.DECKHOUSE, Flavour.K3S):
        (directory,) = rendering.render(fields, rendering.target(flavour)).tree.hosts
        found = rendering.hosts_toml(directory)
        assert "rewrite" not in found
        assert found["host"][_URL]["rewrite"]


def test_a_server_of_the_document_is_written_alone() -> None:
    """It has no settings of its own, least of all a mirror's credentials."""
    fields = with_mirror(mirror(auth=_AUTH, ca=CA), server="https://last.example.com:5000/v2/x")
    (directory,) = rendering.render(fields, rendering.target(Flavour.STOCK)).tree.hosts
    found = rendering.hosts_toml(directory)
    assert {"server", "host"} == set(found)
    assert "https://last.example.com:5000/v2/x" == found["server"]


def test_the_header_says_whose_file_it_is() -> None:
    """Managed by, version, where to change it; values quoted, so that none ends its line."""
    (directory,) = rendering.render(document(version='v"1'), rendering.target(origin='file "a"\nb = 1')).tree.hosts
    assert [
        "# Managed by registry-agent. Do not edit: changes here are undone.",
        '# Desired config version "v\\"1".',
        '# To change it, change "file \\"a\\"\\nb = 1".',
        "[host]",
    ] == rendering.text(directory).splitlines()[:4]


def test_a_host_table_stands_before_every_mirror() -> None:
    """Up to 1.7.31 a file with only root keys is dropped."""
    for fields in (document(), with_mirror(server="https://a"), with_mirror(fallback=False)):
        (directory,) = rendering.render(fields).tree.hosts
        lines = [line for line in rendering.text(directory).splitlines() if line.lstrip().startswith("[")]
        assert "[host]" == lines[0]


def test_a_mirrors_tables_stand_right_after_it() -> None:
    """containerd takes hosts in textual order; a sub-table elsewhere would belong to nobody it knows."""
    full: documents.Fields = {"auth": _AUTH, "headers": {"X": "1"}, "rewrites": _REWRITES}
    (directory,) = rendering.render(with_mirror(mirror("a", **full), mirror("b", **full))).tree.hosts
    tables = [line.strip() for line in rendering.text(directory).splitlines() if line.lstrip().startswith("[")]
    assert ["[host]"] + [
        line
        for url in ("https://a", "https://b")
        for line in (
            f'[host."{url}"]',
            f'[host."{url}".header]',
            f'[host."{url}".auth]',
            f'[[host."{url}".rewrite]]',
            f'[[host."{url}".rewrite]]',
        )
    ] == tables


@pytest.mark.parametrize(
    "template",
    [
        "[host]\n",
        '[host]\n[host."https://mirror.example.com"]\ncapabilities = ["pull"]\n',
        '[host."https://mirror.example.com"\n',
        '[host."https://evil.example.com"]\n[host."https://mirror.example.com"]\ncapabilities = ["pull", "resolve"]\n',
        "",
    ],
    ids=["nothing", "less", "no-toml", "more", "empty"],
)
def test_a_file_that_does_not_say_what_was_meant_is_never_returned(template: str) -> None:
    """A defect of a template is found on the spot, before anything is written."""
    with pytest.raises(RenderFailed, match=r"registry\.example\.com does not say what was meant"):
        Renderer(template).render(rendering.config(document()), rendering.target())


def test_mirrors_in_another_order_are_not_what_was_meant() -> None:
    """Order is meaning: a TOML parser alone would not notice."""
    swapped = (
        "[host]\n{% for one in endpoints | reverse %}"
        "[host.{{ one.url | toml }}]\ncapabilities = ['pull', 'resolve']\n{% endfor %}"
    )
    with pytest.raises(RenderFailed):
        Renderer(swapped).render(rendering.config(with_mirror(mirror("a"), mirror("b"))), rendering.target())


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a", '"a"'),
        ('"\\', '"\\"\\\\"'),
        ("\n\t\0", '"\\n\\t\\u0000"'),
        ("\x7f", '"\\u007f"'),
        ("\U0001f511", '"\U0001f511"'),
        ("\u2028", '"\u2028"'),
    ],
)
def test_strings_are_quoted_for_toml_not_for_json(text: str, quoted: str) -> None:
    """DEL escaped, astral characters as they are: where the two differ."""
    assert quoted == toml_string(text)
    assert {"a": text} == tomllib.loads(f"a = {quoted}")
