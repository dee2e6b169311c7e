"""Every documented legacy shape, and what it becomes."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agent.runtime import Flavour
from agent.tree import HOST_DIRECTORY_MODE, PUBLIC_MODE, SECRET_MODE
from tests.support.conversions import PATH, SCHEMA_2, Converted, convert, toml
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY, OTHER_KEY

PULL = {"capabilities": ["pull", "resolve"]}
REGISTRY_D = "/etc/containerd/registry.d"
U_P = base64.b64encode(b"u:p").decode()


def _registry(registry: dict[str, Any], **where: Any) -> Converted:
    return convert(toml(registry), **where)


def _mirror(*endpoints: str, name: str = "r.test", **more: Any) -> dict[str, Any]:
    return {"mirrors": {name: {"endpoint": list(endpoints)}}, **more}


def _config(host: str, **tables: Any) -> dict[str, Any]:
    return {"configs": {host: tables}}


def _one(registry: dict[str, Any], **where: Any) -> dict[str, Any]:
    """Return the content of the only hosts.toml, when there is nothing to be said about it."""
    converted = _registry(registry, **where)
    assert () == converted.caveats
    (table,) = converted.tables.values()
    return table


def _caveats(registry: dict[str, Any], **where: Any) -> list[str]:
    prefix = f"{PATH}: {SCHEMA_2}."
    caveats = _registry(registry, **where).caveats
    assert all(caveat.startswith(prefix) for caveat in caveats)
    return [caveat.removeprefix(prefix) for caveat in caveats]


# The documented recipes, old and new (contract, section 3).


def test_the_recipe_for_a_private_registry() -> None:
    """Mirror, credentials and CA become the documented hosts.toml, byte for byte but for the comment."""
    text = """\
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."private.registry.example"]
  endpoint = ["https://private.registry.example"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."private.registry.example".auth]
  username = "u"
  password = "p"
[plugins."io.containerd.grpc.v1.cri".registry.configs."private.registry.example".tls]
  ca_file = "/var/lib/containerd/certs/private.registry.example.crt"
"""
    converted = convert(text, files={"/var/lib/containerd/certs/private.registry.example.crt": CA})
    assert () == converted.caveats
    expected = f"""\
# a test
[host]
  [host."https://private.registry.example"]
    capabilities = ["pull", "resolve"]
    ca = ["{REGISTRY_D}/private.registry.example/https-private.registry.example-ca.crt"]
    [host."https://private.registry.example".auth]
      auth = "{U_P}"
"""
    assert {"private.registry.example": expected} == converted.texts
    ((ca, toml),) = (directory.files for directory in converted.tree.hosts)
    assert ("https-private.registry.example-ca.crt", CA.encode(), PUBLIC_MODE) == (ca.name, ca.content, ca.mode)
    assert (SECRET_MODE, 0o700) == (toml.mode, HOST_DIRECTORY_MODE)


def test_the_recipe_for_public_mirrors() -> None:
    """A path in the URL and a second mirror in plain text, for docker.io and gcr.io."""
    endpoints = ["https://registry.private.network/v2/dockerhub-proxy/", "http://second.mirror:5000"]
    text = "".join(f'[{SCHEMA_2}.mirrors."{name}"]\nendpoint = {endpoints}\n' for name in ("docker.io", "gcr.io"))
    expected = f"""\
# a test
[host]
  [host."{endpoints[0]}"]
    capabilities = ["pull", "resolve"]
    override_path = true
  [host."{endpoints[1]}"]
    capabilities = ["pull", "resolve"]
    skip_verify = true
