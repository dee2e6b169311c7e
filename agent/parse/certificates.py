"""PEM checks on OpenSSL's own parser: the only door to `ssl` in the core.

A CA file that Go cannot read makes every pull of its registry fail, so it is refused beforehand.
Nothing is written: a key pair is compared through an anonymous memory file, because OpenSSL reads
private keys from files only.
"""

from __future__ import annotations

import os
import re
import ssl

from agent.parse.encoding import canonical_base64

#: As Go reads PEM: both marks alone at the start of a line (encoding/pem).
_BLOCK = re.compile(
    r"^-----BEGIN (?P<label>[^\n-]+)-----[ \t\r]*\n(?P<body>[^-]*)^-----END (?P=label)-----[ \t\r]*$", re.MULTILINE
)
_BLANKS = re.compile(r"\s+")
_MARK = "-----BEGIN "

NO_CERTIFICATE = "holds no parseable certificate (PEM, -----BEGIN CERTIFICATE-----)"


class CaChecker:
    """Checks CA bundles; one bundle is usually shared by many mirrors and is parsed once."""

    def __init__(self) -> None:
        """Start with nothing known; live for one document only."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._known: dict[str, str | None] = {}

    def problem(self, pem: str) -> str | None:
        """Return what is wrong with a bundle: each block must be a certificate that parses."""
        if pem not in self._known:
            self._known[pem] = self._find(pem)
        return self._known[pem]

    def _find(self, pem: str) -> str | None:
        blocks = list(_BLOCK.finditer(pem))
        if not blocks:
            return NO_CERTIFICATE
        if pem.count(_MARK) != len(blocks):
            return "holds a damaged PEM block"
        if any("PRIVATE KEY" in block["label"] for block in blocks):
            return "holds a private key, which does not belong into a CA file"
        if any(block["label"] != "CERTIFICATE" for block in blocks):
            return "holds a PEM block that is no certificate"
        if not all(self._parses(block["body"]) for block in blocks):
            return f"{NO_CERTIFICATE}: at least one of its {len(blocks)} blocks is damaged"
        return None

    def _parses(self, body: str) -> bool:
        der = canonical_base64(_BLANKS.sub("", body))
        if der is None or len(der) != _der_length(der):
            return False
        try:
            self._context.load_verify_locations(cadata=der)
        except (ssl.SSLError, ValueError):
            return False
        return True


def _der_length(der: bytes) -> int:
    """Length of the first DER element with its header; Go refuses a certificate with more behind it."""
    if len(der) < 2 or der[1] < 0x80:  # noqa: PLR2004 -- X.690: tag and length byte, short form below 0x80
        return 2 + der[1] if len(der) > 1 else 0
    size = der[1] & 0x7F
    return 2 + size + int.from_bytes(der[2 : 2 + size])


def key_pair_problem(certificate: str, key: str) -> str | None:
    """Return what is wrong with a client certificate and its unencrypted private key."""
    if "PRIVATE KEY-----" not in key or "ENCRYPTED" in key:
        return "needs an unencrypted private key in PEM"
    descriptor = os.memfd_create("client-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{certificate}\n{key}\n".encode())
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except (ssl.SSLError, ValueError):
        return "certificate and key do not parse or do not belong together"
    finally:
        os.close(descriptor)
    return None
