"""Syntax of registry addresses: host keys, mirror hosts, proxy endpoints, server URLs.

The rules are those of Deckhouse's hardened validator (go_lib/registry/helpers/validate.go, 2026);
where this module is stricter, the function says so. Each function returns the rule that is broken,
or None. Values are never quoted: a rule travels into logs, a value may hold a credential.
"""

from __future__ import annotations

import ipaddress
import re

from agent.model import NODE_IP_PLACEHOLDER, WILDCARD_HOST, is_bare_ipv6
from agent.tree import STATE_FILE

#: A host becomes part of file names such as ``https-HOST-client.crt``; Linux ends names at 255.
MAX_HOST_LENGTH = 230
MAX_PORT = 65535

_DNS_NAME = re.compile(r"[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*)):(?P<port>[^:]*)")
_SERVER_URL = re.compile(r"https?://(?P<host>[^/?#]+)(?P<path>(/[0-9A-Za-z._~-]+)*/?)")

NOT_A_HOST = "must be a DNS name or an IP address, with an optional port"


def host_key_problem(value: str) -> str | None:
    """Return what is wrong with a key of `hosts`; the wildcard ``_default`` is allowed."""
    if value == STATE_FILE:
        return "is the name of the state file beside the host directories"
    return None if value == WILDCARD_HOST else registry_host_problem(value)


def registry_host_problem(value: str) -> str | None:
    """Return what is wrong with ``host`` or ``host:port``.

    Stricter than the model: brackets hold an IPv6 address only, a port is plain digits, and the
    length is bounded, because containerd's URL parser or the file system would refuse the rest.
    """
    if len(value) > MAX_HOST_LENGTH:
        return f"must be at most {MAX_HOST_LENGTH} characters long"
    if "/" in value or ".." in value:
        return f"{NOT_A_HOST}: no path separators and no '..'"
    if is_ip(value):
        return None
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None:
        return None if _DNS_NAME.fullmatch(value) else NOT_A_HOST
    if match["ipv6"] is not None:
        is_host = ":" in match["ipv6"] and is_ip(match["ipv6"])
    else:
        is_host = is_ip(match["name"]) or _DNS_NAME.fullmatch(match["name"]) is not None
    return _port_problem(match["port"]) if is_host else NOT_A_HOST


def mirror_host_problem(value: str) -> str | None:
    """Return what is wrong with a mirror's host: a registry host or ``${discovered_node_ip}:PORT``."""
    port = _placeholder_port(value)
    return registry_host_problem(value) if port is None else _port_problem(port)


def proxy_endpoint_problem(value: str) -> str | None:
    """Return what is wrong with ``IP:port`` or ``${discovered_node_ip}:PORT``."""
    port = _placeholder_port(value)
    if port is not None:
        return _port_problem(port)
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None or not is_ip(match["ipv6"] or match["name"]):
        return f"must be IP:port (an IPv6 address in brackets) or {NODE_IP_PLACEHOLDER}:port"
    return _port_problem(match["port"])


def server_url_problem(value: str) -> str | None:
    """Return what is wrong with a `server` URL: http or https, host, optional path, nothing more."""
    match = _SERVER_URL.fullmatch(value)
    if match is None or ".." in match["path"]:
        return "must be http:// or https:// with a host and an optional path, without credentials"
    host = match["host"]
    if host.startswith("[") and host.endswith("]"):
        return None if ":" in host and is_ip(host[1:-1]) else NOT_A_HOST
    return "must have an IPv6 address in brackets" if is_bare_ipv6(host) else registry_host_problem(host)


def with_node_ip(value: str, node_ip: str) -> str:
    """Replace the placeholder by the node's address; an IPv6 address gets brackets."""
    return value.replace(NODE_IP_PLACEHOLDER, f"[{node_ip}]" if ":" in node_ip else node_ip)


def is_ip(value: str) -> bool:
    """Tell whether `value` is an IPv4 or IPv6 address without a zone."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _placeholder_port(value: str) -> str | None:
    prefix = f"{NODE_IP_PLACEHOLDER}:"
    return value.removeprefix(prefix) if value.startswith(prefix) else None


def _port_problem(port: str) -> str | None:
    # isascii: int() and isdigit() take other scripts' digits too, containerd does not.
    if port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) and 1 <= int(port) <= MAX_PORT:
        return None
    return f"must have a port from 1 to {MAX_PORT}"