"""
    converted = convert(text)
    assert ({"docker.io": expected, "gcr.io": expected}, ()) == (converted.texts, converted.caveats)


def test_what_deckhouse_itself_writes_without_the_module() -> None:
    """Containerd's default for docker.io, its own registry, and credentials with a CA."""
    converted = _registry(
        {
            "mirrors": {
                "docker.io": {"endpoint": ["https://registry-1.docker.io"]},
                "registry.deckhouse.io": {"endpoint": ["https://registry.deckhouse.io"]},
            },
            "configs": {"registry.deckhouse.io": {"auth": {"auth": U_P}, "tls": {"ca_file": "/opt/ca.crt"}}},
        },
        files={"/opt/ca.crt": CA},
    )
    path = f"{REGISTRY_D}/registry.deckhouse.io/https-registry.deckhouse.io-ca.crt"
    own = {**PULL, "ca": [path], "auth": {"auth": U_P}}
    assert {
        "docker.io": {"host": {"https://registry-1.docker.io": PULL}},
        "registry.deckhouse.io": {"host": {"https://registry.deckhouse.io": own}},
    } == converted.tables
    assert () == converted.caveats


# Endpoints.


@pytest.mark.parametrize(
    ("endpoint", "url", "settings"),
    [
        ("https://m.test", "https://m.test", {}),
        ("https://m.test:8443", "https://m.test:8443", {}),
        ("http://m.test", "http://m.test", {"skip_verify": True}),
        ("m.test", "https://m.test", {}),
        ("m.test:5000/path", "https://m.test:5000/path", {"override_path": True}),
        ("localhost:5000", "http://localhost:5000", {"skip_verify": True}),
        ("127.0.0.1", "http://127.0.0.1", {"skip_verify": True}),
        ("[::1]:5000", "http://[::1]:5000", {"skip_verify": True}),
        ("HTTPS://M.test", "https://M.test", {}),
        ("https://[fd00::2]", "https://[fd00::2]", {}),
        ("https://[fd00::2]:5000", "https://[fd00::2]:5000", {}),
        ("https://m.test/v2", "https://m.test/v2", {"override_path": True}),
        ("https://m.test/v2/proxy/", "https://m.test/v2/proxy/", {"override_path": True}),
        ("https://m.test//a//b", "https://m.test/a/b", {"override_path": True}),
    ],
)
def test_an_endpoint_is_the_url_that_containerd_asks(endpoint: str, url: str, settings: dict[str, Any]) -> None:
    """The scheme that containerd would add; a path stands for itself, without /v2 behind it."""
    assert {"host": {url: {**PULL, **settings}}} == _one(_mirror(endpoint))


def test_the_order_is_kept_and_repetition_is_not() -> None:
    """A second try at the same address says the same."""
    endpoints = ["https://b.test", "https://a.test", "b.test", "http://b.test"]
    assert ["https://b.test", "https://a.test", "http://b.test"] == list(_one(_mirror(*endpoints))["host"])


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("ftp://m.test", "must be http:// or https://"),
        ("://m.test", "must be http:// or https://"),
        ("https://", "must be http:// or https://"),
        ("", "must be http:// or https://"),
        ("https://[fd00::2", "is not a URL"),
        ("https://m.test:99999", "must have a port"),
        ("https://m.test/a%2Fb", "must be http:// or https://"),
        ("https://m.test/../x", "must be http:// or https://"),
        ("https://m_.test;SECRET", "must be a DNS name"),
    ],
)
def test_an_endpoint_that_is_none_is_named_by_its_number(endpoint: str, why: str) -> None:
    """The others stay."""
    converted = _registry(_mirror("https://a.test", endpoint))
    (caveat,) = converted.caveats
    assert caveat.startswith(f'{PATH}: {SCHEMA_2}.mirrors."r.test".endpoint number 2 {why}')
    assert caveat.endswith("; not converted")
    assert ["https://a.test"] == list(converted.tables["r.test"]["host"])


@pytest.mark.parametrize("endpoint", ["https://u:SECRET@m.test", "https://m.test?x=SECRET", "https://m.test#SECRET"])
def test_what_containerd_leaves_out_of_a_url_is_left_out(endpoint: str) -> None:
    """Credentials in it were never sent."""
    converted = _registry(_mirror(endpoint))
    assert {"host": {"https://m.test": PULL}} == converted.tables["r.test"]
    assert 'mirrors."r.test".endpoint number 1 has more than scheme, host and path' in converted.caveats[0]
    assert "SECRET" not in f"{converted}"


