"""Which documents are refused, each with the exact path of its bad field, and what becomes of the others."""

from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest

from agent.errors import ConfigInvalid
from agent.model import BasicAuth, Capability, ClientCertificate, Header, Mirror, Rewrite, Scheme, Secret
from agent.parse.document import MAX_DOCUMENT_BYTES, Parsed, parse
from agent.parse.rules import MAX_HOSTS, MAX_VERSION_LENGTH
from tests.support import documents
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY, OTHER_KEY, document, host, mirror, with_mirror

_HOST_PATH = 'hosts["registry.example.com"]'
_MIRROR_PATH = f"{_HOST_PATH}.mirrors[0]"
_CLIENT = {"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}
_INJECTIONS = {
    "newline": "x\ny",
    "carriage-return": "x\ry",
    "tab": "x\ty",
    "nul": "x\0y",
    "escape": "x\x1b[2J",
    "del": "x\x7f",
    "c1": "x\x85y",
    "toml": 'x"\n[host."https://evil.example.com"]\n',
    "shell": "x\n$(id)\n",
}


def _refused(fields: Any) -> list[str]:
    """Return the paths of all problems, each once, in order."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(documents.raw(fields))
    return list(dict.fromkeys(problem.path for problem in caught.value.problems))


def _rules(fields: Any) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse(documents.raw(fields))
    return " | ".join(problem.rule for problem in caught.value.problems)


def _accepted(fields: Any) -> Parsed:
    return parse(documents.raw(fields))


def _without(fields: documents.Fields, name: str) -> documents.Fields:
    return {key: value for key, value in fields.items() if key != name}


def _only_mirror(fields: documents.Fields) -> Mirror:
    (found,) = _accepted(fields).config.hosts
    (only,) = found.mirrors
    return only


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_TOP_LEVEL = {
    "mode-empty": (document(mode=""), "mode"),
    "mode-blank": (document(mode="  "), "mode"),
    "mode-missing": (_without(document(), "mode"), "mode"),
    "mode-number": (document(mode=1), "mode"),
    "mode-null": (document(mode=None), "mode"),
    "version-empty": (document(version=""), "version"),
    "version-missing": (_without(document(), "version"), "version"),
    "version-too-long": (document(version="a" * (MAX_VERSION_LENGTH + 1)), "version"),
    "version-list": (document(version=["a"]), "version"),
    "images-base-empty": (document(imagesBase=""), "imagesBase"),
    "images-base-missing": (_without(document(), "imagesBase"), "imagesBase"),
    "hosts-missing": (_without(document(), "hosts"), "hosts"),
    "hosts-empty": (document({}), "hosts"),
    "hosts-null": ({**document(), "hosts": None}, "hosts"),
    "hosts-list": (document([host()]), "hosts"),
    "proxy-endpoints-map": (document(proxyEndpoints={}), "proxyEndpoints"),
    "proxy-endpoint-empty": (document(proxyEndpoints=["10.0.0.1:5001", ""]), "proxyEndpoints[1]"),
    "proxy-endpoint-number": (document(proxyEndpoints=[5001]), "proxyEndpoints[0]"),
    "proxy-endpoint-dns-name": (document(proxyEndpoints=["registry.example.com:5001"]), "proxyEndpoints[0]"),
    "proxy-endpoint-without-port": (document(proxyEndpoints=["10.0.0.1"]), "proxyEndpoints[0]"),
    "proxy-endpoint-near-miss": (document(proxyEndpoints=["${discovered_node_ipX}:1"]), "proxyEndpoints[0]"),
}

_HOSTS = {
    "key-empty": (document({"": host()}), 'hosts[""]'),
    "key-blank": (document({" ": host()}), 'hosts[" "]'),
    "key-traversal": (document({"..": host()}), 'hosts[".."]'),
    "key-deep-traversal": (document({"../../etc/cron.d": host()}), 'hosts["../../etc/cron.d"]'),
    "key-slash": (document({"a/b": host()}), 'hosts["a/b"]'),
    "key-port-0": (document({"a:0": host()}), 'hosts["a:0"]'),
    "key-port-65536": (document({"a:65536": host()}), 'hosts["a:65536"]'),
    "key-port-word": (document({"a:abc": host()}), 'hosts["a:abc"]'),
    "key-shell": (document({"$(id)": host()}), 'hosts["$(id)"]'),
    "key-newline": (document({"a\nb": host()}), 'hosts["a?b"]'),
    "key-quote": (document({'a"]': host()}), 'hosts["a?]"]'),
    "key-placeholder": (document({"${discovered_node_ip}:5001": host()}), 'hosts["${discovered_node_ip}:5001"]'),
    "key-with-credentials": (document({"robot:pw@a": host()}), 'hosts["***@a"]'),
    "not-a-map": (document({documents.HOST: "x"}), _HOST_PATH),
    "null": (document({documents.HOST: None}), _HOST_PATH),
    "mirrors-missing": (document({documents.HOST: {}}), f"{_HOST_PATH}.mirrors"),
    "mirrors-empty": (document({documents.HOST: {"mirrors": []}}), f"{_HOST_PATH}.mirrors"),
    "mirrors-null": (document({documents.HOST: {"mirrors": None}}), f"{_HOST_PATH}.mirrors"),
    "mirror-text": (document({documents.HOST: {"mirrors": ["x"]}}), _MIRROR_PATH),
    "mirrors-duplicate": (with_mirror(mirror(), mirror(ca=CA)), f"{_HOST_PATH}.mirrors[1]"),
    "mirrors-third-is-first": (with_mirror(mirror("a"), mirror("b"), mirror("a")), f"{_HOST_PATH}.mirrors[2]"),
    "server-not-a-url": (with_mirror(server="last.example.com"), f"{_HOST_PATH}.server"),
    "server-with-credentials": (with_mirror(server="https://u:p@last.example.com"), f"{_HOST_PATH}.server"),
    "server-empty": (with_mirror(server=""), f"{_HOST_PATH}.server"),
    "server-and-no-fallback": (with_mirror(server="https://a", fallback=False), f"{_HOST_PATH}.fallback"),
    "fallback-text": (with_mirror(fallback="false"), f"{_HOST_PATH}.fallback"),
}

_MIRRORS: dict[str, tuple[documents.Fields, str]] = {
    "host-missing": ({"scheme": "https"}, ".host"),
    "host-empty": (mirror(""), ".host"),
    "host-path": (mirror("a/b"), ".host"),
    "host-port-0": (mirror("a:0"), ".host"),
    "host-bare-placeholder": (mirror("${discovered_node_ip}"), ".host"),
    "host-number": ({"host": 5001, "scheme": "https"}, ".host"),
    "host-ipv6-brackets-without-port": (mirror("[fd00::1]"), ".host"),
    "scheme-missing": ({"host": "a"}, ".scheme"),
    "scheme-empty": (mirror(scheme=""), ".scheme"),
    "scheme-upper-case": (mirror(scheme="HTTPS"), ".scheme"),
    "scheme-mixed-case": (mirror(scheme="Http"), ".scheme"),
    "scheme-other": (mirror(scheme="oci"), ".scheme"),
    "scheme-with-slashes": (mirror(scheme="https://"), ".scheme"),
    "ca-garbage": (mirror(ca="garbage"), ".ca"),
    "ca-number": (mirror(ca=1), ".ca"),
    "auth-text": (mirror(auth="dTpw"), ".auth"),
    "auth-number-as-password": (mirror(auth={"username": "u", "password": 1234}), ".auth.password"),
    "auth-password-without-username": (mirror(auth=documents.auth(password="pw")), ".auth.password"),
    "auth-colon-in-username": (mirror(auth=documents.auth("u:x", "pw")), ".auth.username"),
    "auth-not-base64": (mirror(auth=documents.auth(encoded="u:p")), ".auth.auth"),
    "auth-truncated-base64": (mirror(auth=documents.auth(encoded="dTpw" + "d")), ".auth.auth"),
    "auth-base64-with-too-much-padding": (mirror(auth=documents.auth(encoded="dTpw=")), ".auth.auth"),
    "auth-base64-with-too-little-padding": (mirror(auth=documents.auth(encoded="dTpwMQ=")), ".auth.auth"),
    "auth-base64-of-no-pair": (mirror(auth=documents.auth(encoded=_encode("token"))), ".auth.auth"),
    "auth-base64-of-no-user": (mirror(auth=documents.auth(encoded=_encode(":pw"))), ".auth.auth"),
    "auth-base64-of-not-utf8": (mirror(auth=documents.auth(encoded="/zr/")), ".auth.auth"),
    "auth-base64-of-newline": (mirror(auth=documents.auth(encoded=_encode("u:p\n"))), ".auth.auth"),
    "auth-base64-twice": (mirror(auth=documents.auth(encoded=_encode("dTpw"))), ".auth.auth"),
    "rewrites-map": (mirror(rewrites={"a": "b"}), ".rewrites"),
    "rewrite-without-to": (mirror(rewrites=[{"from": "a"}]), ".rewrites[0].to"),
    "rewrite-without-from": (mirror(rewrites=[{"to": "a"}]), ".rewrites[0].from"),
    "rewrite-look-around": (mirror(rewrites=[{"from": "(?=a)", "to": ""}]), ".rewrites[0].from"),
    "rewrite-bad-reference": (
        mirror(rewrites=[{"from": "a", "to": "b"}, {"from": "a", "to": "$1"}]),
        ".rewrites[1].to",
    ),
    "capabilities-empty": (mirror(capabilities=[]), ".capabilities"),
    "capabilities-text": (mirror(capabilities="pull"), ".capabilities"),
    "capabilities-unknown": (mirror(capabilities=["pull", "delete"]), ".capabilities"),
    "capabilities-upper-case": (mirror(capabilities=["PULL"]), ".capabilities"),
    "capabilities-twice": (mirror(capabilities=["pull", "pull"]), ".capabilities"),
    "capabilities-bool": (mirror(capabilities=[True]), ".capabilities[0]"),
    "skip-verify-text": (mirror(skipVerify="true"), ".skipVerify"),
    "skip-verify-number": (mirror(skipVerify=1), ".skipVerify"),
    "skip-verify-null": (mirror(skipVerify=None), ".skipVerify"),
    "override-path-text": (mirror(overridePath="x"), ".overridePath"),
    "client-on-http": (mirror(scheme="http", client=_CLIENT), ".client"),
    "client-with-wrong-key": (mirror(client=_CLIENT | {"key": OTHER_KEY}), ".client"),
    "client-with-garbage": (mirror(client={"cert": "x", "key": "y"}), ".client"),
    "client-swapped": (mirror(client={"cert": CLIENT_KEY, "key": CLIENT_CERTIFICATE}), ".client"),
    "client-without-key": (mirror(client={"cert": CLIENT_CERTIFICATE}), ".client.key"),
    "client-text": (mirror(client=CLIENT_CERTIFICATE), ".client"),
    "headers-list": (mirror(headers=["X-A"]), ".headers"),
    "header-empty": (mirror(headers={"X-A": ""}), '.headers["X-A"]'),
    "header-empty-list": (mirror(headers={"X-A": []}), '.headers["X-A"]'),
    "header-empty-among-others": (mirror(headers={"X-A": ["a", ""]}), '.headers["X-A"]'),
    "header-name-with-space": (mirror(headers={"X A": "v"}), '.headers["***"]'),
    "header-name-empty": (mirror(headers={"": "v"}), '.headers["***"]'),
    "header-name-with-colon": (mirror(headers={"X:": "v"}), '.headers["***"]'),
    "header-name-with-newline": (mirror(headers={"X\nY": "v"}), '.headers["***"]'),
    "header-name-not-ascii": (mirror(headers={"Имя": "v"}), '.headers["***"]'),
    "header-value-with-newline": (mirror(headers={"X": "v\nEvil: 1"}), '.headers["X"]'),
    "header-value-number": (mirror(headers={"X": 1}), '.headers["X"]'),
    "authorization-beside-auth": (
        mirror(auth=documents.auth("u", "p"), headers={"Authorization": "Bearer t"}),
        '.headers["Authorization"]',
    ),
    "authorization-in-lower-case-beside-auth": (
        mirror(auth=documents.auth(encoded="dTpw"), headers={"authorization": "Bearer t"}),
        '.headers["authorization"]',
    ),
    "dial-timeout-without-unit": (mirror(dialTimeout="5"), ".dialTimeout"),
    "dial-timeout-number": (mirror(dialTimeout=5), ".dialTimeout"),
    "dial-timeout-zero": (mirror(dialTimeout="0s"), ".dialTimeout"),
    "dial-timeout-negative": (mirror(dialTimeout="-1s"), ".dialTimeout"),
    "dial-timeout-empty": (mirror(dialTimeout=""), ".dialTimeout"),
    "dial-timeout-spaced": (mirror(dialTimeout="1 s"), ".dialTimeout"),
    "dial-timeout-days": (mirror(dialTimeout="1d"), ".dialTimeout"),
    "dial-timeout-newline": (mirror(dialTimeout="1s\n"), ".dialTimeout"),
    # Go's time.ParseDuration refuses these, and containerd then drops the whole file.
    "dial-timeout-beyond-int64": (mirror(dialTimeout="9999999h"), ".dialTimeout"),
    "dial-timeout-digits-of-another-script": (mirror(dialTimeout="1\u0663s"), ".dialTimeout"),
}


def _table(cases: dict[str, tuple[Any, str]]) -> list[object]:
    return [pytest.param(fields, path, id=name) for name, (fields, path) in cases.items()]


@pytest.mark.parametrize(("fields", "path"), _table(_TOP_LEVEL))
def test_a_wrong_top_level_field_is_refused_by_its_path(fields: documents.Fields, path: str) -> None:
    """mode, version, imagesBase, proxyEndpoints, agent and hosts as such."""
    assert [path] == _refused(fields)


@pytest.mark.parametrize(("fields", "path"), _table(_HOSTS))
def test_a_wrong_host_is_refused_by_its_path(fields: documents.Fields, path: str) -> None:
    """Host keys and what belongs to a host."""
    assert [path] == _refused(fields)


@pytest.mark.parametrize(("fields", "path"), _table(_MIRRORS))
def test_a_wrong_mirror_is_refused_by_its_path(fields: documents.Fields, path: str) -> None:
    """Every field of a mirror, the contract's and our extensions."""
    assert [f"{_MIRROR_PATH}{path}"] == _refused(with_mirror(fields))


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in _INJECTIONS.items()])
@pytest.mark.parametrize(
    ("path", "build"),
    [
        pytest.param(path, build, id=path)
        for path, build in {
            "mode": lambda text: document(mode=text),
            "version": lambda text: document(version=text),
            "imagesBase": lambda text: document(imagesBase=text),
            "proxyEndpoints[0]": lambda text: document(proxyEndpoints=[text]),
            f"{_HOST_PATH}.server": lambda text: with_mirror(server=text),
            f"{_MIRROR_PATH}.host": lambda text: with_mirror(mirror(text)),
            f"{_MIRROR_PATH}.scheme": lambda text: with_mirror(mirror(scheme=text)),
            f"{_MIRROR_PATH}.auth.username": lambda text: with_mirror(mirror(auth=documents.auth(text, "p"))),
            f"{_MIRROR_PATH}.auth.password": lambda text: with_mirror(mirror(auth=documents.auth("u", text))),
            f"{_MIRROR_PATH}.auth.auth": lambda text: with_mirror(mirror(auth=documents.auth(encoded=text))),
            f"{_MIRROR_PATH}.rewrites[0].to": lambda text: with_mirror(mirror(rewrites=[{"from": "a", "to": text}])),
            f"{_MIRROR_PATH}.capabilities[0]": lambda text: with_mirror(mirror(capabilities=[text])),
            f'{_MIRROR_PATH}.headers["X"]': lambda text: with_mirror(mirror(headers={"X": text})),
            f"{_MIRROR_PATH}.dialTimeout": lambda text: with_mirror(mirror(dialTimeout=text)),
        }.items()
    ],
)
def test_no_field_can_carry_a_line_break_or_control_character(path: str, build: Any, text: str) -> None:
    """Nothing can end a line, a quoted string or a terminal's patience in any file that is written."""
    assert path in _refused(build(text))


