"""Documents of the desired config for tests: builders for one, hypothesis strategies for any.

A builder returns plain maps and lists that a test may bend; `raw` writes them as a controller would.
Everything that the strategies draw is a document that the contract accepts.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

Fields = dict[str, Any]

_PEM = Path(__file__).parent / "pem"

#: Committed once, valid for centuries, so that golden files keep their bytes.
CA = (_PEM / "ca.pem").read_text(encoding="ascii")
OTHER_CA = (_PEM / "other-ca.pem").read_text(encoding="ascii")
CLIENT_CERTIFICATE = (_PEM / "client.pem").read_text(encoding="ascii")
CLIENT_KEY = (_PEM / "client.key").read_text(encoding="ascii")
OTHER_KEY = (_PEM / "other.key").read_text(encoding="ascii")

IN_CLUSTER_HOST = "registry.d8-system.svc:5001"
IMAGES_BASE = f"{IN_CLUSTER_HOST}/system/deckhouse"
HOST = "registry.example.com"
PLACEHOLDER = "${discovered_node_ip}"


# Builders.


def auth(username: str = "", password: str = "", encoded: str = "") -> Fields:
    """Return an auth block, all three strings written out as the Go producer does."""
    return {"username": username, "password": password, "auth": encoded}


def mirror(host: str = "mirror.example.com", scheme: str = "https", **fields: Any) -> Fields:
    """Return one mirror; `fields` are added under their names on the wire."""
    return {"host": host, "scheme": scheme, **fields}


def host(*mirrors: Fields, **fields: Any) -> Fields:
    """Return one entry of `hosts`; without mirrors it has the simplest one."""
    return {"mirrors": list(mirrors) or [mirror()], **fields}


def document(hosts: Any = None, **fields: Any) -> Fields:
    """Return a whole document; without hosts it has the simplest one; `fields` replace or add."""
    return {
        "mode": "Direct",
        "version": "opaque",
        "imagesBase": IMAGES_BASE,
        "hosts": {HOST: host()} if hosts is None else hosts,
        **fields,
    }


def with_mirror(*mirrors: Fields, **fields: Any) -> Fields:
    """Return a document whose one registry host has these mirrors and fields."""
    return document({HOST: host(*mirrors, **fields)})


def raw(fields: Any) -> bytes:
    """Write a document as YAML, without anchors, every string safe."""
    text: str = yaml.dump(fields, Dumper=_Plain, sort_keys=False)
    return text.encode()


class _Plain(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


# The samples of the contract, section 1, word for word: what the producer writes and its digest.

UNMANAGED = b"""\
hosts:
  registry.deckhouse.io:
    mirrors:
    - auth: {auth: "", password: "p<&>1", username: license-token}
      host: registry.deckhouse.io
      scheme: https
imagesBase: registry.deckhouse.io/deckhouse/ee
mode: Unmanaged
version: 559d0af3afd6691b047fcf8a1b78a20080b4170e006df2308e69b2dea7de21dc
"""

_DIRECT_HOST = b"""\
  registry.d8-system.svc:5001:
    mirrors:
    - auth: {auth: "", password: s3cret, username: robot}
      ca: |
        -----BEGIN CERTIFICATE-----
        MIIB
        -----END CERTIFICATE-----
      host: nexus.example.com:8443
      rewrites:
      - {from: ^system/deckhouse, to: repo/deckhouse/ee}
      scheme: https
"""

DIRECT = (
    b"hosts:\n"
    + _DIRECT_HOST
    + b"""\
imagesBase: registry.d8-system.svc:5001/system/deckhouse
mode: Direct
version: f8c739a2abcb963f67161779e5b67e792604d008ea577da844efa5eefc32d8b1
"""
)

TRANSITION = (
    b"hosts:\n"
    + _DIRECT_HOST
    + b"""\
  registry.deckhouse.io:
    mirrors:
    - auth: {auth: "", password: "p<&>1", username: license-token}
      host: registry.deckhouse.io
      scheme: https