def test_a_slash_alone_is_a_path() -> None:
    """1.x then asks without /v2, and so does the conversion; a person should know."""
    converted = _registry(_mirror("https://m.test/"))
    assert {"host": {"https://m.test/": {**PULL, "override_path": True}}} == converted.tables["r.test"]
    assert "number 1 ends in a slash" in converted.caveats[0]


def test_two_paths_of_one_host_share_its_certificate() -> None:
    """One file of one name."""
    registry = _mirror("https://m.test/a", "https://m.test/b") | _config("m.test", tls={"ca_file": "/ca"})
    (directory, _) = reversed(_registry(registry, files={"/ca": CA}).tree.hosts)
    assert ["https-m.test-ca.crt", "hosts.toml"] == [file.name for file in directory.files]


# Which directories there are, and where they end.


def test_the_star_is_the_default_directory() -> None:
    """It has no original registry to name."""
    assert {"_default"} == set(_registry(_mirror("https://c.test", name="*")).tables)
    assert {"host": {"https://c.test": PULL}} == _one(_mirror("https://c.test", name="*"))
    assert {} == _registry(_mirror(name="*")).tables


def test_a_registry_that_is_its_own_default_in_another_way_gets_a_directory() -> None:
    """In the default one it would be asked over https in the end, which it was not."""
    tables = _registry(_mirror("http://c.test", "https://d.test", name="*")).tables
    assert {"_default", "c.test"} == set(tables)
    assert ["http://c.test", "https://d.test"] == list(tables["c.test"]["host"])
    assert (None, "https://d.test") == (tables["_default"].get("server"), tables["c.test"]["server"])


def test_a_host_with_settings_alone_gets_a_directory_with_itself() -> None:
    """The port belongs to its name; loopback is asked in plain text."""
    for host, url in (("h.test:5000", "https://h.test:5000"), ("localhost:5000", "http://localhost:5000")):
        (settings,) = _one(_config(host, auth={"username": "u", "password": "p"}))["host"].items()
        assert (url, {"auth": U_P}) == (settings[0], settings[1]["auth"])


def test_the_directory_of_a_host_hides_the_default_one() -> None:
    """So what is in the default one comes first in it, as it did before."""
    registry = _mirror("https://c.test", name="*") | _config("h.test", auth={"username": "u", "password": "p"})
    tables = _registry(registry).tables
    assert {"_default", "h.test"} == set(tables)
    assert {"https://c.test": PULL, "https://h.test": {**PULL, "auth": {"auth": U_P}}} == tables["h.test"]["host"]


def test_a_mirror_without_endpoints_hides_the_default_one_too() -> None:
    """That is what such an entry is for."""
    mirrors = {"*": {"endpoint": ["https://c.test"]}, "a.test": {}, "b.test": {"endpoint": []}}
    tables = _registry({"mirrors": mirrors}).tables
    assert {"host": {"https://a.test": PULL}} == tables["a.test"]
    assert {"host": {"https://b.test": PULL}} == tables["b.test"]


def test_docker_hub_is_kept_under_the_name_of_its_server() -> None:
    """The directory is docker.io all the same, and there is none for the server."""
    auth = {"username": "u", "password": "p"}
    with_auth = {**PULL, "auth": {"auth": U_P}}
    assert {"host": {"https://registry-1.docker.io": with_auth}} == _one(_config("registry-1.docker.io", auth=auth))
    registry = _mirror("https://m.test", name="docker.io") | _config("registry-1.docker.io", auth=auth)
    assert {"host": {"https://m.test": PULL, "https://registry-1.docker.io": with_auth}} == _one(registry)


def test_settings_for_docker_io_have_no_effect() -> None:
    """containerd never contacts a host of this name, unless an endpoint says so."""
    registry = _config("docker.io", auth={"username": "u", "password": "p"})
    assert {} == _registry(registry).tables
    key = 'configs."docker.io"'
    assert [f"{key} has no effect, because containerd asks registry-1.docker.io; not converted"] == _caveats(registry)
    assert {"host": {"https://docker.io": {**PULL, "auth": {"auth": U_P}}}, "server": "https://docker.io"}.items() <= (
        _one(registry | _mirror("https://docker.io", name="docker.io")).items()
    )


