"""What a kubeconfig says, as frozen values: one context of it with its cluster and its user.

Nothing is opened here but the document itself: paths stay as they were written. Refused is what the
agent cannot honour; to ignore it would send requests to the wrong place or under the wrong name.
The fields are those of k8s.io/client-go/tools/clientcmd/api/v1. No value ever becomes part of an
error, save the names of contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agent.errors import ConfigInvalid, CredentialsUnusable
from agent.model import Secret
from agent.parse import yaml_document
from agent.parse.encoding import canonical_base64

MAX_BYTES = 1024 * 1024
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
#: Name of the cluster's extension that is meant for exec plugins.
EXEC_EXTENSION = "client.authentication.k8s.io/exec"
MAX_NAMES_SHOWN = 10
MAX_TEXT_SHOWN = 256

#: Content that stands in the kubeconfig itself, or the path of the file that holds it.
Source = bytes | str

_REMEDY = "correct the kubeconfig; it is read again before the next request"
_LOGIN_REMEDY = "use an exec plugin, a client certificate or a token of a service account"
#: What `kubectl config view` prints in the place of secrets; both are valid base64.
_PLACEHOLDERS = {"REDACTED", "DATA+OMITTED"}
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")
_INTERACTIVE_MODES = {"", "Never", "IfAvailable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the API is and how to know it."""

    server: str
    ca: Source | None = field(default=None, repr=False)
    is_insecure: bool = False
    tls_server_name: str = ""
    proxy_url: str = field(default="", repr=False)
    exec_config: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A program that gives credentials."""

    api_version: str
    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    install_hint: str = ""
    is_given_cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who the agent is; nothing set is an anonymous user."""

    certificate: Source | None = field(default=None, repr=False)
    key: Source | None = field(default=None, repr=False)
    token: Secret | None = None
    token_file: str = ""
    username: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    plugin: Plugin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeconfig:
    """The chosen context."""

    cluster: Cluster
    user: User


class Fields:
    """A map of somebody else's document, read field by field; errors name paths, never values."""

    def __init__(self, value: Any, *, origin: str, path: str = "", remedy: str = _REMEDY) -> None:
        """Accept a map or null; `origin` names the document for errors."""
        self.origin, self._path, self._remedy = origin, path, remedy
        if not isinstance(value, dict | None):
            raise CredentialsUnusable(f"{origin}: {path or 'the document'}: must be a map", remedy=remedy)
        self._value: Mapping[str, Any] = value or {}

    def wrong(self, key: str, rule: str, *, remedy: str = "") -> CredentialsUnusable:
        """Return the error for a field that breaks a rule."""
        return CredentialsUnusable(f"{self.origin}: {self._at(key)}: {rule}", remedy=remedy or self._remedy)

    def has(self, key: str) -> bool:
        """Tell whether the field is there and is neither null nor empty."""
        return self._value.get(key) not in (None, "", [], {})

    def any(self, key: str) -> Any:
        """Return the field as it was read."""
        return self._value.get(key)

    def text(self, key: str) -> str:
        """Return a text, empty when there is none."""
        return self._text(self._value.get(key), key)

    def flag(self, key: str) -> bool:
        """Return a boolean, False when there is none."""
        value = self._value.get(key)
        if not isinstance(value, bool | None):
            raise self.wrong(key, "must be true or false")
        return bool(value)

    def decoded(self, key: str) -> bytes:
        """Return what a base64 text stands for; line breaks in it are passed over, as Go does."""
        decoded = canonical_base64("".join(self.text(key).split()))
        if decoded is None:
            raise self.wrong(key, "must be base64")
        return decoded

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty when there is none."""
        return tuple(self._text(value, f"{key}[{index}]") for index, value in enumerate(self._list(key)))

    def map(self, key: str) -> Fields:
        """Return the map in a field, an empty one when there is none."""
        return self._inner(self._value.get(key), key)

    def maps(self, key: str) -> tuple[Fields, ...]:
        """Return a list of maps, empty when there is none."""
        return tuple(self._inner(value, f"{key}[{index}]") for index, value in enumerate(self._list(key)))

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _inner(self, value: Any, key: str) -> Fields:
        return Fields(value, origin=self.origin, path=self._at(key), remedy=self._remedy)

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str | None):
            raise self.wrong(key, "must be text, in quotes if it looks like a number, a date or a boolean")
        if value in _PLACEHOLDERS:
            raise self.wrong(key, "was left out by kubectl", remedy="take the output of kubectl config view --raw")
        if value and "\0" in value:
            raise self.wrong(key, "holds a NUL")
        return value or ""

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if not isinstance(value, list | None):
            raise self.wrong(key, "must be a list")
        return value or []


def parse(raw: bytes, *, origin: str, context: str = "") -> Kubeconfig:
    """Return the context of that name, or the current one; raises CredentialsUnusable.

    `origin` says where the document comes from. Contexts that are not chosen need not be usable.
    """
    top = Fields(_document(raw, origin), origin=origin)
    if top.text("kind") not in {"", "Config"}:
        raise top.wrong("kind", "must be Config: this is no kubeconfig")
    contexts = _named(top, "context")
    chosen = _chosen(top, contexts, context)
    known = f"contexts of this file: {_listed(contexts)}"
    cluster = _named(top, "cluster").get(chosen.text("cluster"))
    if cluster is None:
        raise chosen.wrong("cluster", f"names no entry of clusters; {known}")
    user = _named(top, "user").get(chosen.text("user"))
    if user is None and chosen.has("user"):
        raise chosen.wrong("user", f"names no entry of users; {known}")
    return Kubeconfig(cluster=_cluster(cluster), user=_user(user) if user else User())


def shown(text: str) -> str:
    """Return a foreign text as one printable line of limited length."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:MAX_TEXT_SHOWN]


