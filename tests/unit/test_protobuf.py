"""Protobuf's wire format, field by field."""

import pytest

from agent import protobuf


def test_fields_are_found_by_number() -> None:
    message = b"\x0a\x01a\x12\x02bc\x18\x96\x01"
    assert protobuf.text(message, 1) == "a"
    assert protobuf.text(message, 2) == "bc"
    assert protobuf.number(message, 3) == 150


def test_a_field_that_is_not_there_is_empty() -> None:
    assert protobuf.text(b"", 1) == ""
    assert protobuf.number(b"", 1) == 0
    assert protobuf.every(b"", 1) == ()


def test_the_last_of_several_counts_and_all_can_be_had() -> None:
    message = b"\x0a\x01a\x0a\x01b\x10\x01\x10\x02"
    assert protobuf.text(message, 1) == "b"
    assert protobuf.number(message, 2) == 2
    assert protobuf.every(message, 1) == (b"a", b"b")


def test_unknown_fields_of_every_kind_are_passed_over() -> None:
    """A varint, 64 bits, bytes, 32 bits, and a number above 15, which takes a longer tag."""
    message = b"\x20\xff\x01" + b"\x29" + b"8" * 8 + b"\x32\x01x" + b"\x3d" + b"4" * 4 + b"\xa2\x06\x01y" + b"\x0a\x01a"
    assert protobuf.text(message, 1) == "a"
    assert protobuf.every(message, 100) == (b"y",)


def test_a_field_of_another_kind_is_an_unknown_one() -> None:
    assert protobuf.text(b"\x08\x01", 1) == ""
    assert protobuf.number(b"\x0a\x01a", 1) == 0


def test_text_that_is_no_text_is_shown_as_such() -> None:
    assert protobuf.text(b"\x0a\x01\xff", 1) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x02a",
        b"\x0a\xff",
        b"\x08",
        b"\x08\x80",
        b"\x80",
        b"\x29" + b"8" * 7,
        b"\x3d" + b"4" * 3,
        b"\x0b",
        b"\x0c",
        b"\x0f",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_what_is_cut_short_or_no_message_is_refused(message: bytes) -> None:
    """Also in a field that nobody asked for."""
    with pytest.raises(ValueError, match=r"truncated|unknown"):
        protobuf.text(message, 9)