def test_credentials_for_the_original_registry_are_used_in_the_end() -> None:
    """The server that containerd appends by itself has none."""
    registry = _mirror("https://m.test") | _config("r.test", auth={"username": "u", "password": "p"})
    assert {"https://m.test": PULL, "https://r.test": {**PULL, "auth": {"auth": U_P}}} == _one(registry)["host"]


@pytest.mark.parametrize(
    ("endpoints", "server"),
    [
        (["https://m.test"], None),
        (["https://r.test"], None),
        (["https://r.test", "http://r.test"], None),
        (["http://r.test"], "http://r.test"),
        (["http://r.test", "https://m.test/x"], "https://m.test/x"),
        (["https://r.test/path"], "https://r.test/path"),
    ],
)
def test_nothing_is_appended_to_endpoints_that_have_the_registry(endpoints: list[str], server: str | None) -> None:
    """As in 1.x; where the appended one is among them anyway, nothing has to be said."""
    table = _one(_mirror(*endpoints))
    assert endpoints == list(table["host"])
    assert server == table.get("server")


@pytest.mark.parametrize("name", ["_default", "a/b", "https://h.test", "a b", "h.test:x", "", ".."])
def test_a_name_that_no_directory_can_have_is_named(name: str) -> None:
    """Neither a mirror nor a config; containerd never looks it up."""
    for registry in (_mirror("https://m.test", name=name), _config(name, tls={"insecure_skip_verify": True})):
        (caveat,) = _caveats(registry)
        assert "gets no directory, because its name " in caveat
        assert {} == _registry(registry).tables


# Credentials.


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"username": "u", "password": "p"}, {"auth": U_P}),
        ({"username": "u", "password": "p", "auth": "eDp5", "identitytoken": "t"}, {"auth": U_P}),
        ({"username": "u"}, {"auth": base64.b64encode(b"u:").decode()}),
        ({"auth": U_P}, {"auth": U_P}),
        ({"auth": f"{U_P[:2]}\r\n{U_P[2:]}"}, {"auth": U_P}),
        ({"auth": base64.b64encode(b"u:p\0\0").decode()}, {"auth": U_P}),
        ({"auth": base64.b64encode(b"u:\xff:x").decode()}, {"auth": base64.b64encode(b"u:\xff:x").decode()}),
        ({"identitytoken": "t", "auth": U_P}, {"identitytoken": "t"}),
        ({"username": "", "password": "", "auth": "", "identitytoken": ""}, None),
    ],
)
def test_credentials_are_chosen_as_containerd_does(auth: dict[str, str], expected: dict[str, str] | None) -> None:
    """User name and password, else the identity token, else `auth`."""
    (settings,) = _one(_config("h.test", auth=auth))["host"].values()
    assert expected == settings.get("auth")


@pytest.mark.parametrize(
    ("auth", "caveat"),
    [
        ({"password": "SECRET"}, "auth.password has no username beside it, so containerd does not send it"),
        ({"auth": "SECRET!"}, "auth.auth is not base64 of user:password; not converted"),
        ({"auth": "U0VDUkVU"}, "auth.auth is not base64 of user:password; not converted"),
    ],
)
def test_credentials_that_are_none_are_named(auth: dict[str, str], caveat: str) -> None:
    """By their key."""
    assert [f'configs."h.test".{caveat}'] == _caveats(_config("h.test", auth=auth))


def test_auths_are_mapped_by_the_host_of_their_url() -> None:
    """Deprecated long ago; containerd lets them replace what `configs` has."""
    auths = {"https://h.test:5000/v1/": {"auth": U_P}, "i.test": {"username": "u", "password": "p"}}
    converted = _registry({"auths": auths, **_config("h.test:5000", auth={"username": "x", "password": "y"})})
    assert {"h.test:5000", "i.test"} == set(converted.tables)
    for table in converted.tables.values():
        assert [{"auth": U_P}] == [settings["auth"] for settings in table["host"].values()]


