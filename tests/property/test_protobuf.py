"""Protobuf that anybody may have sent: it is read or refused, and never half of it."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from agent import protobuf

_small = st.integers(min_value=1, max_value=15)
_fields = st.lists(st.tuples(_small, st.binary(max_size=100)))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        protobuf.every(message, 1)


@given(_fields, _small)
def test_what_was_written_is_read(fields: list[tuple[int, bytes]], key: int) -> None:
    message = b"".join(_encoded(field) for field in fields)
    assert protobuf.every(message, key) == tuple(value for number, value in fields if number == key)


@given(_fields, st.data())
def test_a_part_of_a_message_is_refused_or_ends_between_two_fields(
    fields: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    message = b"".join(_encoded(field) for field in fields)
    part = message[: data.draw(st.integers(min_value=0, max_value=len(message)))]
    ends = {len(b"".join(_encoded(field) for field in fields[:count])) for count in range(len(fields) + 1)}
    try:
        protobuf.every(part, 1)
    except ValueError:
        assert len(part) not in ends
    else:
        assert len(part) in ends


def _encoded(field: tuple[int, bytes]) -> bytes:
    number, value = field
    return bytes([number << 3 | 2, len(value)]) + value
