"""Which registry addresses are accepted: the tables of Deckhouse's validator, and ours on top."""

from __future__ import annotations

import pytest

from agent import address
from agent.model import NODE_IP_PLACEHOLDER

_MAX_DNS_HOST = "a" * address.MAX_HOST_LENGTH

_HOSTS = [
    "a",
    "registry.example.com",
    "registry.d8-system.svc:5001",
    "Registry_1.Example.COM",
    "127.0.0.1",
    "127.0.0.1:5001",
    "10.0.0.1:1",
    "10.0.0.1:65535",
    "a:05001",
    "::1",
    "::",
    "fd00::1",
    "2001:db8::8a2e:370:7334",
    "::ffff:10.0.0.1",
    "[fd00::1]:5001",
    "fd00::1:5001",
    _MAX_DNS_HOST,
]

_NOT_HOSTS = {
    "empty": "",
    "blank": " ",
    "no-host": ":5001",
    "no-port": "registry.example.com:",
    "port-0": "registry.example.com:0",
    "port-65536": "registry.example.com:65536",
    "port-99999": "registry.example.com:99999",
    "port-with-many-digits": "registry.example.com:" + "9" * 5000,
    "port-word": "registry.example.com:abc",
    "port-negative": "registry.example.com:-1",
    "port-signed": "registry.example.com:+1",
    "port-of-another-script": "registry.example.com:\u0665\u0661",
    "port-superscript": "registry.example.com:5²",
    "port-spaced": "registry.example.com: 1",
    "two-ports": "registry.example.com:1:2",
    "dash-first": "-x",
    "dash-last": "x-",
    "dash-before-port": "x-:5001",
    "dot-first": ".x",
    "dot-last": "x.",
    "dot": ".",
    "dot-dot": "..",
    "dot-dot-inside": "a..b",
    "traversal": "../../etc/cron.d/x",
    "slash": "registry.example.com/x",
    "slash-last": "registry.example.com/",
    "absolute": "/etc",
    "backslash": "a\\b",
    "space": "a b",
    "space-last": "a ",
    "semicolon": "a;b",
    "pipe": "a|b",
    "ampersand": "a&b",
    "dollar": "$(id)",
    "backticks": "`id`",
    "variable": "${IFS}",
    "glob": "a*",
    "quote": 'a"b',
    "quote-single": "a'b",
    "hash": "a#b",
    "at": "user:pw@a",
    "percent": "a%2e",
    "comma": "a,b",
    "newline-last": "a\n",
    "newline": "a\nb",
    "carriage-return": "a\rb",
    "tab": "a\tb",
    "nul": "a\0",
    "escape": "a\x1b[31m",
    "toml": 'a"]\n[host."http://evil"',
    "url": "https://a",
    "not-ascii": "регистр.example.com",
    "full-width-letters": "\uff41\uff42",
    "ipv6-brackets-without-port": "[fd00::1]",
    "ipv6-brackets-empty": "[]:5001",
    "ipv6-bracket-left-open": "[fd00::1:5001",
    "ipv6-bracket-never-opened": "fd00::1]:5001",
    "ipv6-brackets-port-0": "[fd00::1]:0",
    "ipv6-brackets-no-port": "[fd00::1]:",
    "ipv6-brackets-twice": "[[fd00::1]]:5001",
    "ipv6-zone": "fe80::1%eth0",
    "ipv6-zone-in-brackets": "[fe80::1%eth0]:5001",
    "ipv6-too-long": "1:2:3:4:5:6:7:8:9",
    "ipv4-in-brackets": "[10.0.0.1]:5001",
    "name-in-brackets": "[registry]:5001",
    "too-long": _MAX_DNS_HOST + "a",
}