@pytest.mark.parametrize("flavour", [Flavour.STOCK, Flavour.K3S])
def test_other_builds_get_a_header_and_a_caveat(flavour: Flavour) -> None:
    """Up to 2.1 a token server never sees it."""
    registry = _config("h.test", auth={"username": "u", "password": "p"})
    for version, count in ((None, 1), ("1.7.24", 1), ("2.0.9", 1), ("2.1.0", 0)):
        converted = _registry(registry, flavour=flavour, containerd=version)
        (settings,) = converted.tables["h.test"]["host"].values()
        assert {"Authorization": [f"Basic {U_P}"]} == settings["header"]
        caveat = f'{PATH}: {SCHEMA_2}.configs."h.test".auth becomes a header'
        assert [True] * count == [each.startswith(caveat) for each in converted.caveats]


def test_an_identity_token_needs_deckhouses_build() -> None:
    """It is no Basic credential, so there is no header for it."""
    registry = _config("h.test", auth={"identitytoken": "SECRET"})
    converted = _registry(registry, flavour=Flavour.STOCK, containerd="2.1.9")
    assert {"host": {"https://h.test": PULL}} == converted.tables["h.test"]
    assert ["cannot be said in hosts.toml; keep it, beside config_path"] == [
        each.partition("identitytoken ")[2] for each in converted.caveats
    ]


# TLS.


def test_certificates_are_copied_beside_hosts_toml() -> None:
    """So that the tree stands by itself; the key for nobody else to read."""
    tls = {"ca_file": "/ca", "cert_file": "/c", "key_file": "k", "insecure_skip_verify": True}
    files = {"/ca": f"# R\u00f6\u00f6t\n{CA}", "/c": CLIENT_CERTIFICATE, "/k": CLIENT_KEY}
    converted = _registry(_config("h.test:5000", tls=tls), files=files)
    folder = f"{REGISTRY_D}/h.test:5000/https-h.test:5000"
    expected = {
        "ca": [f"{folder}-ca.crt"],
        "client": [[f"{folder}-client.crt", f"{folder}-client.key"]],
        "skip_verify": True,
    }
    assert ({"https://h.test:5000": {**PULL, **expected}}, ()) == (
        converted.tables["h.test:5000"]["host"],
        converted.caveats,
    )
    (directory,) = converted.tree.hosts
    names = [file.name.removeprefix("https-h.test:5000-") for file in directory.files]
    assert ["ca.crt", "client.crt", "client.key", "hosts.toml"] == names
    modes = [file.mode for file in directory.files]
    assert [PUBLIC_MODE, PUBLIC_MODE, SECRET_MODE, SECRET_MODE] == modes


def test_plain_text_has_no_certificates() -> None:
    """What TLS is set up for such a host has no effect."""
    registry = _mirror("http://m.test") | {"configs": {"m.test": {"tls": {"ca_file": "/ca"}}}}
    assert {"http://m.test": {**PULL, "skip_verify": True}} == _registry(registry, files={"/ca": CA}).tables["r.test"][
        "host"
    ]