def test_a_pattern_with_a_line_break_is_refused() -> None:
    """A regexp too is one line, whatever Go would make of it."""
    assert [f"{_MIRROR_PATH}.rewrites[0].from"] == _refused(with_mirror(mirror(rewrites=[{"from": "a\nb", "to": ""}])))


def test_all_problems_are_reported_at_once() -> None:
    """An operator corrects a document once, not once per mistake."""
    fields = document({"a": host(mirror("", "ftp")), "b": {"mirrors": []}}, mode="", proxyEndpoints=["x"])
    expected = ["mode", "proxyEndpoints[0]", 'hosts["a"].mirrors[0].host', 'hosts["a"].mirrors[0].scheme']
    assert [*expected, 'hosts["b"].mirrors'] == _refused(fields)


def test_a_long_list_of_problems_is_counted_not_spelled_out() -> None:
    """The message goes into a Node condition, which has an end."""
    fields = document(proxyEndpoints=["x"] * 1000)
    with pytest.raises(ConfigInvalid, match="and 980 more") as caught:
        parse(documents.raw(fields))
    assert len(str(caught.value)) < 5000
    assert 1000 == len(caught.value.problems)


@pytest.mark.parametrize("name", ["hosts", "headers", "str", "mirrors"])
def test_the_path_is_right_for_a_host_named_like_a_field(name: str) -> None:
    """The path is what an operator pastes into jq; every legal host name must come out right."""
    fields = document({name: host(mirror(scheme="ftp"))})
    assert [f'hosts["{name}"].mirrors[0].scheme'] == _refused(fields)


