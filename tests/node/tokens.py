"""A token server, as the Bearer challenge of a vendor's registry names one."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.node.accounts import Account

ISSUER = "token-server"
SERVICE = "registry"
LIFETIME_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenServer:
    """A running token server."""

    host: str
    port: int
    folder: Path

    def auth(self) -> dict[str, object]:
        """Return the auth section of a registry which sends its clients here."""
        return {
            "token": {
                "realm": f"https://{self.host}:{self.port}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.folder / "ca.pem"),
            }
        }


@contextmanager
def issuing(host: str, folder: Path, ca: trustme.CA, account: Account) -> Iterator[TokenServer]:
    """Serve tokens to those who show the account's name and password."""
    folder.mkdir()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    identity = ca.issue_cert(host, key_type=trustme.KeyType.RSA)
    identity.private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(identity, account)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, name="token-server")
        thread.start()
        try:
            yield TokenServer(host=host, port=server.server_port, folder=folder)
        finally:
            server.shutdown()
            thread.join()


def _handler(identity: trustme.LeafCert, account: Account) -> type[BaseHTTPRequestHandler]:
    """Return the handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if self.headers["Authorization"] != account.basic:
                self._answer(401, {"details": "unauthorized"})
            else:
                self._answer(200, {"token": _token(identity, query.get("scope", []))})

        def do_POST(self) -> None:
            # Older registries' servers know no POST either; containerd then falls back to GET.
            self._answer(405, {"details": "method not allowed"})

        def _answer(self, status: int, document: dict[str, str]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class has it
            """Stay quiet: the registry's log is the witness."""

    return Handler


def _token(identity: trustme.LeafCert, scopes: list[str]) -> str:
    """Sign a token which grants pull on the repositories of the scopes."""
    now = int(time.time())
    names = (scope.split(":")[1] for scope in " ".join(scopes).split())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [_der(identity)]}
    claims = {
        "iss": ISSUER,
        "aud": SERVICE,
        "nbf": now - LIFETIME_S,
        "iat": now,
        "exp": now + LIFETIME_S,
        "access": [{"type": "repository", "name": name, "actions": ["pull"]} for name in names],
    }
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    key = load_pem_private_key(identity.private_key_pem.bytes(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("RS256 needs an RSA key")
    return f"{signed}.{_base64url(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _der(identity: trustme.LeafCert) -> str:
    """Return the certificate in base64 DER, as an x5c header carries it."""
    pem = identity.cert_chain_pems[0].bytes().decode()
    return base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
