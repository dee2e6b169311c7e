"""Which document applies: present, unreadable, absent once, absent for certain."""

from __future__ import annotations

import pytest

from agent.desired import (
    Absent,
    Candidate,
    Choice,
    Confirm,
    Origin,
    Present,
    Reading,
    Release,
    Unreadable,
    Use,
    choose,
)
from agent.errors import SourceUnreadable

_ERROR = SourceUnreadable("the source cannot be read")
_LIVE = Candidate(document=b"live", origin=Origin.LIVE)
_KEPT = Candidate(document=b"kept", origin=Origin.LAST_GOOD)


def _choose(
    reading: Reading, *, last_good: bytes | None = b"kept", is_managing: bool = True, absent_for_s: float | None = None
) -> Choice:
    return choose(reading, last_good=last_good, is_managing=is_managing, absent_for_s=absent_for_s, settle_s=5)


@pytest.mark.parametrize(("last_good", "expected"), [(b"kept", (_LIVE, _KEPT)), (None, (_LIVE,))])
def test_a_document_is_tried_before_the_last_good_one(last_good: bytes | None, expected: tuple[Candidate, ...]) -> None:
    """A refused document leaves the node with what worked."""
    assert Use(candidates=expected) == _choose(Present(document=b"live"), last_good=last_good)


def test_an_empty_document_is_a_document() -> None:
    """It will be refused as such; it is not the absence of one."""
    chosen = _choose(Present(document=b""), last_good=None)
    assert Use(candidates=(Candidate(document=b"", origin=Origin.LIVE),)) == chosen


@pytest.mark.parametrize("absent_for_s", [None, 0.0, 1000.0])
def test_unreadable_keeps_the_last_good_one(absent_for_s: float | None) -> None:
    """However long: only absence releases a node."""
    expected = Use(candidates=(_KEPT,), error=_ERROR)
    assert expected == _choose(Unreadable(error=_ERROR), absent_for_s=absent_for_s)


def test_unreadable_with_nothing_kept_leaves_nothing_to_try() -> None:
    """Nothing is written and nothing is removed; the error is reported."""
    assert Use(candidates=(), error=_ERROR) == _choose(Unreadable(error=_ERROR), last_good=None)


def test_the_first_absence_is_confirmed() -> None:
    """A Secret that is deleted and created again must not release the node."""
    assert Confirm(last_good=_KEPT, wait_s=5) == _choose(Absent())


@pytest.mark.parametrize(("absent_for_s", "wait_s"), [(0.0, 5.0), (1.5, 3.5), (4.75, 0.25)])
def test_a_wait_for_confirmation_goes_on_where_it_was(absent_for_s: float, wait_s: float) -> None:
    """Another wake-up in between neither shortens nor restarts it."""
    assert Confirm(last_good=_KEPT, wait_s=wait_s) == _choose(Absent(), absent_for_s=absent_for_s)


@pytest.mark.parametrize("absent_for_s", [5.0, 6.0])
def test_a_second_absence_after_the_settle_time_releases(absent_for_s: float) -> None:
    """Nothing is desired, for certain."""
    assert Release() == _choose(Absent(), absent_for_s=absent_for_s)


def test_absence_is_confirmed_even_without_a_last_good_one() -> None:
    """What counts is that the agent manages something on this node."""
    assert Confirm(last_good=None, wait_s=5) == _choose(Absent(), last_good=None)


def test_absence_on_a_node_that_is_not_managed_needs_no_confirmation() -> None:
    """There is nothing to lose."""
    assert Release() == _choose(Absent(), is_managing=False)


def test_a_document_does_not_show_in_a_repr() -> None:
    """Readings and candidates end up in debug logs; documents hold credentials."""
    shown = [repr(Present(document=b"c4nary")), repr(_choose(Present(document=b"c4nary"), last_good=b"c4nary"))]
    shown += [repr(_choose(Absent(), last_good=b"c4nary"))]
    assert "c4nary" not in "".join(shown)
