"""The digest that the producer publishes as version, against the contract's own samples."""

from __future__ import annotations

import hashlib
import json

import pytest

from agent.errors import ConfigInvalid
from agent.parse import version, wire, yaml_document
from agent.parse.document import parse
from tests.support import documents
from tests.support.documents import CA, document, host, mirror


def _read(raw: bytes) -> wire.Document:
    return wire.read(yaml_document.load(raw, max_bytes=len(raw)))


def _digest(fields: documents.Fields) -> str:
    return version.digest(_read(documents.raw(fields)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(
            documents.UNMANAGED, "559d0af3afd6691b047fcf8a1b78a20080b4170e006df2308e69b2dea7de21dc", id="Unmanaged"
        ),
        pytest.param(documents.DIRECT, "f8c739a2abcb963f67161779e5b67e792604d008ea577da844efa5eefc32d8b1", id="Direct"),
        pytest.param(
            documents.TRANSITION, "5a75a485304db16dc24b2724bd60bea59576fee38334536ba9f034d5d96b27ff", id="transition"
        ),
    ],
)
def test_the_contracts_samples_have_the_documented_digest(raw: bytes, expected: str) -> None:
    """Computed by Deckhouse's producer; the sample's version says the same."""
    found = _read(raw)
    assert expected == version.digest(found)
    assert expected == found.version


def test_the_digest_is_over_go_json_with_an_empty_version() -> None:
    """Field order, omitted empty fields, and auth always written, spelled out once."""
    fields = document({"b": host(), "a": host(mirror(auth={"username": "u"}))}, imagesBase="a/b", proxyEndpoints=[])
    expected = _sha256(
        '{"mode":"Direct","version":"","imagesBase":"a/b","hosts":{'
        '"a":{"mirrors":[{"host":"mirror.example.com","scheme":"https","auth":{"username":"u","password":"","auth":""}}]},'
        '"b":{"mirrors":[{"host":"mirror.example.com","scheme":"https","auth":{"username":"","password":"","auth":""}}]}'
        "}}"
    )
    assert expected == _digest(fields)


def test_every_optional_field_is_in_the_digest_at_its_place() -> None:
    """proxyEndpoints before hosts; ca before auth, rewrites after it."""
    fields = document(
        {"a": host(mirror(rewrites=[{"to": "b", "from": "a"}], auth=documents.auth("u", "p", "dTpw"), ca=CA))},
        imagesBase="a/b",
        proxyEndpoints=["10.0.0.1:1", "10.0.0.2:1"],
    )
    expected = (
        '{"mode":"Direct","version":"","imagesBase":"a/b","proxyEndpoints":["10.0.0.1:1","10.0.0.2:1"],'
        '"hosts":{"a":{"mirrors":[{"host":"mirror.example.com","scheme":"https",'
        f'"ca":{json.dumps(CA)},"auth":{{"username":"u","password":"p","auth":"dTpw"}},'
        '"rewrites":[{"from":"a","to":"b"}]}]}}}'
    )
    assert _sha256(expected) == _digest(fields)


@pytest.mark.parametrize(
    ("password", "escaped"),
    [
        ("<&>", "\\u003c\\u0026\\u003e"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ('"\\/', '\\"\\\\/'),
        ("é🔑", "é🔑"),
        ("\x7f", "\x7f"),
        ("\\u003c", "\\\\u003c"),
    ],
)
def test_text_is_escaped_as_go_does(password: str, escaped: str) -> None:
    """Go escapes for HTML and JavaScript, and leaves the rest of Unicode alone."""
    fields = document({"a": host(mirror(auth=documents.auth("u", password)))}, imagesBase="a/b")
    expected = (
        '{"mode":"Direct","version":"","imagesBase":"a/b","hosts":{"a":{"mirrors":[{"host":"mirror.example.com",'
        f'"scheme":"https","auth":{{"username":"u","password":"{escaped}","auth":""}}}}]}}}}}}'
    )
    assert _sha256(expected) == _digest(fields)


def test_extensions_are_not_in_the_digest() -> None:
    """Only the producer's own fields count, so an extended document keeps its version."""
    extended = document({"a": host(mirror(skipVerify=True, headers={"X": "1"}), server="https://b")}, future=1)
    assert _digest(document({"a": host()})) == _digest(extended)


def test_a_version_that_is_the_digest_is_no_news() -> None:
    """The producer's own documents raise no notice."""
    parsed = parse(documents.UNMANAGED)
    assert () == parsed.notices
    assert parsed.config.version == parsed.config.digest


def test_a_version_that_is_not_the_digest_is_a_notice() -> None:
    """The version is opaque, so the document is used; but somebody edited it."""
    parsed = parse(documents.UNMANAGED.replace(b"license-token", b"other"))
    assert ["VersionMismatch"] == [notice.code for notice in parsed.notices]
    assert "559d0af3afd6691b047fcf8a1b78a20080b4170e006df2308e69b2dea7de21dc" == parsed.config.version
    assert parsed.config.digest in parsed.notices[0].message


def test_the_direct_sample_is_refused_for_its_ca_alone() -> None:
    """Its CA is a stand-in; all else of the sample is right."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(documents.DIRECT)
    assert ['hosts["registry.d8-system.svc:5001"].mirrors[0].ca'] == [one.path for one in caught.value.problems]
