"""Real registries over TLS, and what their access logs say of each request."""

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

from tests.node.accounts import Account
from tests.node.images import Image
from tests.node.waiting import until

ACCESS_LINE = re.compile(
    r'^\S+ - \S+ \[[^]]+\] "(?P<method>\w+) (?P<url>\S+) \S+" (?P<status>\d+) \d+ '
    r'"[^"]*" "(?P<agent>[^"]*)"$'
)


DRAIN_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of an access log."""

    method: str
    path: str
    namespace: str
    """The registry that the client really meant, which containerd tells a mirror as `ns`."""
    status: int
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry, or only its address when nothing listens there."""

    host: str
    port: int
    folder: Path
    ca: str = ""
    """The certificate, in PEM, that a client must trust."""
    account: Account | None = None
    """Who may push."""
    behind: "Registry | None" = None
    """The registry to whose images this one is another door."""

    @property
    def storage(self) -> Path:
        """The folder of its images."""
        return self.behind.storage if self.behind else self.folder / "storage"

    @property
    def address(self) -> str:
        """The registry as hosts and references name it."""
        return f"{self.host}:{self.port}"

    def reference(self, image: Image) -> str:
        """Return the image's reference at this very registry."""
        return f"{self.address}/{image.name}"

    def requests(self, image: Image) -> tuple[Request, ...]:
        """Return what containerd asked of this registry for the image.

        Complete as soon as a pull has ended: answers this small leave the registry
        only after its handler, and with it the log line, is done.
        """
        prefix = f"/v2/{image.repository}/"
        lines = map(_request, self._text("access.log").splitlines())
        return tuple(r for r in lines if r.path.startswith(prefix) and "containerd" in r.agent)

    def served(self, image: Image) -> bool:
        """Tell whether containerd got the manifest here, by whatever method."""
        return any("/manifests/" in r.path and r.status == 200 for r in self.requests(image))

    def refusals(self) -> int:
        """Count the TLS handshakes that clients broke off: they did not trust this registry."""
        return self._text("server.log").count("TLS handshake error")

    def push(self, image: Image) -> None:
        """Push the image here, by the address that this machine needs no name for."""
        if self.behind:
            self.behind.push(image)
            return
        login = ["--dest-creds", self.account.pair] if self.account else ["--dest-no-creds"]
        source = f"oci:{image.layout}:{image.tag}"
        target = f"docker://127.0.0.1:{self.port}/{image.name}"
        command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *login, source, target]
        subprocess.run(command, check=True)

    def admit(self, *accounts: Account) -> None:
        """Let these accounts in from now on, and nobody else."""
        draft = self.folder / "htpasswd.new"
        draft.write_text("".join(account.htpasswd() for account in accounts))
        draft.rename(self.folder / "htpasswd")

    def _text(self, log: str) -> str:
        return (self.folder / log).read_text()


@contextmanager
def address(host: str, folder: Path) -> Iterator[Registry]:
    """Reserve an address on which nothing listens.

    The socket stays bound: no other process is given the port, while a server
    that sets SO_REUSEADDR, as Go's do, may still listen on it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield Registry(host=host, port=holder.getsockname()[1], folder=folder)


@contextmanager
def serving(
    host: str,
    folder: Path,
    ca: trustme.CA | None,
    *,
    account: Account | None = None,
    auth: Mapping[str, object] | None = None,
    client_ca: trustme.CA | None = None,
    behind: Registry | None = None,
) -> Iterator[Registry]:
    """Run a registry for anyone, for one `account`, or with an `auth` section of the caller's.

    Without a CA it speaks plain HTTP.
    """
    folder.mkdir()
    with address(host, folder) as reserved:
        ca_pem = ca.cert_pem.bytes().decode() if ca else ""
        registry = replace(reserved, ca=ca_pem, account=account, behind=behind)
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(registry.storage)}},
            "http": {
                "addr": f"127.0.0.1:{registry.port}",
                "secret": "test",
                "draintimeout": f"{DRAIN_S}s",
                **({"tls": _tls(folder, ca.issue_cert(host), client_ca)} if ca else {}),
            },
            "auth": {**(auth or {}), **(_htpasswd(folder, account) if account else {})},
        }
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        with _process(folder) as process:
            until(lambda: _listens(registry, process), what=f"{host} listens")
            yield registry


def _tls(folder: Path, identity: trustme.LeafCert, client_ca: trustme.CA | None) -> dict[str, object]:
    """Write the certificates and return the section that names them."""
    identity.private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    section: dict[str, object] = dict.fromkeys(("certificate", "key"), str(folder / "tls.pem"))
    if client_ca is not None:
        client_ca.cert_pem.write_to_path(folder / "clients.pem")
        section["clientcas"] = [str(folder / "clients.pem")]
    return section


def _htpasswd(folder: Path, account: Account) -> dict[str, object]:
    """Write the one account's hash and return the section that names the file."""
    (folder / "htpasswd").write_text(account.htpasswd())
    return {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}


@contextmanager
def _process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run docker-registry; the access log is all that it writes to its standard output."""
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with (folder / "access.log").open("wb") as access, (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=access, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(2 * DRAIN_S)


def _listens(registry: Registry, process: subprocess.Popen[bytes]) -> bool:
    """Tell whether the registry accepts connections; fail if it has ended instead."""
    if process.poll() is not None:
        log = (registry.folder / "server.log").read_text()
        raise RuntimeError(f"{registry.host} ended with {process.returncode}:\n{log}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", registry.port)) == 0


def _request(line: str) -> Request:
    """Parse one line of the access log."""
    found = ACCESS_LINE.match(line)
    if found is None:
        raise ValueError(f"not an access log line: {line!r}")
    url = urlsplit(found["url"])
    return Request(
        method=found["method"],
        path=url.path,
        namespace="".join(parse_qs(url.query).get("ns", [])),
        status=int(found["status"]),
        agent=found["agent"],
    )