_PLACEHOLDER_NEAR_MISSES = {
    "bare": NODE_IP_PLACEHOLDER,
    "no-port": f"{NODE_IP_PLACEHOLDER}:",
    "port-0": f"{NODE_IP_PLACEHOLDER}:0",
    "port-65536": f"{NODE_IP_PLACEHOLDER}:65536",
    "port-word": f"{NODE_IP_PLACEHOLDER}:abc",
    "two-ports": f"{NODE_IP_PLACEHOLDER}:1:2",
    "upper-case": "${DISCOVERED_NODE_IP}:5001",
    "longer-name": "${discovered_node_ipX}:5001",
    "no-braces": "$discovered_node_ip:5001",
    "no-dollar": "{discovered_node_ip}:5001",
    "command": "$(discovered_node_ip):5001",
    "default-command": "${discovered_node_ip:-$(id)}:5001",
    "twice": f"{NODE_IP_PLACEHOLDER}{NODE_IP_PLACEHOLDER}:5001",
    "prefixed": f"x{NODE_IP_PLACEHOLDER}:5001",
    "space-first": f" {NODE_IP_PLACEHOLDER}:5001",
    "space-last": f"{NODE_IP_PLACEHOLDER}:5001 ",
    "newline-last": f"{NODE_IP_PLACEHOLDER}:5001\n",
    "path": f"{NODE_IP_PLACEHOLDER}/x:5001",
    "path-after-port": f"{NODE_IP_PLACEHOLDER}:5001/x",
    "separator": f"{NODE_IP_PLACEHOLDER};x:5001",
    "in-brackets": f"[{NODE_IP_PLACEHOLDER}]:5001",
}

_NOT_ENDPOINTS = {
    "empty": "",
    "no-port": "10.0.0.1",
    "bare-ipv6": "fd00::1",
    "bare-ipv6-that-looks-ported": "fd00::1:5001",
    "dns-name": "registry.example.com:5001",
    "port-0": "10.0.0.1:0",
    "port-65536": "10.0.0.1:65536",
    "port-negative": "10.0.0.1:-1",
    "port-word": "10.0.0.1:abc",
    "port-empty": "10.0.0.1:",
    "no-host": ":5001",
    "not-an-address": "999.999.999.999:5001",
    "space-last": "10.0.0.1:5001 ",
    "directive": "10.0.0.1:5001;x",
    "comment": "10.0.0.1:5001 # x",
    "newline-last": "10.0.0.1:5001\n",
    "block": "10.0.0.1:5001;}\nserver { listen 1; }",
    "command": "$(id):5001",
    "backticks": "`id`",
    "nul": "10.0.0.1:5001\0",
    "ipv6-zone": "[fe80::1%eth0]:5001",
    "name-in-brackets": "[registry]:5001",
}

_NOT_SERVERS = {
    "empty": "",
    "no-scheme": "registry.example.com",
    "other-scheme": "ftp://registry.example.com",
    "upper-scheme": "HTTPS://registry.example.com",
    "no-host": "https://",
    "no-host-but-path": "https:///v2",
    "credentials": "https://user:pw@registry.example.com",
    "query": "https://registry.example.com?x",
    "fragment": "https://registry.example.com#x",
    "traversal": "https://registry.example.com/../x",
    "empty-segment": "https://registry.example.com//x",
    "space": "https://registry.example.com/a b",
    "newline": "https://registry.example.com\n",
    "quote": 'https://registry.example.com/"',
    "port-0": "https://registry.example.com:0",
    "placeholder": f"https://{NODE_IP_PLACEHOLDER}:5001",
    # Go's URL parser refuses these, and containerd then ignores the whole file.
    "bare-ipv6": "https://fd00::1",
    "bare-ipv6-that-looks-ported": "https://fd00::1:5001",
    "name-in-brackets": "https://[registry.example.com]",
}


def _table(cases: dict[str, str]) -> list[object]:
    return [pytest.param(value, id=name) for name, value in cases.items()]


@pytest.mark.parametrize("value", _HOSTS)
def test_a_dns_name_or_ip_with_or_without_port_is_a_host(value: str) -> None:
    """The accept table, for host keys and for mirror hosts alike."""
    assert (None, None) == (address.host_key_problem(value), address.mirror_host_problem(value))


@pytest.mark.parametrize("value", _table(_NOT_HOSTS))
def test_anything_else_is_no_host(value: str) -> None:
    """The refuse table, for host keys and for mirror hosts alike."""
    assert address.host_key_problem(value) is not None
    assert address.mirror_host_problem(value) is not None


