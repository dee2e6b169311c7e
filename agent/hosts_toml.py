"""What one hosts.toml has to say to one containerd, as a value: flavour and version decided.

`compose` turns a registry host of the desired config into this value; the template writes it down;
`meaning` is what a TOML parser must find in the result. Facts: the notes on containerd, "hosts.toml".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from agent import address
from agent.errors import ConfigUnsupported
from agent.model import (
    NODE_IP_PLACEHOLDER,
    WILDCARD_HOST,
    Capability,
    Mirror,
    Notice,
    RegistryHost,
    Rewrite,
    Scheme,
    is_bare_ipv6,
)
from agent.parse.go_regexp import is_noop
from agent.runtime import (
    DIAL_TIMEOUT_SINCE,
    IPV6_REFERENCE_SINCE,
    OLDEST_SUPPORTED,
    QUOTED_KEY_SINCE,
    REFERRERS_SINCE,
    WILDCARD_SINCE,
    Containerd,
    ContainerdVersion,
    Flavour,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The node a config is rendered for. `registry_dir` is the path as containerd sees it."""

    containerd: Containerd
    registry_dir: PurePosixPath
    origin: str
    node_ip: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One URL that containerd tries, with everything it needs to talk to it."""

    url: str
    capabilities: tuple[str, ...]
    ca: str | None = None
    client: tuple[str, str] | None = None
    skip_verify: bool = False
    override_path: bool = False
    dial_timeout: str | None = None
    header: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), repr=False)
    auth: str | None = field(default=None, repr=False)
    identity_token: str | None = field(default=None, repr=False)
    rewrites: tuple[tuple[str, str], ...] = ()
    rewrite_table: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsToml:
    """The content of one hosts.toml. `server`, when set, is where containerd goes in the end."""

    endpoints: tuple[Endpoint, ...]
    server: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """The value, the mirrors that are in it (placeholders resolved) and what was left out."""

    file: HostsToml
    mirrors: tuple[Mirror, ...]
    notices: tuple[Notice, ...]


def compose(host: RegistryHost, target: Target) -> Composed:
    """Decide what hosts.toml says; raises ConfigUnsupported when this containerd cannot do it."""
    _require_support(host, target.containerd)
    mirrors, dropped = _distinct(tuple(_resolved(host, mirror, target) for mirror in host.mirrors))
    notices = [*dropped, *(notice for mirror in mirrors for notice in _left_out(host, mirror, target.containerd))]
    endpoints = tuple(_endpoint(host, mirror, target) for mirror in mirrors)
    notices += _without_effect(host, endpoints)
    return Composed(
        file=HostsToml(endpoints=endpoints, server=_server(host, endpoints)),
        mirrors=mirrors,
        notices=tuple(notices),
    )


def ca_file_name(mirror: Mirror) -> str:
    """Name of the mirror's CA file in the host directory (contract, section 2)."""
    return f"{mirror.scheme.value}-{mirror.host}-ca.crt"


def client_file_names(mirror: Mirror) -> tuple[str, str]:
    """Names of the client certificate and key files in the host directory."""
    prefix = f"{mirror.scheme.value}-{mirror.host}-client"
    return f"{prefix}.crt", f"{prefix}.key"


def meaning(file: HostsToml) -> dict[str, Any]:
    """Return what a TOML parser finds in a correct rendering, keys in writing order."""
    server = {"server": file.server.url, **_settings(file.server)} if file.server else {}
    return {**server, "host": {endpoint.url: _settings(endpoint) for endpoint in file.endpoints}}


