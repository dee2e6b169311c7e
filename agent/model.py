"""What the cluster wants, as frozen values. Nothing here reads, writes or validates."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

#: Stands for the node's own address in a mirror host or proxy endpoint (contract, section 1).
NODE_IP_PLACEHOLDER = "${discovered_node_ip}"

#: Host key of the wildcard directory that containerd reads when a host has none of its own.
WILDCARD_HOST = "_default"


@dataclass(frozen=True, slots=True)
class Secret:
    """A string that must not be seen: `repr` and `str` mask it, `reveal` gives it."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """Return the secret itself, for the one place that writes it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


def is_bare_ipv6(host: str) -> bool:
    """Tell whether a host is an IPv6 address without the brackets that URLs and references want."""
    return host.count(":") > 1 and not host.startswith("[")


class Scheme(Enum):
    """URL scheme of a mirror."""

    HTTP = "http"
    HTTPS = "https"


class Capability(Enum):
    """What containerd may use a mirror for."""

    PULL = "pull"
    RESOLVE = "resolve"
    PUSH = "push"
    REFERRERS = "referrers"


DEFAULT_CAPABILITIES = (Capability.PULL, Capability.RESOLVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """Registry credentials: base64 of ``user:password`` and the user name for display."""

    username: str
    encoded: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Repository path rewrite: a Go regexp and a Go replacement template."""

    pattern: str
    replacement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """Client certificate and key, both PEM."""

    certificate: str
    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Extra request header; values may be tokens, so they are secrets."""

    name: str
    values: tuple[Secret, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """One endpoint that containerd tries for a registry host."""

    host: str
    scheme: Scheme
    ca: str | None = None
    auth: BasicAuth | None = None
    rewrites: tuple[Rewrite, ...] = ()
    capabilities: tuple[Capability, ...] = DEFAULT_CAPABILITIES
    skip_verify: bool = False
    override_path: bool = False
    client: ClientCertificate | None = None
    headers: tuple[Header, ...] = ()
    dial_timeout: str | None = None
    #: Path of the API at the host, and a token in place of `auth`: only converted legacy configuration has them.
    path: str = ""
    identity_token: Secret | None = None

    @property
    def url(self) -> str:
        """URL as containerd wants it: a bare IPv6 address gets its brackets."""
        host = f"[{self.host}]" if is_bare_ipv6(self.host) else self.host
        return f"{self.scheme.value}://{host}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHost:
    """A registry as image references name it, with its mirrors in try order."""

    name: str
    mirrors: tuple[Mirror, ...]
    server: str | None = None
    fallback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredConfig:
    """The validated content of the Secret `registry-bashible-config`."""

    mode: str
    version: str
    digest: str
    images_base: str
    hosts: tuple[RegistryHost, ...]
    proxy_endpoints: tuple[str, ...] = ()
    other_agent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something worth a warning that changes nothing about the outcome."""

    code: str
    message: str