@pytest.mark.parametrize("name", ["headers", "hosts", "str"])
def test_the_path_is_right_for_a_header_named_like_a_field(name: str) -> None:
    """As with hosts: a header may have any token for a name."""
    fields = with_mirror(mirror(headers={name: ["a", 1]}))
    assert f'{_MIRROR_PATH}.headers["{name}"][1]' in _refused(fields)


@pytest.mark.parametrize("size", [MAX_DOCUMENT_BYTES + 1, 3 * 1024 * 1024])
def test_a_document_over_one_mebibyte_is_refused_unread(size: int) -> None:
    """The limit is on bytes and comes before YAML sees any of them."""
    raw = documents.raw(document())
    with pytest.raises(ConfigInvalid, match=f"has {size} bytes, more than the limit of {MAX_DOCUMENT_BYTES}"):
        parse(raw + b"#" * (size - len(raw)))


def test_a_document_of_exactly_one_mebibyte_is_accepted() -> None:
    """The limit itself is inside."""
    raw = documents.raw(document())
    assert "opaque" == parse(raw + b"#" * (MAX_DOCUMENT_BYTES - len(raw))).config.version


def test_more_than_a_thousand_hosts_are_refused() -> None:
    """The rule says how many there are."""
    fields = document({f"r{number}.example.com": host() for number in range(MAX_HOSTS + 1)})
    assert "must have at most 1000 entries, has 1001" == _rules(fields)
    assert ["hosts"] == _refused(fields)


