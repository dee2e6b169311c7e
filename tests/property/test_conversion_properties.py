"""What holds for any legacy configuration: the same endpoints in the same order, and no secret in any text.

The oracle follows containerd 1.x itself: registryEndpoints and registryHosts of pkg/cri/server/image_pull.go
for the legacy side, ConfigureHosts of remotes/docker/config/hosts.go for the other.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from agent.runtime import Flavour
from agent.tree import HOSTS_TOML
from tests.support.conversions import SCHEMA_2, convert, toml
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY

Registry = dict[str, Any]
#: Scheme, host and the path of the API.
Asked = tuple[str, str, str]

CANARY = "c4naryS3cret"
FILES = {"/ca.crt": CA, "/client.crt": CLIENT_CERTIFICATE, "/client.key": CLIENT_KEY}

_hosts = st.sampled_from(
    ["docker.io", "registry-1.docker.io", "a.test", "a.test:5000", "localhost:5000", "10.0.0.7", "[fd00::2]:443"]
)
#: Those that are never configured, too; nobody refers to images by the name of Docker Hub's server.
_NAMES = ("docker.io", "a.test", "a.test:5000", "localhost:5000", "other.test", "10.0.0.7", "[fd00::2]:443")
_paths = st.sampled_from(["", "", "", "/", "/v2", "/v2/", "/v2/proxy/", "/p//q", "/p/v2"])
_schemes = st.sampled_from(["https://", "https://", "http://", "", f"https://u:{CANARY}@"])
_endpoints = st.builds("{}{}{}".format, _schemes, _hosts, _paths)
_mirrors = st.dictionaries(
    _hosts | st.just("*"),
    st.fixed_dictionaries({}, optional={"endpoint": st.lists(_endpoints, max_size=4)}),
    max_size=4,
)
_secrets = st.sampled_from([CANARY, f"{CANARY}\"'\\", f'"]\n[host."https://{CANARY}"]', f"{CANARY}\u00e9:\u2028", ""])
_encoded = st.builds(lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(), _secrets)
_auths = st.fixed_dictionaries(
    {},
    optional={
        "username": st.sampled_from(["user", ""]),
        "password": _secrets,
        "identitytoken": _secrets,
        "auth": _encoded | _secrets,
    },
)
_tls = st.fixed_dictionaries(
    {},
    optional={
        "ca_file": st.sampled_from(["/ca.crt", f"/{CANARY}"]),
        "cert_file": st.just("client.crt"),
        "key_file": st.just("/client.key"),
        "insecure_skip_verify": st.booleans(),
    },
)
_configs = st.dictionaries(_hosts, st.fixed_dictionaries({}, optional={"auth": _auths, "tls": _tls}), max_size=4)
_wrong = st.sampled_from([CANARY, 7, [CANARY], {CANARY[:4]: CANARY}, [[CANARY]], True])
_registries = st.fixed_dictionaries(
    {},
    optional={
        "mirrors": _mirrors,
        "configs": _configs,
        "auths": st.dictionaries(st.builds("https://{}/v1/".format, _hosts), _auths, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["X-A", "Authorization"]), st.lists(_secrets), max_size=2),
        "config_path": st.just(f"/{CANARY}"),
    },
)


def _is_local(host: str) -> bool:
    return host.startswith(("localhost", "127."))


def _default(host: str) -> Asked:
    if host == "docker.io":
        return "https", "registry-1.docker.io", "/v2"
    return "http" if _is_local(host) else "https", host, "/v2"


def _legacy(registry: Registry, host: str) -> list[Asked]:
    """Return what containerd asks for an image of `host` with this in its configuration."""
    mirrors = registry.get("mirrors", {})
    found = []
    for written in mirrors.get(host, mirrors.get("*", {})).get("endpoint", []):
        url = urlsplit(written if "://" in written else f"{_default(written)[0]}://{written}")
        path = posixpath.normpath(url.path).replace("//", "/") if url.path else "/v2"
        found.append((url.scheme, url.netloc.rpartition("@")[2], path))
    return found if any(authority == host for _, authority, _ in found) else [*found, _default(host)]


def _parsed(url: str, table: dict[str, Any]) -> Asked:
    parts = urlsplit(url)
    path = posixpath.normpath(parts.path).replace("//", "/") if parts.path else ""
    if not table.get("override_path") and not path.endswith("/v2"):
        path = f"{path}/v2"
    return parts.scheme, parts.netloc, path


def _configured(tables: dict[str, dict[str, Any]], host: str) -> list[Asked]:
    """Return what containerd asks for an image of `host` with these files in registry.d."""
    table = tables.get(host, tables.get("_default", {"host": {}}))
    server = _parsed(table["server"], table) if "server" in table else _default(host)
    return [*(_parsed(url, settings) for url, settings in table["host"].items()), server]


def _distinct(asked: Iterable[Asked]) -> list[Asked]:
    return list(dict.fromkeys(asked))


@given(_registries, st.sampled_from(Flavour), st.sampled_from([None, "1.7.24", "2.1.9"]))
@example({"mirrors": {"*": {"endpoint": ["https://a.test"]}, "docker.io": {}}}, Flavour.STOCK, None)
@example({"mirrors": {"a.test": {"endpoint": ["http://a.test", "b.test/x"]}}}, Flavour.STOCK, None)
@example({"mirrors": {"*": {"endpoint": ["c.test"]}}, "configs": {"a.test": {"tls": {}}}}, Flavour.STOCK, None)
def test_the_same_endpoints_are_asked_in_the_same_order(
    registry: Registry, flavour: Flavour, containerd: str | None
) -> None:
    """For every registry, named or not; a second try at the same address does not count."""
    converted = convert(toml(registry), files=FILES, flavour=flavour, containerd=containerd)
    for host in _NAMES:
        assert _distinct(_legacy(registry, host)) == _distinct(_configured(converted.tables, host)), host


def _brought(registry: Registry, authority: str) -> dict[str, Any]:
    """Return what a Deckhouse build has to find in hosts.toml for this host, as far as TLS is not plain text."""
    config = registry.get("configs", {}).get(authority, {})
    auths = [auth for url, auth in registry.get("auths", {}).items() if urlsplit(url).netloc == authority]
    return {"auth": _auth(auths[-1] if auths else config.get("auth", {})), **_files(config.get("tls", {}))}


def _auth(auth: dict[str, str]) -> dict[str, str] | None:
    if auth.get("username"):
        pair = f"{auth['username']}:{auth.get('password', '')}"
        return {"auth": base64.b64encode(pair.encode()).decode()}
    if auth.get("identitytoken"):
        return {"identitytoken": auth["identitytoken"]}
    return {"auth": auth["auth"]} if auth.get("auth", "").startswith("dXNlcj") else None


def _files(tls: dict[str, Any]) -> dict[str, Any]:
    return {
        "ca": 1 if tls.get("ca_file") == "/ca.crt" else None,
        "client": 1 if {"cert_file", "key_file"} <= set(tls) else None,
        "skip_verify": tls.get("insecure_skip_verify") or None,
    }


@given(_registries)
def test_every_endpoint_gets_what_it_got_before(registry: Registry) -> None:
    """Credentials and certificates of the host that is contacted; nothing for the registry that is appended."""
    tables = convert(toml(registry), files=FILES).tables
    for host in _NAMES:
        table = tables.get(host, tables.get("_default", {"host": {}}))
        for url, settings in table["host"].items():
            scheme, authority, _ = _parsed(url, settings)
            expected = _brought(registry, authority)
            plain = {"ca": None, "client": None, "skip_verify": True} if scheme == "http" else {}
            found = {name: settings.get(name) for name in ("auth", "ca", "client", "skip_verify")}
            found |= {name: found[name] and len(found[name]) for name in ("ca", "client")}
            assert expected | plain == found
        scheme, authority, _ = _configured(tables, host)[-1]
        is_named = any(urlsplit(url).netloc == authority for url in table["host"])
        assert is_named or not any(_brought(registry, authority).values())


@given(
    _registries, st.dictionaries(st.sampled_from(["mirrors", "configs", "auths", "headers", "x"]), _wrong), st.data()
)
def test_no_secret_is_in_any_text(registry: Registry, wrong: Registry, data: st.DataObject) -> None:
    """Not in caveats, nor in any representation, nor in certificate files; whatever is wrong with the rest."""
    flavour = data.draw(st.sampled_from(Flavour))
    deep = {"mirrors": {"a.test": data.draw(_wrong)}, "configs": {"a.test": {"auth": data.draw(_wrong)}}}
    converted = convert(toml(registry), toml(wrong), toml(deep), files=FILES, flavour=flavour)
    assert CANARY not in f"{converted} {converted.hosts} {converted.caveats}"
    assert all(caveat.isprintable() for caveat in converted.caveats)
    others = [file for directory in converted.tree.hosts for file in directory.files if file.name != HOSTS_TOML]
    assert all(CANARY.encode() not in file.content for file in others)
    assert CANARY not in f"{SCHEMA_2} {[directory.name for directory in converted.tree.hosts]}"
