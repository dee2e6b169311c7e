"""The budget of restarts and the record, for any input."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from agent.switching import (
    MAX_IN_WINDOW,
    MIN_SPACING_S,
    WINDOW_S,
    Failure,
    Goal,
    Loaded,
    Phase,
    Record,
    UnderWay,
    wait_s,
)

#: Whole seconds, so that sums are exact.
_seconds = st.integers(0, 700).map(float)
_texts = st.text(max_size=20)
_times = st.floats(allow_nan=False, allow_infinity=False)

_under_way = st.builds(
    UnderWay,
    phase=st.sampled_from(Phase),
    goal=st.sampled_from(Goal),
    attempt=_texts,
    backup=st.integers(0),
    wanted=_texts,
    section=_texts,
    directory=st.none() | _texts,
    start=_texts,
    containers=st.lists(_texts).map(tuple),
)
_records = st.builds(
    Record,
    loaded=st.none() | st.builds(Loaded, start=_texts, section=_texts, changed_at=st.none() | _times),
    restarts=st.lists(_times, max_size=4).map(tuple),
    failure=st.none() | st.builds(Failure, attempt=_texts, message=_texts),
    under_way=st.none() | _under_way,
    config=st.none() | _texts,
    version=st.none() | _texts,
)


@given(_records)
def test_any_record_is_read_as_it_was_written(record: Record) -> None:
    """Dump and load lose nothing."""
    assert record == Record.load(record.dump())


@given(st.binary())
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    """It is a record or it is none."""
    assert isinstance(Record.load(raw), Record | None)


@given(st.lists(_seconds, min_size=1, max_size=60))
def test_whoever_obeys_never_exceeds_the_budget(pauses: list[float]) -> None:
    """However often it is asked, through the record as it is kept: 1 in any 60 s and 3 in any 600 s."""
    made = _obeyed(itertools.accumulate(pauses))
    assert all(later - earlier >= MIN_SPACING_S for earlier, later in itertools.pairwise(made))
    assert all(after - first >= WINDOW_S for first, after in zip(made, made[MAX_IN_WINDOW:], strict=False))


@given(st.lists(_seconds, min_size=1, max_size=60))
def test_whoever_waits_as_long_as_told_may_restart(pauses: list[float]) -> None:
    """The wait is enough, and never longer than the window."""
    now, record = 0.0, Record()
    for pause in pauses:
        now += pause
        waited = wait_s(record.restarts, now)
        assert 0 <= waited <= WINDOW_S
        now += waited
        assert wait_s(record.restarts, now) == 0
        record = record.with_restart(now)


@given(restarts=st.lists(_times, max_size=5).map(tuple), now=st.floats(0, 1e10))
def test_no_clock_makes_the_wait_longer_than_the_window(restarts: tuple[float, ...], now: float) -> None:
    """A restart in the future counts as now."""
    assert 0 <= wait_s(restarts, now) <= WINDOW_S + 1e-3


def _obeyed(asked_at: Iterable[float]) -> list[float]:
    """Return when a restart was made, of the moments at which one was wished for."""
    record, made = Record(), []
    for now in asked_at:
        if wait_s(record.restarts, now) == 0:
            made.append(now)
            record = record.with_restart(now)
            record = Record.load(record.dump()) or Record()
    return made