def test_a_thousand_hosts_are_accepted_in_name_order() -> None:
    """The limit itself is inside; hosts come out sorted, so that two passes write alike."""
    names = [f"r{number}.example.com" for number in range(MAX_HOSTS)]
    config = _accepted(document({name: host(mirror(ca=CA)) for name in reversed(names)})).config
    assert sorted(names) == [found.name for found in config.hosts]


@pytest.mark.parametrize(
    ("one", "other"),
    [("fd00::1", "[fd00::1]"), ("[fd00::1]", "fd00::1"), ("[fd00::1]:5001", "[fd00::1]:5001")],
)
def test_an_ipv6_mirror_spelled_twice_is_a_duplicate(one: str, other: str) -> None:
    """Both spellings become one URL, and a TOML file with one table twice is none."""
    fields = with_mirror(mirror(one), mirror(other))
    assert f"{_HOST_PATH}.mirrors[1]" in _refused(fields)
    assert "is a duplicate" in _rules(fields)


@pytest.mark.parametrize(
    "mirrors",
    [
        pytest.param([mirror("a"), mirror("a", "http")], id="schemes-differ"),
        pytest.param([mirror("a"), mirror("a:443")], id="ports-differ"),
        pytest.param([mirror("fd00::1"), mirror("[fd00::1]:443")], id="ipv6-ports-differ"),
    ],
)
def test_mirrors_that_differ_in_scheme_or_port_stand_side_by_side(mirrors: list[documents.Fields]) -> None:
    """The unique key is host and scheme, as written."""
    (found,) = _accepted(with_mirror(*mirrors)).config.hosts
    assert [one["host"] for one in mirrors] == [one.host for one in found.mirrors]