imagesBase: registry.d8-system.svc:5001/system/deckhouse
mode: Direct
version: 5a75a485304db16dc24b2724bd60bea59576fee38334536ba9f034d5d96b27ff
"""
)


# Strategies.

#: Any text that a document may hold in a line: control characters and lone surrogates are refused.
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
nonempty_texts = texts.filter(bool)
visible_texts = nonempty_texts.filter(lambda text: bool(text.strip()))
usernames = nonempty_texts.filter(lambda text: ":" not in text)
#: Text that a program could take for syntax: TOML, YAML, shell, URL, template.
hostile_texts = st.sampled_from(
    [
        '"',
        "'",
        "\\",
        '"]\\n[host."https://evil.example.com"]',
        '" #',
        "]]",
        "{{ version }}",
        "{% raw %}",
        "$(id)",
        "`id`",
        "\u2028",
        "\ufeff",
        "\U0001f511",
        "</script>&",
        "- a: *b",
        "%TAG !",
        "null",
        "1e3",
        "=",
    ]
)
passwords = texts | hostile_texts

ports = st.integers(1, 65535) | st.just(5001)
_labels = st.text("abcxyzABC019", min_size=1, max_size=4)
dns_names = _labels | st.builds("{}{}{}".format, _labels, st.sampled_from([".", "-", "_", "--"]), _labels)
# Few addresses, so that equal ones meet; hypothesis' own are slow to draw.
_ipv4 = st.sampled_from(["10.0.0.7", "10.0.0.8", "127.0.0.1", "255.255.255.255"])
ipv6 = st.sampled_from(["fd00::7", "::1", "2001:db8::8a2e:370:7334", "fd00::1:5001", "::ffff:10.0.0.7"])
_portless = dns_names | _ipv4
_with_port = st.builds("{}:{}".format, _portless | ipv6.map("[{}]".format), ports)
registry_hosts = _portless | _with_port | ipv6
mirror_hosts = registry_hosts | st.builds("{}:{}".format, st.just(PLACEHOLDER), ports)
host_keys = registry_hosts | st.just("_default")

auths = st.one_of(
    st.just(auth()),
    st.builds(auth, usernames, passwords),
    st.builds(
        lambda username, password: auth(encoded=base64.b64encode(f"{username}:{password}".encode()).decode()),
        usernames,
        passwords,
    ),
)

rewrites = st.sampled_from(
    [
        {"from": "^system/deckhouse", "to": "repo/deckhouse/ee"},
        {"from": "^test/(.+)", "to": "other/${1}/svc"},
        {"from": "(?P<team>[a-z]+)/(.*)", "to": "$team/$2$$"},
        {"from": r"^\Qa.b\E$", "to": ""},
        {"from": "", "to": "x"},
        {"from": '"]\\\\', "to": '"#'},
        {"from": "\U0001f511+", "to": "\U0001f511"},
    ]
)
noop_rewrites = st.sampled_from([{"from": "^(.*)$", "to": "$1"}, {"from": "^a/b", "to": "a/b"}])

_header_names = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
_header_values = nonempty_texts | st.lists(nonempty_texts, min_size=1, max_size=2)
headers = st.dictionaries(_header_names, _header_values, max_size=2).filter(
    lambda found: len({name.lower() for name in found}) == len(found)
)
durations = st.sampled_from(["200ms", "5s", "1m30s", "1.5h", "250us", "7µs", "9ns"])
capabilities = st.lists(st.sampled_from(["pull", "resolve", "push", "referrers"]), min_size=1, unique=True)
versions = visible_texts | st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def mirrors(draw: st.DrawFn, *, rewriting: st.SearchStrategy[Fields] = rewrites) -> Fields:
    """Draw one mirror with any accepted fields."""
    scheme = draw(st.sampled_from(["http", "https"]))
    optional: Fields = {
        "ca": st.sampled_from([CA, OTHER_CA, CA + OTHER_CA, ""]),
        "auth": auths,
        "rewrites": st.lists(rewriting, max_size=3),
        "capabilities": capabilities,
        "skipVerify": st.booleans(),
        "overridePath": st.booleans(),
        "headers": headers,
        "dialTimeout": durations,
    }
    if scheme == "https":
        optional["client"] = st.just({"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY})
    fields: Fields = draw(st.fixed_dictionaries({}, optional=optional))
    return mirror(draw(mirror_hosts), scheme, **fields)


@st.composite
def registry_entries(draw: st.DrawFn, *, rewriting: st.SearchStrategy[Fields] = rewrites) -> Fields:
    """Draw one entry of `hosts`, its mirrors distinct."""
    found = draw(
        st.lists(
            mirrors(rewriting=rewriting),
            min_size=1,
            max_size=3,
            unique_by=lambda one: (one["scheme"], one["host"].strip("[]")),
        )
    )
    ends: list[Fields] = [{}, {"fallback": True}, {"fallback": False}, {"server": "https://last.example.com:5000/v2/x"}]
    return host(*found, **draw(st.sampled_from(ends)))


@st.composite
def documents(draw: st.DrawFn, *, rewriting: st.SearchStrategy[Fields] = rewrites) -> Fields:
    """Draw a document that the contract accepts; `rewriting` draws its rewrite rules."""
    hosts = st.dictionaries(host_keys, registry_entries(rewriting=rewriting), min_size=1, max_size=2)
    endpoints = st.builds("{}:{}".format, _ipv4 | ipv6.map("[{}]".format) | st.just(PLACEHOLDER), ports)
    fields: Fields = draw(st.fixed_dictionaries({}, optional={"proxyEndpoints": st.lists(endpoints, max_size=2)}))
    return document(
        draw(hosts),
        mode=draw(st.sampled_from(["Unmanaged", "Direct", "Proxy", "Local", "Managed"])),
        version=draw(versions),
        imagesBase=draw(visible_texts),
        **fields,
    )
