"""The two records of whose directories these are, as files that others write too."""

from __future__ import annotations

import pytest

from agent.ownership import read_names, write_names


def test_names_are_written_as_bashible_writes_them() -> None:
    """Sorted, compact, newline at the end."""
    assert b'["a","b:5001","registry.d8-system.svc:5001"]\n' == write_names(
        {"b:5001", "registry.d8-system.svc:5001", "a"}
    )
    assert b"[]\n" == write_names(())


@pytest.mark.parametrize("names", [(), ("a",), ("_default", "[fd00::1]:5001", "регистр")])
def test_names_survive_writing_and_reading(names: tuple[str, ...]) -> None:
    """Also those that Deckhouse or an operator put there."""
    found = read_names(write_names(names), path="x")
    assert (frozenset(names), ()) == (found.names, found.notices)


def test_a_missing_file_knows_nothing() -> None:
    """And is no cause for a warning."""
    found = read_names(None, path="x")
    assert (frozenset(), ()) == (found.names, found.notices)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"null", b'{"a": 1}', b'"a"', b"1", b"\xff", b'["a"', b"[" * 100_000],
    ids=["empty", "broken", "null", "map", "text", "number", "not-utf8", "truncated", "deep"],
)
def test_a_file_that_is_no_list_counts_as_empty(raw: bytes) -> None:
    """With a warning that names the file; never a crash, and nothing is removed on its word."""
    found = read_names(raw, path="/x/state.json")
    assert frozenset() == found.names
    assert ["StateFileInvalid"] == [notice.code for notice in found.notices]
    assert "/x/state.json" in found.notices[0].message


def test_entries_that_are_no_plain_names_are_dropped_and_counted() -> None:
    """They are refused, never followed, and never quoted."""
    raw = b'["a", "", ".", "..", "../etc", "/etc", "b/c", 1, null, ["d"], {"e": 1}, "f\\u0000g", "h"]'
    found = read_names(raw, path="x")
    assert {"a", "h"} == found.names
    assert ["x has 11 entries that are not host names; they are dropped"] == [one.message for one in found.notices]