def test_the_same_mirror_may_serve_two_hosts() -> None:
    """Duplicates are counted per host."""
    config = _accepted(document({"a": host(), "b": host()})).config
    assert ["a", "b"] == [found.name for found in config.hosts]


@pytest.mark.parametrize("mode", ["Unmanaged", "Direct", "Proxy", "Local", "Managed", "SomethingNew"])
def test_any_mode_is_accepted_as_it_is(mode: str) -> None:
    """The producer adds modes; nodes treat them alike."""
    assert mode == _accepted(document(mode=mode)).config.mode


def test_username_and_password_become_basic_credentials() -> None:
    """base64 of user:password, UTF-8, and they win over `auth` beside them."""
    auth = _only_mirror(with_mirror(mirror(auth=documents.auth("robot", "pä:ss<&>", "dTpw")))).auth
    assert BasicAuth(username="robot", encoded=Secret(_encode("robot:pä:ss<&>"))) == auth


def test_a_username_alone_is_enough() -> None:
    """The password may be empty: some registries take tokens as user names."""
    auth = _only_mirror(with_mirror(mirror(auth=documents.auth("token")))).auth
    assert BasicAuth(username="token", encoded=Secret(_encode("token:"))) == auth


@pytest.mark.parametrize("decoded", ["u:p", "u:", "user:p:with:colons", "ü:🔑"])
def test_encoded_credentials_are_taken_verbatim(decoded: str) -> None:
    """`auth` goes through as it is; the user name is read from it for display."""
    encoded = _encode(decoded)
    auth = _only_mirror(with_mirror(mirror(auth=documents.auth(encoded=encoded)))).auth
    assert BasicAuth(username=decoded.partition(":")[0], encoded=Secret(encoded)) == auth


