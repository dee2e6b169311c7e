"""Reads protobuf messages without their schema: what a few known fields need, and no more.

Unknown fields are passed over, as every reader must do; a message that is cut short is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator

_MAX_VARINT_BYTES = 10


def text(message: bytes, key: int) -> str:
    """Return the string field of this number, "" when it is not there; the last one counts."""
    return [b"", *every(message, key)][-1].decode(errors="replace")


def number(message: bytes, key: int) -> int:
    """Return the varint field of this number, 0 when it is not there; the last one counts."""
    return [0, *(value for found, value in _fields(message) if found == key and isinstance(value, int))][-1]


def every(message: bytes, key: int) -> tuple[bytes, ...]:
    """Return all values of a length-delimited field: strings, bytes or messages."""
    return tuple(value for found, value in _fields(message) if found == key and isinstance(value, bytes))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, position = _varint(message, position)
            case 5:
                size = 4
            case _:
                raise ValueError("unknown wire type")
        if position + size > len(message):
            raise ValueError("truncated field")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the varint that begins here, and where it ends."""
    value = 0
    for index, byte in enumerate(message[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 -- the last byte has its top bit clear
            return value, position + index + 1
    raise ValueError("truncated varint")