def _document(raw: bytes, origin: str) -> Any:
    try:
        return yaml_document.load(raw, max_bytes=MAX_BYTES)
    except ConfigInvalid as err:
        rule = "; ".join(str(problem) for problem in err.problems)
    raise CredentialsUnusable(f"{origin}: {rule}", remedy=_REMEDY)


def _named(top: Fields, kind: str) -> dict[str, Fields]:
    """Return the entries of a list such as `contexts` by name; client-go refuses a name twice, too."""
    named: dict[str, Fields] = {}
    for entry in top.maps(f"{kind}s"):
        name = entry.text("name")
        if name in named:
            raise entry.wrong("name", "stands twice in this list")
        named[name] = entry.map(kind)
    return named


def _chosen(top: Fields, contexts: Mapping[str, Fields], wanted: str) -> Fields:
    name = wanted or top.text("current-context")
    if name in contexts:
        return contexts[name]
    what = f"there is no context {shown(name)}" if name else "no context is chosen"
    raise CredentialsUnusable(
        f"{top.origin}: {what}; contexts of this file: {_listed(contexts)}",
        remedy="set current-context, or name one of them in the agent's settings",
    )


def _listed(names: Mapping[str, Fields]) -> str:
    listed = [shown(name) for name in names][:MAX_NAMES_SHOWN]
    more = len(names) - len(listed)
    return (", ".join(listed) or "none") + (f" and {more} more" if more else "")


def _cluster(cluster: Fields) -> Cluster:
    ca, is_insecure = _source(cluster, "certificate-authority"), cluster.flag("insecure-skip-tls-verify")
    if ca and is_insecure:  # client-go: "specifying a root certificates file with the insecure flag is not allowed"
        raise cluster.wrong("insecure-skip-tls-verify", "must not be true beside a certificate authority")
    return Cluster(
        server=_server(cluster),
        ca=ca,
        is_insecure=is_insecure,
        tls_server_name=cluster.text("tls-server-name"),
        proxy_url=_proxy(cluster),
        exec_config=_exec_config(cluster),
    )


def _server(cluster: Fields) -> str:
    server = _url(cluster.text("server"), is_login_allowed=False)
    if server is None:
        raise cluster.wrong("server", "must be https://host:port or http://host:port, without user and query")
    return server.rstrip("/")


def _proxy(cluster: Fields) -> str:
    if not cluster.has("proxy-url"):
        return ""
    proxy = _url(cluster.text("proxy-url"), is_login_allowed=True)
    if proxy is None:
        raise cluster.wrong("proxy-url", "must be http://host:port or https://host:port; SOCKS is not supported")
    return proxy


def _url(text: str, *, is_login_allowed: bool) -> str | None:
    """Return an HTTP URL in its normal form, None for any other text."""
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    has_blank = not text.isprintable() or " " in text
    has_login = "@" in parts.netloc
    if not is_http or has_blank or parts.query or parts.fragment or (has_login and not is_login_allowed):
        return None
    return parts.geturl()


def _exec_config(cluster: Fields) -> Any:
    found = (entry.any("extension") for entry in cluster.maps("extensions") if entry.any("name") == EXEC_EXTENSION)
    return next(found, None)


def _source(fields: Fields, key: str) -> Source | None:
    """Return content or path; content wins, as in client-go."""
    return fields.decoded(f"{key}-data") or fields.text(key) or None


def _user(user: Fields) -> User:
    _refuse_unsupported(user)
    certificate, key = _source(user, "client-certificate"), _source(user, "client-key")
    if (certificate is None) is not (key is None):
        raise user.wrong("client-certificate", "certificate and key must be given together")
    token, token_file, username = user.text("token"), user.text("tokenFile"), user.text("username")
    if username and (token or token_file):
        raise user.wrong("username", "must not stand beside a token")
    return User(
        certificate=certificate,
        key=key,
        token=Secret(token) if token else None,
        token_file=token_file,
        username=username,
        password=Secret(user.text("password")),
        plugin=_plugin(user.map("exec")) if user.has("exec") else None,
    )


def _refuse_unsupported(user: Fields) -> None:
    if user.has("auth-provider"):
        raise user.wrong("auth-provider", "is not supported (client-go 1.26 removed it, too)", remedy=_LOGIN_REMEDY)
    for key in _IMPERSONATION:
        if user.has(key):
            raise user.wrong(key, "impersonation is not supported", remedy="log in as the wanted user itself")


def _plugin(plugin: Fields) -> Plugin:
    if plugin.text("apiVersion") not in EXEC_VERSIONS:
        raise plugin.wrong("apiVersion", f"must be {' or '.join(EXEC_VERSIONS)}")
    if not plugin.has("command"):
        raise plugin.wrong("command", "is missing")
    if plugin.text("interactiveMode") not in _INTERACTIVE_MODES:
        raise plugin.wrong("interactiveMode", "must be Never or IfAvailable: the agent has no terminal")
    return Plugin(
        api_version=plugin.text("apiVersion"),
        command=plugin.text("command"),
        args=plugin.texts("args"),
        environment=tuple(_variable(entry) for entry in plugin.maps("env")),
        install_hint=plugin.text("installHint"),
        is_given_cluster=plugin.flag("provideClusterInfo"),
    )


def _variable(entry: Fields) -> tuple[str, str]:
    name = entry.text("name")
    if not name or "=" in name:
        raise entry.wrong("name", "must be the name of an environment variable")
    return name, entry.text("value")