@pytest.mark.parametrize("auth", [None, {}, documents.auth()])
def test_empty_credentials_are_none(auth: documents.Fields | None) -> None:
    """The Go producer always writes the block, empty strings and all."""
    assert _only_mirror(with_mirror(mirror(auth=auth))).auth is None


def test_a_mirror_of_two_fields_has_the_contracts_defaults() -> None:
    """pull and resolve, verified TLS, nothing else."""
    expected = Mirror(
        host="mirror.example.com",
        scheme=Scheme.HTTPS,
        capabilities=(Capability.PULL, Capability.RESOLVE),
        skip_verify=False,
    )
    assert expected == _only_mirror(with_mirror(mirror(ca="", rewrites=[])))


def test_extensions_reach_the_model() -> None:
    """Each of our optional fields, once."""
    fields = mirror(
        ca=CA,
        rewrites=[{"from": "a", "to": "b"}],
        capabilities=["push", "pull"],
        skipVerify=True,
        overridePath=True,
        client=_CLIENT,
        headers={"X-One": "1", "X-Many": ["1", "2"]},
        dialTimeout="1.5s",
    )
    expected = Mirror(
        host="mirror.example.com",
        scheme=Scheme.HTTPS,
        ca=CA,
        rewrites=(Rewrite(pattern="a", replacement="b"),),
        capabilities=(Capability.PUSH, Capability.PULL),
        skip_verify=True,
        override_path=True,
        client=ClientCertificate(certificate=CLIENT_CERTIFICATE, key=Secret(CLIENT_KEY)),
        headers=(
            Header(name="X-One", values=(Secret("1"),)),
            Header(name="X-Many", values=(Secret("1"), Secret("2"))),
        ),
        dial_timeout="1.5s",
    )
    assert expected == _only_mirror(with_mirror(fields))