@pytest.mark.parametrize(
    ("tls", "files", "caveats"),
    [
        ({"ca_file": "/x"}, {}, ["tls.ca_file names a file that cannot be read; not converted"]),
        ({"ca_file": "/x"}, {"/x": "SECRET"}, ["tls.ca_file names a file that holds no parseable certificate"]),
        ({"ca_file": "/x"}, {"/x": CA + CLIENT_KEY}, ["tls.ca_file names a file that holds a private key"]),
        ({"cert_file": "/x"}, {"/x": CLIENT_CERTIFICATE}, ["tls has no usable client certificate: needs cert_file"]),
        (
            {"cert_file": "/x", "key_file": "/y"},
            {"/x": CLIENT_CERTIFICATE},
            ["tls.key_file names a file that cannot be read", "tls has no usable client certificate"],
        ),
        (
            {"cert_file": "/x", "key_file": "/y"},
            {"/x": CLIENT_CERTIFICATE, "/y": OTHER_KEY},
            ["tls has no usable client certificate: certificate and key do not parse or do not belong together"],
        ),
    ],
)
def test_certificates_that_cannot_be_used_are_left_out(
    tls: dict[str, str], files: dict[str, str], caveats: list[str]
) -> None:
    """In hosts.toml they would fail every pull."""
    converted = _registry(_config("h.test", tls=tls), files=files)
    assert {"host": {"https://h.test": PULL}} == converted.tables["h.test"]
    found = [each.partition('configs."h.test".')[2] for each in converted.caveats]
    assert [True] * len(caveats) == [text.startswith(start) for text, start in zip(found, caveats, strict=True)]
    assert "SECRET" not in "".join(found)


def test_containerd_2_has_forgotten_about_tls() -> None:
    """What was meant becomes true with the conversion, and is said."""
    registry = _config("h.test", tls={"insecure_skip_verify": True})
    caveat = 'configs."h.test".tls is not read by containerd 2.0.0 and newer, but is in hosts.toml'
    for version, count in ((None, 0), ("1.7.24", 0), ("2.0.0", 1), ("2.1.9", 1)):
        assert [caveat] * count == _caveats(registry, containerd=version)
    assert {"host": {"https://h.test": {**PULL, "skip_verify": True}}} == _registry(
        registry, containerd="2.1.9"
    ).tables["h.test"]


# Headers, and what surrounds all this.


def test_headers_go_to_every_registry_that_has_a_directory() -> None:
    """And to the original one; credentials go before an Authorization header."""
    registry = _mirror("https://m.test", "https://n.test", headers={"X-A": ["1", "2"], "authorization": ["Bearer t"]})
    converted = _registry(registry | _config("m.test", auth={"username": "u", "password": "p"}))
    both = {"X-A": ["1", "2"], "Authorization": ["Bearer t"]}
    expected = {
        "https://m.test": {**PULL, "header": {"X-A": ["1", "2"]}, "auth": {"auth": U_P}},
        "https://n.test": {**PULL, "header": both},
        "https://r.test": {**PULL, "header": both},
    }
    assert expected == converted.tables["r.test"]["host"]
    assert ["headers.X-A was sent to every registry", "headers.authorization was sent to every registry"] == [
        each.partition(f"{SCHEMA_2}.")[2].partition(",")[0] for each in converted.caveats
    ]


@pytest.mark.parametrize(("path", "count"), [("", 0), (REGISTRY_D, 0), (f"{REGISTRY_D}/", 0), ("/etc/SECRET", 1)])
def test_another_config_path_is_not_converted(path: str, count: int) -> None:
    """Somebody has to look there."""
    caveats = _caveats({"config_path": path})
    assert ["config_path names another directory; what stands there is not converted"] * count == caveats


def test_several_files_are_merged_where_old_containerd_takes_the_last() -> None:
    """Deckhouse merges them itself, 2.x merges deeply."""
    texts = toml(_mirror("https://m.test")), toml(_mirror("https://m.test", name="s.test"))
    for flavour, version, count in (
        (Flavour.STOCK, None, 1),
        (Flavour.STOCK, "1.7.24", 1),
        (Flavour.STOCK, "2.0.0", 0),
        (Flavour.DECKHOUSE, "1.7.29", 0),
    ):
        converted = convert(*texts, flavour=flavour, containerd=version)
        assert ["r.test", "s.test"] == list(converted.tables)
        second = PATH.with_name("registry1.toml")
        assert [True] * count == [each.startswith(f"{second}: plugins are merged") for each in converted.caveats]


def test_nothing_becomes_nothing() -> None:
    """No table, an empty one, and one that only says where registry.d is."""
    for text in ("", f"[{SCHEMA_2}]", f'[{SCHEMA_2}]\nconfig_path = "{REGISTRY_D}"'):
        assert ((), ()) == (convert(text).hosts, convert(text).caveats)
