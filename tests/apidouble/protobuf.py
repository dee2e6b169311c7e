"""Secrets in protobuf: `kubectl create secret` writes nothing else. Pure."""

import base64
from collections.abc import Iterator
from typing import Any

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"


def secret(body: bytes) -> dict[str, Any]:
    """Return the Secret in a body; raises ValueError for any other kind."""
    if not body.startswith(_MAGIC):
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix")
    envelope = dict(_fields(body[len(_MAGIC) :]))
    kind = dict(_fields(envelope[1]))
    if kind[2] != b"Secret":
        raise ValueError(f"the API double reads no {kind[2].decode()} in protobuf")
    found: dict[str, Any] = {"metadata": {}, "data": {}}
    for number, value in _fields(envelope[2]):
        if number == 1:
            found["metadata"] = _metadata(value)
        elif number == 3:
            found["type"] = value.decode()
        elif number in {2, 4}:
            key, content = _entry(value)
            found["data"][key] = base64.b64encode(content).decode()
    return found


def _metadata(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": {}, "annotations": {}}
    for number, value in _fields(message):
        if number in {1, 2, 3}:
            found[{1: "name", 2: "generateName", 3: "namespace"}[number]] = value.decode()
        elif number in {11, 12}:
            key, content = _entry(value)
            found[{11: "labels", 12: "annotations"}[number]][key] = content.decode()
    return {name: value for name, value in found.items() if value}


def _entry(message: bytes) -> tuple[str, bytes]:
    fields = dict(_fields(message))
    return fields.get(1, b"").decode(), fields.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields that have a length; numbers are of no interest here."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        elif tag & 7 != 0:
            raise ValueError(f"proto: illegal wireType {tag & 7}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