@pytest.mark.parametrize("name", ["authorization", "AUTHORIZATION", "Authorization"])
def test_the_authorization_header_is_written_the_one_way_that_works(name: str) -> None:
    """containerd sends a lower-case key as a second header line."""
    (header,) = _only_mirror(with_mirror(mirror(headers={name: "Bearer t"}))).headers
    assert Header(name="Authorization", values=(Secret("Bearer t"),)) == header


@pytest.mark.parametrize("names", [("X-A", "x-a"), ("Authorization", "authorization")])
def test_a_header_twice_in_different_case_is_refused(names: tuple[str, str]) -> None:
    """Header names ignore case, so the two would be one."""
    paths = [f'{_MIRROR_PATH}.headers["{name}"]' for name in names]
    assert paths == _refused(with_mirror(mirror(headers=dict.fromkeys(names, "v"))))


def test_authorization_beside_an_empty_auth_block_is_accepted() -> None:
    """The Go producer writes the block even when there is nothing in it."""
    fields = mirror(auth=documents.auth(), headers={"Authorization": "Bearer t"})
    assert 1 == len(_only_mirror(with_mirror(fields)).headers)


@pytest.mark.parametrize(
    ("end", "server", "fallback"),
    [
        ({}, None, True),
        ({"server": "https://last.example.com/v2"}, "https://last.example.com/v2", True),
        ({"server": "https://last.example.com", "fallback": True}, "https://last.example.com", True),
        ({"fallback": False}, None, False),
    ],
)
def test_the_end_of_the_line_is_server_or_fallback(
    end: documents.Fields, server: str | None, *, fallback: bool
) -> None:
    """Extensions of a host: where containerd goes when every mirror has failed."""
    (found,) = _accepted(with_mirror(**end)).config.hosts
    assert (server, fallback) == (found.server, found.fallback)


def test_an_agent_block_says_that_another_agent_owns_the_node() -> None:
    """Presence is what counts; nothing of the block is kept."""
    layout = '{"backends":[{"password":"c4nary"}]}'
    parsed = _accepted(document(agent={"endpoint": "127.0.0.1:5001", "layout": layout, "new": {"a": 1}}))
    assert parsed.config.other_agent is True
    assert "c4nary" not in repr(parsed)


