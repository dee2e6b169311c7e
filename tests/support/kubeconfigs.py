"""Kubeconfigs as bytes (JSON is YAML), and API servers that go no further than the TLS handshake."""

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme

from agent.kube.credentials import Access

#: Must never be seen but in a header, a handshake or the environment of a plugin.
CANARY = "canary-hunter2-never-seen"
SERVER = "https://127.0.0.1:6443"


def document(*, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a kubeconfig with one context, called `here`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {"server": SERVER} if cluster is None else cluster}],
        "users": [{"name": "node", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "kubernetes", "user": "node"}}],
        "current-context": "here",
    }


def raw(*, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> bytes:
    """Return the same as a file has it."""
    return json.dumps(document(cluster=cluster, user=user)).encode()


def encoded(content: bytes | str) -> str:
    """Return base64, as the fields that end in -data want it."""
    return base64.b64encode(content if isinstance(content, bytes) else content.encode()).decode()


def pem(ca: trustme.CA) -> bytes:
    """Return a CA's certificate."""
    return ca.cert_pem.bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A client certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def inline(self) -> dict[str, str]:
        """The fields of a kubeconfig's user."""
        return {"client-certificate-data": encoded(self.certificate), "client-key-data": encoded(self.key)}


def identity(ca: trustme.CA, name: str) -> Identity:
    """Issue a client certificate with this common name."""
    issued = ca.issue_cert(f"{name}.example", common_name=name)
    return Identity(certificate=issued.cert_chain_pems[0].bytes(), key=issued.private_key_pem.bytes())


def write(path: Path, content: bytes | str) -> Path:
    """Write a file with all directories on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@contextlib.contextmanager
def serving(ca: trustme.CA, *names: str, clients: trustme.CA | None = None) -> Iterator[str]:
    """Serve TLS under these names (127.0.0.1 by default) and tell each client its common name.

    With `clients`, only clients with a certificate of this CA are let in. Gives the URL.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context))
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):  # the listener is shut down
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(_common_name(secured).encode())


def _common_name(secured: ssl.SSLSocket) -> str:
    subject: Any = (secured.getpeercert() or {}).get("subject", ())
    return str(dict(pair for entry in subject for pair in entry).get("commonName", "anonymous"))


def greeted(access: Access) -> str:
    """Return as whom the server knows us; raises ssl.SSLError when either side refuses the other."""
    url = urlsplit(access.server)
    assert access.tls is not None
    assert url.hostname is not None
    name = access.server_hostname or url.hostname
    with (
        socket.create_connection((url.hostname, url.port or 443), timeout=5) as plain,
        access.tls.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return secured.recv(100).decode()


def told(error: BaseException) -> str:
    """Return all that a log could ever say about an error: its texts, its fields and its whole chain."""
    chain: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        found = pending.pop()
        if found is not None and found not in chain:
            chain.append(found)
            pending += [found.__cause__, found.__context__]
    return "\n".join(f"{found} {found!r} {found.args!r} {vars(found)!r}" for found in chain)
