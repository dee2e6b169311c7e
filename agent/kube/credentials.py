"""How the client gets at the Kubernetes API: from the pod it runs in, or from a kubeconfig.

Everything is looked at anew for each request, because everything rotates: tokens every hour, client
certificates every few months, CAs every few years. A read costs some 40 µs and spares every watch.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from agent.errors import CredentialsUnusable
from agent.kube import exec_plugin, kubeconfig
from agent.kube.exec_plugin import Credential, ExecPlugin
from agent.kube.kubeconfig import Kubeconfig, Plugin, Source, User
from agent.kube.tls import Context, Contexts, KeyPair, Pem, Terms
from agent.model import Secret, is_bare_ipv6

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE_BYTES = 1024 * 1024
#: As many as Linux follows in one path (path_resolution(7)).
MAX_LINKS = 40

_NOT_A_TOKEN = "holds no token: one line of printable ASCII without blanks is expected"  # noqa: S105 -- a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request needs. `tls` stays the same object until CA or client certificate change."""

    server: str
    tls: Context | None = None
    server_hostname: str | None = None
    proxy: str | None = field(default=None, repr=False)
    authorization: Secret | None = None


class InCluster:
    """The service account of the pod that the agent runs in."""

    def __init__(self, environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> None:
        """`directory` is where kubelet mounts token and CA."""
        self._environment = environment
        self._directory = directory
        self._contexts = Contexts()
        self._lock = threading.Lock()

    def access(self, *, is_refused: bool) -> Access:
        """Return how to reach the API now; raises CredentialsUnusable. May be called by any thread."""
        del is_refused  # nothing is kept that an answer could prove stale
        server, path = self._server(), self._directory / "token"
        token = _token(_read(path, "token").decode("ascii", "replace"), f"token {path}")
        with self._lock:
            context = self._contexts.of(Terms(ca=_pem(self._directory / "ca.crt", "cluster CA")))
        return Access(server=server, tls=context, authorization=token)

    def close(self) -> None:
        """Nothing runs."""

    def _server(self) -> str:
        host, port = (self._environment.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host or not port:
            raise CredentialsUnusable(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod",
                remedy="outside of a pod, name a kubeconfig in the settings",
            )
        return f"https://[{host}]:{port}" if is_bare_ipv6(host) else f"https://{host}:{port}"


class KubeconfigFile:
    """A kubeconfig on the node. It may come later, change and rotate: the next request follows it."""

    def __init__(
        self,
        path: Path,
        *,
        root: Path = Path("/"),
        context: str = "",
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        plugin_timeout_s: float = exec_plugin.TIMEOUT_S,
    ) -> None:
        """`path` is where the agent finds the file, root prefix included; `root` is the node's root."""
        self._path = path.absolute()
        self._files = _Files(root=root.absolute(), directory=self._path.parent)
        self._context = context
        self._environment = environment
        self._now = now
        self._plugin_timeout_s = plugin_timeout_s
        self._contexts = Contexts()
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()

    def access(self, *, is_refused: bool) -> Access:
        """Return how to reach the API now; raises CredentialsUnusable. May be called by any thread.

        `is_refused` says that the credentials of the last call got the answer 401. A plugin that has
        to run may take until its timeout, and other threads wait for it.
        """
        with self._lock:
            loaded = self._load()
            cluster, user = loaded.kubeconfig.cluster, loaded.kubeconfig.user
            if cluster.server.startswith("http:"):  # as client-go: credentials do not travel in the clear
                return Access(server=cluster.server, proxy=cluster.proxy_url or None)
            ca = self._pem(cluster.ca, "certificate-authority")
            issued = loaded.plugin.credential(cluster, ca=ca, is_refused=is_refused) if loaded.plugin else None
            pair = self._pair(user) or (issued.pair if issued else None)
            return Access(
                server=cluster.server,
                tls=self._contexts.of(Terms(ca=ca, is_insecure=cluster.is_insecure, pair=pair)),
                server_hostname=cluster.tls_server_name or None,
                proxy=cluster.proxy_url or None,
                authorization=self._authorization(user, issued),
            )

    def close(self) -> None:
        """End a plugin that still runs; not under the lock, which its run holds."""
        if self._loaded is not None and self._loaded.plugin is not None:
            self._loaded.plugin.close()

    def _load(self) -> _Loaded:
        raw = _read(self._files.resolved(self._path), "kubeconfig")
        if self._loaded is None or self._loaded.raw != raw:
            parsed = kubeconfig.parse(raw, origin=self._origin, context=self._context)
            plugin = self._plugin(parsed.user.plugin) if parsed.user.plugin else None
            self._loaded = _Loaded(raw=raw, kubeconfig=parsed, plugin=plugin)
        return self._loaded

    def _plugin(self, plugin: Plugin) -> ExecPlugin:
        is_path = "/" in plugin.command
        return ExecPlugin(
            plugin,
            program=str(self._files.locate(plugin.command)) if is_path else plugin.command,
            environment=self._environment,
            now=self._now,
            timeout_s=self._plugin_timeout_s,
        )

    def _pair(self, user: User) -> KeyPair | None:
        certificate = self._pem(user.certificate, "client-certificate")
        # kubelet keeps both in one file, which it replaces: read once, they belong together.
        is_one_file = isinstance(user.key, str) and user.key == user.certificate
        key = certificate if is_one_file else self._pem(user.key, "client-key")
        return KeyPair(certificate=certificate, key=key) if certificate and key else None

    def _pem(self, source: Source | None, name: str) -> Pem | None:
        if isinstance(source, str):
            return _pem(self._files.locate(source), name)
        return Pem(content=source, origin=f"{self._origin}: {name}-data") if source else None

    def _authorization(self, user: User, issued: Credential | None) -> Secret | None:
        """Return the header; what the user has by itself goes before a plugin's, as in client-go."""
        if user.token_file:
            path = self._files.locate(user.token_file)
            return _token(_read(path, "tokenFile").decode("ascii", "replace"), f"tokenFile {path}")
        if user.token:
            return _token(user.token.reveal(), f"{self._origin}: token")
        if user.username:
            login = f"{user.username}:{user.password.reveal()}"
            return Secret(f"Basic {base64.b64encode(login.encode()).decode()}")
        return _token(issued.token.reveal(), f"{issued.origin}: token") if issued and issued.token else None

    @property
    def _origin(self) -> str:
        return f"kubeconfig {_shown(self._path)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A kubeconfig as it was read; its plugin keeps a credential until the file changes."""

    raw: bytes = field(repr=False)
    kubeconfig: Kubeconfig
    plugin: ExecPlugin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where the paths of a kubeconfig lead: relative ones from its directory, all of them below the root."""

    root: Path
    directory: Path

    def locate(self, named: str) -> Path:
        """Return the agent's path for one that the kubeconfig names; raises CredentialsUnusable."""
        return self.resolved(self.root / named.lstrip("/") if named.startswith("/") else self.directory / named)

    def resolved(self, path: Path) -> Path:
        """Return the path with its links followed as the node follows them; raises CredentialsUnusable."""
        if self.root == Path("/") or not path.is_relative_to(self.root):
            return path  # the kernel does it, or it is the pod's own path
        found = _follow(self.root, path.relative_to(self.root).parts)
        if found is None:
            raise CredentialsUnusable(f"{_shown(path)}: too many symbolic links", remedy="correct the links")
        return found


def _follow(root: Path, parts: tuple[str, ...]) -> Path | None:
    """Walk as if `root` were the root of the file system; None after too many links."""
    pending, found, links = list(reversed(parts)), root, 0
    while pending and links <= MAX_LINKS:
        part = pending.pop()
        if part == "..":
            found = found.parent if found != root else root
            continue
        target = _target(found / part)
        if target is None:
            found /= part
            continue
        links += 1
        found = root if target.is_absolute() else found
        pending.extend(reversed([name for name in target.parts if name != "/"]))
    return None if pending else found


def _target(path: Path) -> PurePosixPath | None:
    with contextlib.suppress(OSError):  # no link, or nothing at all: whoever opens the file finds out
        return PurePosixPath(os.readlink(path))
    return None


def _read(path: Path, what: str) -> bytes:
    """Return the content of a regular file of bounded size, never empty; raises CredentialsUnusable."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_FILE_BYTES + 1) if is_file else b""
    except OSError as err:
        why = err.strerror or "cannot be read"
    else:
        if 0 < len(content) <= MAX_FILE_BYTES:
            return content
        why = f"has more than {MAX_FILE_BYTES} bytes" if content else "is empty" if is_file else "is not a file"
    raise CredentialsUnusable(f"{what} {_shown(path)}: {why}", remedy="put the file there, readable for the agent")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _pem(path: Path, what: str) -> Pem:
    return Pem(content=_read(path, what), origin=f"{what} {_shown(path)}")


def _shown(path: Path) -> str:
    return str(path).encode(errors="backslashreplace").decode()


def _token(text: str, origin: str) -> Secret:
    """Return the header for a token, checked to be one line; raises CredentialsUnusable."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CredentialsUnusable(f"{origin}: {_NOT_A_TOKEN}", remedy="put a token there")
    return Secret(f"Bearer {token}")
