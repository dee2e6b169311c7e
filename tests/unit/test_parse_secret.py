"""A Secret around the document, in every form that a file source may hold."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from agent.errors import ConfigInvalid
from agent.parse.document import MAX_DOCUMENT_BYTES
from agent.parse.secret import MAX_MANIFEST_BYTES, from_data, from_file
from tests.support import documents

_DOCUMENT = documents.UNMANAGED
_ENCODED = base64.b64encode(_DOCUMENT).decode()
_WRAPPED = "\n".join(_ENCODED[start : start + 76] for start in range(0, len(_ENCODED), 76))


def _manifest(**fields: Any) -> documents.Fields:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "registry-bashible-config", "namespace": "d8-system", "labels": {"n": "1"}},
        "type": "Opaque",
        **fields,
    }


def _problem(raw: bytes) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        from_file(raw)
    (problem,) = caught.value.problems
    return str(problem)


def test_a_plain_document_is_itself() -> None:
    """Byte for byte: its digest is that of the file."""
    assert _DOCUMENT == from_file(_DOCUMENT)


@pytest.mark.parametrize(
    "raw",
    [
        documents.raw(_manifest(data={"config": _ENCODED})),
        documents.raw(_manifest(data={"config": _WRAPPED})),
        documents.raw(_manifest(data={"config": f"{_ENCODED}\n"})),
        documents.raw(_manifest(data={"other": "eA==", "config": _ENCODED})),
        documents.raw(_manifest(stringData={"config": _DOCUMENT.decode()})),
        documents.raw(_manifest(stringData={"other": "x"}, data={"config": _ENCODED})),
        documents.raw(_manifest(stringData={"config": _DOCUMENT.decode()}, data={"config": "!"})),
        json.dumps(_manifest(data={"config": _ENCODED})).encode(),
        json.dumps(_manifest(stringData={"config": _DOCUMENT.decode()}), indent=2).encode(),
        b"---\n" + documents.raw(_manifest(data={"config": _ENCODED})),
        documents.raw({**_manifest(data={"config": _ENCODED}), "metadata": {"generation": 1, "managed": [2.5, None]}}),
    ],
    ids=[
        "data",
        "data-wrapped",
        "data-with-newline",
        "data-beside-others",
        "stringData",
        "stringData-of-another-key",
        "stringData-wins-as-in-kubernetes",
        "json",
        "json-stringData",
        "document-start",
        "numbers-in-metadata",
    ],
)
def test_a_manifest_gives_its_document(raw: bytes) -> None:
    """What `kubectl get -o yaml`, `-o json` and a person's manifest look like."""
    assert _DOCUMENT == from_file(raw)


def test_a_block_scalar_in_data_is_unwrapped() -> None:
    """Base64 as `base64` prints it, pasted into a block."""
    lines = "\n".join(f"    {line}" for line in _WRAPPED.splitlines())
    raw = f"apiVersion: v1\nkind: Secret\ndata:\n  config: |\n{lines}\n".encode()
    assert _DOCUMENT == from_file(raw)


def test_the_key_is_a_setting() -> None:
    """Another key is read, and named when it is missing."""
    raw = documents.raw(_manifest(data={"mine": _ENCODED}))
    assert _DOCUMENT == from_file(raw, key="mine")
    with pytest.raises(ConfigInvalid, match=r"data\.yours: is missing from the Secret"):
        from_file(raw, key="yours")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": None},
        {"data": {}},
        {"data": {"Config": _ENCODED}},
        {"data": {"config": ""}},
        {"data": {"config": None}},
        {"data": {"config": 1234}},
        {"data": {"config": {"a": "b"}}},
        {"data": [_ENCODED]},
        {"stringData": {"config": 1234}},
        {"stringData": "x"},
    ],
    ids=[
        "no-data",
        "data-null",
        "data-empty",
        "other-case",
        "empty",
        "null",
        "number",
        "map",
        "list",
        "stringData-number",
        "stringData-text",
    ],
)
def test_a_manifest_without_the_key_is_refused(fields: documents.Fields) -> None:
    """A Secret that lacks its key is broken, not absent: the last good config stays in force."""
    assert "data.config: is missing from the Secret" == _problem(documents.raw(_manifest(**fields)))


@pytest.mark.parametrize(
    "encoded",
    ["c4nary!", "c4nary", f"{_ENCODED}=", _ENCODED[:-5], "🔑", "YQ==YQ==", "_-_-"],
    ids=["bad-character", "bad-length", "too-much-padding", "truncated", "not-ascii", "two-in-one", "url-safe"],
)
def test_a_key_that_is_not_base64_is_refused(encoded: str) -> None:
    """The value is not quoted, and the library's error is not chained."""
    with pytest.raises(ConfigInvalid) as caught:
        from_data({"config": encoded})
    assert "data.config: is not base64" == str(caught.value.problems[0])
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


@pytest.mark.parametrize(
    "raw",
    [
        b"kind: [Secret\n",
        b"kind: Secret\nkind: Secret\n",
        b"kind: Secret\ndata: &a {config: eA==}\n",
        b"kind: Secret\n---\nkind: Secret\n",
    ],
    ids=["broken", "duplicate-key", "anchor", "two-documents"],
)
def test_a_manifest_is_read_as_strictly_as_a_document(raw: bytes) -> None:
    """The same reader, the same refusals."""
    with pytest.raises(ConfigInvalid):
        from_file(raw)


@pytest.mark.parametrize(
    "raw",
    [
        documents.raw({**documents.document(), "kind": "SecretAgent"}),
        documents.raw({"apiVersion": "v1", "kind": "SecretList", "items": []}),
        b"- Secret\n- kind\n",
        b"Secret kind\n",
    ],
    ids=["document-with-a-field-kind", "list", "yaml-list", "text"],
)
def test_what_is_no_secret_goes_on_as_it_is(raw: bytes) -> None:
    """The document's own rules decide about it."""
    assert raw == from_file(raw)


def test_a_manifest_around_the_largest_document_is_read() -> None:
    """base64 makes it larger than the document's own limit."""
    document = _DOCUMENT + b"#" * (MAX_DOCUMENT_BYTES - len(_DOCUMENT))
    raw = documents.raw(_manifest(data={"config": base64.b64encode(document).decode()}))
    assert document == from_file(raw)


def test_a_manifest_beyond_any_document_is_refused() -> None:
    """Its size is said, its content is not read."""
    raw = b"kind: Secret\n" + b"#" * MAX_MANIFEST_BYTES
    assert f"the document has {len(raw)} bytes" in _problem(raw)
