"""TLS towards the Kubernetes API: whom to trust and with which certificate to come.

The only door to `ssl` of this room. A private key never touches a disk: OpenSSL reads certificate
and key from files only, so they are given to it as anonymous memory files.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.errors import CredentialsUnusable

Context = ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Pem:
    """PEM text, and where it comes from in words."""

    content: bytes = field(repr=False)
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A client certificate, its chain and its private key."""

    certificate: Pem
    key: Pem


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All that a context is made of. Without a CA the system's trust store counts."""

    ca: Pem | None = None
    is_insecure: bool = False
    pair: KeyPair | None = None


class Contexts:
    """Keeps the newest context: connections are pooled by it, so equal terms give the same object."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: tuple[Terms, Context] | None = None

    def of(self, terms: Terms) -> Context:
        """Return the context for these terms; raises CredentialsUnusable."""
        if self._kept is None or self._kept[0] != terms:
            self._kept = terms, build(terms)
        return self._kept[1]


def build(terms: Terms) -> Context:
    """Return a new context that verifies name and CA unless told otherwise; raises CredentialsUnusable.

    `create_default_context` is not used: from Python 3.13 it sets VERIFY_X509_STRICT, which refuses
    CAs that Go accepts (no authority key identifier, as OpenSSL's own examples make them).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # As in Go, any certificate of the CA bundle is an anchor, self-signed or not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if terms.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif terms.ca is None:
        context.load_default_certs()
    else:
        _trust(context, terms.ca)
    if terms.pair is not None:
        _present(context, terms.pair)
    return context


def _trust(context: Context, ca: Pem) -> None:
    # Outside of the PEM blocks Go lets any text pass, OpenSSL ASCII only.
    with contextlib.suppress(ssl.SSLError, ValueError):
        context.load_verify_locations(cadata=ca.content.decode("ascii", "ignore"))
        return
    raise CredentialsUnusable(f"{ca.origin}: holds no usable CA certificate (PEM)", remedy="put the cluster's CA there")


def _present(context: Context, pair: KeyPair) -> None:
    # With a password at hand OpenSSL never asks the terminal for one: an encrypted key is an error.
    with contextlib.suppress(ssl.SSLError), _file(pair.certificate) as certificate, _file(pair.key) as key:
        context.load_cert_chain(certificate, key, password="")
        return
    where = " and ".join(dict.fromkeys((pair.certificate.origin, pair.key.origin)))
    raise CredentialsUnusable(
        f"{where}: client certificate and private key do not parse or do not belong together",
        remedy="both must be PEM, the key without a password; a rotation in progress ends by itself",
    )


@contextlib.contextmanager
def _file(pem: Pem) -> Iterator[str]:
    """Give the content a path in memory."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(pem.content)
        yield f"/proc/self/fd/{descriptor}"


def problem(err: Exception) -> str | None:
    """Say what OpenSSL means; None when it is not its exception."""
    if not isinstance(err, ssl.SSLError) or isinstance(err, ssl.SSLCertVerificationError):
        return None
    reason = err.reason or "error"
    if reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS there"
    if "ALERT" in reason:
        return f"the server refuses the client certificate, or wants one ({reason})"
    return f"TLS fails ({reason})"