def _settings(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {
        "capabilities": list(endpoint.capabilities),
        "ca": [endpoint.ca] if endpoint.ca else None,
        "client": [list(endpoint.client)] if endpoint.client else None,
        "skip_verify": endpoint.skip_verify,
        "override_path": endpoint.override_path,
        "dial_timeout": endpoint.dial_timeout,
        "header": {name: list(values) for name, values in endpoint.header},
        "auth": _auth_meaning(endpoint),
        "rewrite": _rewrite_meaning(endpoint),
    }
    return {key: value for key, value in found.items() if value}


def _auth_meaning(endpoint: Endpoint) -> dict[str, str]:
    table = {"auth": endpoint.auth, "identitytoken": endpoint.identity_token}
    return {key: value for key, value in table.items() if value}


def _rewrite_meaning(endpoint: Endpoint) -> dict[str, str] | list[dict[str, str]]:
    if endpoint.rewrite_table:
        return dict(endpoint.rewrites)
    return [{"regex": pattern, "replace": replacement} for pattern, replacement in endpoint.rewrites]


def _require_support(host: RegistryHost, containerd: Containerd) -> None:
    if containerd.is_known_before(OLDEST_SUPPORTED):
        raise _too_old("ContainerdTooOld", "registry.d of this form", OLDEST_SUPPORTED, containerd)
    if host.name == WILDCARD_HOST and containerd.is_known_before(WILDCARD_SINCE):
        raise _too_old("HostUnsupported", f"the wildcard host {WILDCARD_HOST}", WILDCARD_SINCE, containerd)
    if host.name.count(":") > 1 and containerd.is_known_before(IPV6_REFERENCE_SINCE):
        raise _too_old("HostUnsupported", "an IPv6 registry host", IPV6_REFERENCE_SINCE, containerd)


def _too_old(reason: str, what: str, since: ContainerdVersion, containerd: Containerd) -> ConfigUnsupported:
    message = f"{what} needs containerd {since} or newer, this node has {containerd.version}"
    return ConfigUnsupported(reason, message, remedy="upgrade containerd on this node")


def _resolved(host: RegistryHost, mirror: Mirror, target: Target) -> Mirror:
    if NODE_IP_PLACEHOLDER not in mirror.host:
        return mirror
    if target.node_ip is None:
        raise ConfigUnsupported(
            "NodeIPUnknown",
            f"a mirror of {host.name} is at {NODE_IP_PLACEHOLDER}, but this node's address is not known",
            remedy="set node_ip in the agent's settings",
        )
    return replace(mirror, host=address.with_node_ip(mirror.host, target.node_ip))


def _distinct(mirrors: tuple[Mirror, ...]) -> tuple[tuple[Mirror, ...], tuple[Notice, ...]]:
    """Keep the first of equal endpoints: on a master, the placeholder may repeat a listed address."""
    kept: dict[str, Mirror] = {}
    notices = []
    for mirror in mirrors:
        if mirror.url in kept:
            message = f"mirror {mirror.url} stands twice once the node's address is filled in; the first one counts"
            notices.append(Notice(code="DuplicateMirror", message=message))
        kept.setdefault(mirror.url, mirror)
    return tuple(kept.values()), tuple(notices)


def _left_out(host: RegistryHost, mirror: Mirror, containerd: Containerd) -> Iterator[Notice]:
    where = f"mirror {mirror.url} of {host.name}"
    if mirror.dial_timeout and containerd.is_known_before(DIAL_TIMEOUT_SINCE):
        message = f"{where}: dialTimeout needs containerd {DIAL_TIMEOUT_SINCE} and is left out"
        yield Notice(code="DialTimeoutUnsupported", message=message)
    if Capability.REFERRERS in mirror.capabilities and not containerd.is_known_from(REFERRERS_SINCE):
        message = f"{where}: capability referrers needs containerd {REFERRERS_SINCE} and is left out"
        yield Notice(code="ReferrersUnsupported", message=message)


def _without_effect(host: RegistryHost, endpoints: tuple[Endpoint, ...]) -> Iterator[Notice]:
    """Warn of what containerd accepts and passes over."""
    if is_bare_ipv6(host.name):
        message = f"{host.name}: image references name an IPv6 registry in brackets, so this host is never looked up"
        yield Notice(code="HostNeverUsed", message=message)
    # containerd asks only mirrors with both for a tag (seen on 1.6.20, 1.7.24 and 2.1.9).
    if any({"pull", "resolve"} <= set(endpoint.capabilities) for endpoint in endpoints):
        return
    message = f"no mirror of {host.name} can both pull and resolve: they are passed over when a tag is looked up"
    yield Notice(code="NoResolver", message=message)


def _endpoint(host: RegistryHost, mirror: Mirror, target: Target) -> Endpoint:
    directory = target.registry_dir / host.name
    is_https = mirror.scheme is Scheme.HTTPS
    has_auth_table = target.containerd.flavour is Flavour.DECKHOUSE
    is_dial_timeout_read = not target.containerd.is_known_before(DIAL_TIMEOUT_SINCE)
    client = client_file_names(mirror)
    return Endpoint(
        url=mirror.url,
        capabilities=_capabilities(host, mirror, target.containerd),
        ca=str(directory / ca_file_name(mirror)) if mirror.ca and is_https else None,
        client=(str(directory / client[0]), str(directory / client[1])) if mirror.client else None,
        skip_verify=mirror.skip_verify or not is_https,
        override_path=mirror.override_path,
        dial_timeout=mirror.dial_timeout if is_dial_timeout_read else None,
        header=_header(mirror, with_credentials=not has_auth_table),
        auth=mirror.auth.encoded.reveal() if mirror.auth and has_auth_table else None,
        identity_token=mirror.identity_token.reveal() if mirror.identity_token and has_auth_table else None,
        rewrites=_rewrites(host, mirror, target.containerd),
        rewrite_table=target.containerd.flavour is Flavour.K3S,
    )


def _capabilities(host: RegistryHost, mirror: Mirror, containerd: Containerd) -> tuple[str, ...]:
    """Leave out a word this containerd does not know: it would drop the whole file for it."""
    is_referrers_known = containerd.is_known_from(REFERRERS_SINCE)
    words = tuple(
        capability.value
        for capability in mirror.capabilities
        if capability is not Capability.REFERRERS or is_referrers_known
    )
    if not words:  # an empty list would mean all capabilities
        message = f"mirror {mirror.url} of {host.name} may only serve referrers, needing containerd {REFERRERS_SINCE}"
        raise ConfigUnsupported("CapabilityUnsupported", message, remedy="give it another capability, or upgrade")
    return words


def _header(mirror: Mirror, *, with_credentials: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    header = [(header.name, tuple(value.reveal() for value in header.values)) for header in mirror.headers]
    if mirror.auth and with_credentials:
        header.insert(0, ("Authorization", (f"Basic {mirror.auth.encoded.reveal()}",)))
    return tuple(header)


def _rewrites(host: RegistryHost, mirror: Mirror, containerd: Containerd) -> tuple[tuple[str, str], ...]:
    rules = tuple((rule.pattern, rule.replacement) for rule in mirror.rewrites)
    if containerd.flavour is Flavour.DECKHOUSE:
        return rules
    if containerd.flavour is Flavour.K3S:
        if any('"' in pattern for pattern, _ in rules) and not containerd.is_known_from(QUOTED_KEY_SINCE):
            message = f"mirror {mirror.url} of {host.name} has a rewrite with a double quote"
            remedy = f"write it as \\x22: before {QUOTED_KEY_SINCE}, containerd drops a file with such a key"
            raise ConfigUnsupported("RewriteUnsupported", message, remedy=remedy)
        first: dict[str, str] = {}  # a table has each key once; the first of equal rules would win
        for pattern, replacement in rules:
            first.setdefault(pattern, replacement)
        return tuple(first.items())
    if not all(_is_noop(rule) for rule in mirror.rewrites):
        raise ConfigUnsupported(
            "RewriteUnsupported",
            f"mirror {mirror.url} of {host.name} has rewrites, which stock containerd cannot do",
            remedy="use a build of containerd that knows rewrites, or a mirror path that needs none",
        )
    return ()


def _is_noop(rule: Rewrite) -> bool:
    return is_noop(rule.pattern, rule.replacement)


def _server(host: RegistryHost, endpoints: tuple[Endpoint, ...]) -> Endpoint | None:
    if host.server is not None:
        return Endpoint(url=host.server, capabilities=())
    if host.fallback:
        return None
    # Root keys know no `auth` and no `rewrite`; TLS settings and header apply to the server.
    return replace(endpoints[-1], auth=None, identity_token=None, rewrites=())
