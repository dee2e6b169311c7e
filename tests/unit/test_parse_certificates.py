"""Which CA bundles and key pairs are accepted: what Go's PEM and X.509 parsers would read."""

from __future__ import annotations

import base64
import ssl

import pytest

from agent.parse.certificates import CaChecker, key_pair_problem
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY, OTHER_CA, OTHER_KEY

_DER = ssl.PEM_cert_to_DER_cert(CA)
_BODY = "".join(CA.splitlines()[1:-1])


def _pem(body: str, label: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def _encoded(der: bytes) -> str:
    return _pem(base64.b64encode(der).decode())


_ACCEPTED = {
    "one": CA,
    "two": CA + OTHER_CA,
    "the-same-twice": CA + CA,
    "text-before": f"# Example Root CA\nsubject=CN = Example\n{CA}",
    "text-between": f"{CA}\nExample: the other one (2-year)\n\n{OTHER_CA}",
    "text-after": f"{CA}end of file",
    "no-newline-at-end": CA.strip(),
    "crlf": CA.replace("\n", "\r\n"),
    "body-in-one-line": _pem(_BODY),
    "blank-lines-before": f"\n\n{CA}",
    "body-indented": _pem(f"  {_BODY}"),
}

_REFUSED = {
    "blank": " \n",
    "garbage": "garbage",
    "path": "/etc/ssl/ca.crt",
    "base64-without-marks": _BODY,
    "contract-sample": _pem("MIIB"),
    "empty-body": _pem(""),
    "private-key": CLIENT_KEY,
    "private-key-beside": CA + CLIENT_KEY,
    "private-key-before": CLIENT_KEY + CA,
    "other-block": _pem(_BODY, "CERTIFICATE REQUEST"),
    "trusted-certificate": _pem(_BODY, "TRUSTED CERTIFICATE"),
    "public-key": CA + _pem(_BODY, "PUBLIC KEY"),
    "truncated-at-end": CA[: len(CA) // 2],
    "truncated-body": _pem(_BODY[: len(_BODY) // 8 * 4]),
    "truncated-der": _encoded(_DER[:-5]),
    "second-truncated": CA + OTHER_CA[:-40],
    "second-damaged": CA + _pem("MIIB"),
    "damaged-base64": _pem(f"!{_BODY[1:]}"),
    "damaged-padding": _pem(f"{_BODY}A"),
    "url-safe-base64": _pem(f"-_{_BODY[2:]}"),
    "damaged-der": _encoded(bytes(8) + _DER[8:]),
    "labels-differ": CA.replace("END CERTIFICATE", "END CERTIFICATES"),
    "no-end": CA.partition("-----END")[0],
    "begin-twice": f"-----BEGIN CERTIFICATE-----\n{CA}",
    "pem-header": CA.replace("CERTIFICATE-----\n", "CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
    # Go reads BEGIN and END at the start of a line only: folded or indented PEM is no PEM to it.
    "folded-into-one-line": " ".join(CA.split("\n")),
    "marks-indented": CA.replace("\n", "\n  "),
    "begin-after-text": f"CA: {CA}",
    "text-after-end-mark": CA.rstrip("\n") + " x\n",
    # Go's X.509 parser refuses data after the certificate.
    "two-certificates-in-one-block": _encoded(_DER + ssl.PEM_cert_to_DER_cert(OTHER_CA)),
    "byte-after-certificate": _encoded(_DER + b"\xff"),
    "nul-after-certificate": _encoded(_DER + b"\0"),
}


@pytest.mark.parametrize("pem", [pytest.param(pem, id=name) for name, pem in _ACCEPTED.items()])
def test_a_bundle_of_certificates_is_a_ca(pem: str) -> None:
    """Text around the blocks is allowed, as in every distribution's bundle."""
    assert CaChecker().problem(pem) is None


@pytest.mark.parametrize("pem", [pytest.param(pem, id=name) for name, pem in _REFUSED.items()])
def test_a_bundle_with_anything_that_go_cannot_read_is_refused(pem: str) -> None:
    """Such a file makes every pull of its registry fail; the rule never quotes it."""
    problem = CaChecker().problem(pem)
    assert problem is not None
    assert _BODY[:16] not in problem


def test_a_private_key_in_a_ca_is_called_by_its_name() -> None:
    """The one mistake that is also a leak."""
    assert "private key" in str(CaChecker().problem(CA + CLIENT_KEY))


def test_a_bundle_is_judged_alike_the_second_time() -> None:
    """The checker remembers bundles; one that was refused stays refused."""
    checker = CaChecker()
    verdicts = [checker.problem(pem) for pem in (CA, "x", CA, "x", OTHER_CA)]
    assert [True, False, True, False, True] == [verdict is None for verdict in verdicts]


def test_a_certificate_with_its_key_is_a_pair() -> None:
    """A chain may follow the certificate."""
    assert key_pair_problem(CLIENT_CERTIFICATE, CLIENT_KEY) is None
    assert key_pair_problem(CLIENT_CERTIFICATE + CA, CLIENT_KEY) is None


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        pytest.param(CLIENT_CERTIFICATE, OTHER_KEY, id="key-of-another"),
        pytest.param(CA, CLIENT_KEY, id="certificate-of-another"),
        pytest.param(CLIENT_KEY, CLIENT_CERTIFICATE, id="swapped"),
        pytest.param(CLIENT_CERTIFICATE, "", id="no-key"),
        pytest.param("", CLIENT_KEY, id="no-certificate"),
        pytest.param(CLIENT_CERTIFICATE, _pem("MIIB", "PRIVATE KEY"), id="damaged-key"),
        pytest.param(_pem("MIIB"), CLIENT_KEY, id="damaged-certificate"),
        pytest.param(CLIENT_CERTIFICATE, _pem("MIIB", "ENCRYPTED PRIVATE KEY"), id="encrypted-key"),
        pytest.param("garbage", "garbage", id="garbage"),
    ],
)
def test_a_certificate_without_its_key_is_no_pair(certificate: str, key: str) -> None:
    """containerd would fail every pull with it; the rule never quotes either."""
    problem = key_pair_problem(certificate, key)
    assert problem is not None
    assert "MII" not in problem