def test_without_an_agent_block_the_node_is_ours() -> None:
    """The common case."""
    assert _accepted(document()).config.other_agent is False


def test_proxy_endpoints_are_kept_in_order() -> None:
    """The list is the producer's; nothing is sorted or resolved here."""
    endpoints = ["10.0.0.2:5001", "10.0.0.1:5001", "${discovered_node_ip}:5001", "[fd00::1]:5001"]
    assert tuple(endpoints) == _accepted(document(proxyEndpoints=endpoints)).config.proxy_endpoints


def test_unknown_fields_are_accepted_and_named_by_path() -> None:
    """Newer controllers add fields; the value of one is never shown."""
    fields = document(
        {"a": host(mirror(auth={"token": "c4nary"}, rewrites=[{"from": "", "to": "", "flags": "c4nary"}]), x={})},
        futureField={"password": "c4nary"},
    )
    messages = [notice.message for notice in _accepted(fields).notices if notice.code == "UnknownField"]
    expected = [
        "futureField",
        'hosts["a"].x',
        'hosts["a"].mirrors[0].auth.token',
        'hosts["a"].mirrors[0].rewrites[0].flags',
    ]
    assert sorted(expected) == sorted(message.partition(" ")[0] for message in messages)
    assert "c4nary" not in " ".join(messages)


def test_the_name_of_an_unknown_field_is_made_fit_for_a_log() -> None:
    """What does not look like a name may be a secret behind a missing space: {password:c4nary}."""
    parsed = _accepted(document(**{"https://robot:c4nary@r": 1, "a\nb": 1, "c" * 500: 1, "password:c4nary": 1}))
    names = [notice.message.partition(" ")[0] for notice in parsed.notices if notice.code == "UnknownField"]
    assert ["***", "***", "***", "***"] == names


@pytest.mark.parametrize("agent", [{"dropInFile": "/x"}, {"endpoint": ""}, "x", {}, False])
def test_an_agent_block_means_stand_down_whatever_else_is_wrong(agent: Any) -> None:
    """A refusal would bring back the last good config, over what the other agent has written."""
    parsed = _accepted({**document(agent=agent), "hosts": {}, "version": 7})
    assert (True, ()) == (parsed.config.other_agent, parsed.config.hosts)
    assert "ConfigInvalid" in {notice.code for notice in parsed.notices}


def test_null_in_auth_is_the_empty_string_as_in_go() -> None:
    """Other writers than the Go producer may leave a credential out this way."""
    parsed = _accepted(document({"r.example.com": host(mirror(auth={"username": None, "password": None}))}))
    assert parsed.config.hosts[0].mirrors[0].auth is None


def test_known_fields_in_another_case_are_unknown() -> None:
    """Names on the wire are exact, as in Go's strict decoding of the producer's own output."""
    assert ["mode"] == _refused(_without(document(Mode="Direct"), "mode"))


@pytest.mark.parametrize("top", [[], "text", None, True, [document()]])
def test_a_document_that_is_no_map_is_refused(top: Any) -> None:
    """The root has no path."""
    assert [""] == _refused(top)
    assert "must be a map" in _rules(top)


def test_a_number_where_text_is_meant_asks_for_quotes() -> None:
    """YAML reads an unquoted 1234 as a number; the reader is told what to do."""
    assert "in quotes" in _rules(document(version=1234))


@pytest.mark.parametrize(
    "fields",
    [document(version=["c4nary"]), with_mirror(mirror(ca="c4nary")), with_mirror(mirror(auth={"password": "c4nary"}))],
    ids=["shape", "certificate", "rule"],
)
def test_a_refusal_quotes_and_chains_nothing(fields: documents.Fields) -> None:
    """pydantic's and OpenSSL's errors hold the input; with a traceback it would reach the log."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(documents.raw(fields))
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert "c4nary" not in "".join(traceback.format_exception(caught.value))
