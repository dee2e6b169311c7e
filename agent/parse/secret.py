"""A Kubernetes Secret around the document: as the API gives it, or as `kubectl get -o yaml` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import ConfigInvalid, Problem
from agent.parse import yaml_document
from agent.parse.document import MAX_DOCUMENT_BYTES
from agent.parse.encoding import canonical_base64

CONFIG_KEY = "config"

#: base64 makes 4 bytes of 3; the rest is room for the manifest's metadata.
MAX_MANIFEST_BYTES = MAX_DOCUMENT_BYTES * 4 // 3 + 256 * 1024


def from_data(data: Mapping[str, Any], *, key: str = CONFIG_KEY) -> bytes:
    """Return the document from a Secret's `data`; raises ConfigInvalid when it is not there."""
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise _refused(f"data.{key}", "is missing from the Secret")
    document = canonical_base64("".join(value.split()))
    if document is None:
        raise _refused(f"data.{key}", "is not base64")
    return document


def from_file(raw: bytes, *, key: str = CONFIG_KEY) -> bytes:
    """Return the document from a file that is the document itself or the manifest of a Secret."""
    if b"Secret" not in raw or b"kind" not in raw:
        return raw
    manifest = yaml_document.load(raw, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(manifest, dict) or manifest.get("kind") != "Secret":
        return raw
    plain = manifest.get("stringData")
    if isinstance(plain, dict) and isinstance(plain.get(key), str):
        return str(plain[key]).encode()
    data = manifest.get("data")
    return from_data(data if isinstance(data, dict) else {}, key=key)


def _refused(path: str, rule: str) -> ConfigInvalid:
    return ConfigInvalid((Problem(path=path, rule=rule),))