@pytest.mark.parametrize("value", _table(_NOT_HOSTS | _NOT_ENDPOINTS | _NOT_SERVERS | _PLACEHOLDER_NEAR_MISSES))
def test_a_rule_never_quotes_the_value(value: str) -> None:
    """A value may hold a credential, and a rule travels into logs."""
    canary = f"{value}/c4nary"
    rules = (
        address.host_key_problem(canary),
        address.mirror_host_problem(canary),
        address.proxy_endpoint_problem(canary),
        address.server_url_problem(f"x{canary}"),
    )
    assert all(rules)
    assert "c4nary" not in " ".join(filter(None, rules))


def test_the_wildcard_is_a_host_key_and_nothing_else() -> None:
    """`_default` names a directory, never an endpoint."""
    assert address.host_key_problem("_default") is None
    assert address.mirror_host_problem("_default") is not None
    assert address.host_key_problem("_default:5001") is not None


@pytest.mark.parametrize("port", ["1", "5001", "65535"])
def test_the_placeholder_with_a_port_is_a_mirror_host_and_a_proxy_endpoint(port: str) -> None:
    """What dhctl writes while a cluster is bootstrapped."""
    value = f"{NODE_IP_PLACEHOLDER}:{port}"
    assert (None, None) == (address.mirror_host_problem(value), address.proxy_endpoint_problem(value))


def test_the_placeholder_is_no_host_key() -> None:
    """A directory cannot be named after an address that is not known yet."""
    assert address.host_key_problem(f"{NODE_IP_PLACEHOLDER}:5001") is not None


@pytest.mark.parametrize("value", _table(_PLACEHOLDER_NEAR_MISSES))
def test_near_misses_of_the_placeholder_are_refused(value: str) -> None:
    """Only the literal with a port is replaced; all else would reach containerd as it stands."""
    assert address.mirror_host_problem(value) is not None
    assert address.proxy_endpoint_problem(value) is not None


@pytest.mark.parametrize("value", ["10.0.0.1:5001", "0.0.0.0:1", "255.255.255.255:65535", "[fd00::1]:5001"])
def test_a_proxy_endpoint_is_an_ip_with_port(value: str) -> None:
    """The accept table for proxyEndpoints."""
    assert address.proxy_endpoint_problem(value) is None


@pytest.mark.parametrize("value", _table(_NOT_ENDPOINTS))
def test_anything_else_is_no_proxy_endpoint(value: str) -> None:
    """DNS names are refused too: endpoints come from InternalIPs."""
    assert address.proxy_endpoint_problem(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        "https://registry.example.com",
        "http://registry.example.com:5000",
        "https://registry.example.com/",
        "https://registry.example.com/v2/dockerhub-proxy/",
        "https://10.0.0.1:5001/v2",
        "https://[fd00::1]",
        "https://[fd00::1]:5001/v2",
    ],
)
def test_a_server_is_a_url_with_an_optional_path(value: str) -> None:
    """What containerd can use as the last resort."""
    assert address.server_url_problem(value) is None


@pytest.mark.parametrize("value", _table(_NOT_SERVERS))
def test_anything_else_is_no_server(value: str) -> None:
    """A URL that Go cannot parse makes containerd drop the whole file."""
    assert address.server_url_problem(value) is not None


@pytest.mark.parametrize(
    ("node_ip", "expected"),
    [("10.0.0.7", "10.0.0.7:5001"), ("fd00::7", "[fd00::7]:5001")],
)
def test_the_placeholder_becomes_the_nodes_address(node_ip: str, expected: str) -> None:
    """An IPv6 address gets the brackets that a port needs."""
    assert expected == address.with_node_ip(f"{NODE_IP_PLACEHOLDER}:5001", node_ip)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("10.0.0.256", False),
        ("010.0.0.1", False),
        ("fe80::1%eth0", False),
        ("[fd00::1]", False),
        ("registry", False),
        ("", False),
    ],
)
def test_an_ip_is_an_address_without_zone_or_brackets(value: str, *, expected: bool) -> None:
    """A zone means nothing on another node and `%` is not fit for a file name in a URL."""
    assert expected is address.is_ip(value)
