"""What is kept about restarts, and what follows from it."""

import json

import pytest

from agent.switching import (
    IN_THE_WAY,
    MAX_IN_WINDOW,
    MIN_SPACING_S,
    WINDOW_S,
    Failure,
    Goal,
    Loaded,
    Phase,
    Record,
    Start,
    State,
    Switched,
    UnderWay,
    digest,
    is_noted,
    is_older,
    is_settled,
    wait_s,
)

LOADED = Loaded(start="boot:1", section="s", changed_at=100.123456789, sign="7:1")
UNDER_WAY = UnderWay(
    phase=Phase.WRITING,
    goal=Goal.REGISTRY_D,
    attempt="a",
    backup=3,
    wanted="w",
    section="s",
    directory="/etc/containerd/registry.d",
    start="boot:1",
    containers=("c1", "c2"),
)
BACK = UnderWay(
    phase=Phase.ROLLING_BACK,
    goal=Goal.LEGACY,
    attempt="b",
    backup=1,
    wanted="w",
    section="s",
    directory=None,
    start="boot:2",
    containers=(),
)
START = Start(id="boot:1", at=200.0)
OTHER = Start(id="boot:2", at=200.0)

RECORDS = [
    pytest.param(Record(), id="empty"),
    pytest.param(Record(loaded=LOADED), id="loaded"),
    pytest.param(Record(loaded=Loaded(start="", section="", changed_at=None, sign=None)), id="loaded-without-file"),
    pytest.param(Record(restarts=(1.0, 2.5, 1e9)), id="restarts"),
    pytest.param(Record(failure=Failure(attempt="a", message='"quoted" \u20ac\n')), id="failure"),
    pytest.param(Record(under_way=UNDER_WAY), id="under-way"),
    pytest.param(Record(under_way=BACK, failure=Failure(attempt="b", message="m")), id="rolling-back"),
    pytest.param(Record(shadowed="7:1"), id="shadowed"),
    pytest.param(Record(shadowed=IN_THE_WAY), id="legacy-files"),
    pytest.param(Record(config="/etc/containerd/config.toml", version="1.7.24~ds1"), id="seen"),
]


def _damaged(**changes: object) -> bytes:
    content = json.loads(Record(loaded=LOADED, under_way=UNDER_WAY, failure=Failure(attempt="a", message="")).dump())
    return json.dumps({**content, **changes}).encode()


DAMAGED = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x00" * 100, id="zeroes"),
    pytest.param(b"\xff\xfe", id="no-text"),
    pytest.param(Record(loaded=LOADED).dump()[:-20], id="cut"),
    pytest.param(b"[]", id="list"),
    pytest.param(b"null", id="null"),
    pytest.param(b"1", id="number"),
    pytest.param(b"{}", id="nothing-in-it"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(_damaged(loaded={"start": "x"}), id="loaded-incomplete"),
    pytest.param(_damaged(loaded=[1]), id="loaded-is-a-list"),
    pytest.param(_damaged(loaded={"start": "x", "section": "", "changed_at": 1, "more": 1}), id="loaded-has-more"),
    pytest.param(_damaged(restarts=["x"]), id="restart-is-text"),
    pytest.param(_damaged(restarts=None), id="no-restarts"),
    pytest.param(_damaged(under_way={"phase": "writing"}), id="under-way-incomplete"),
    pytest.param(_damaged(under_way="writing"), id="under-way-is-text"),
    pytest.param(_damaged(failure="x"), id="failure-is-text"),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    """Every shape comes back equal."""
    assert record == Record.load(record.dump())


def test_a_record_that_is_not_there_is_empty() -> None:
    """A first start is no damage."""
    assert Record() == Record.load(None)


@pytest.mark.parametrize("raw", DAMAGED)
def test_a_damaged_record_is_none(raw: bytes) -> None:
    """Whatever is wrong with it, it is said and never raised."""
    assert Record.load(raw) is None


def test_an_unknown_phase_is_damage() -> None:
    """A record of a later agent is not guessed at."""
    raw = Record(under_way=UNDER_WAY).dump().replace(b'"writing"', b'"dancing"')
    assert Record.load(raw) is None


def test_only_as_many_restarts_are_kept_as_the_budget_looks_at() -> None:
    """The record does not grow."""
    record = Record()
    for at in range(10):
        record = record.with_restart(float(at))
    assert (7.0, 8.0, 9.0) == record.restarts


def test_digests_tell_where_a_part_ends() -> None:
    """The same bytes, cut elsewhere, are another input."""
    assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"abc", b"")}) == 4
    assert digest(b"ab", b"c") == digest(b"ab", b"c")


@pytest.mark.parametrize(
    ("record", "start", "section", "changed_at", "expected"),
    [
        pytest.param(Record(loaded=LOADED), START, "s", 300.0, True, id="noted-however-late-the-file"),
        pytest.param(Record(loaded=LOADED), START, "t", 100.0, False, id="noted-another-section"),
        pytest.param(Record(loaded=LOADED), OTHER, "s", LOADED.changed_at, True, id="untouched-since-an-earlier-start"),
        pytest.param(Record(loaded=LOADED), OTHER, "t", LOADED.changed_at, None, id="another-section-started-since"),
        pytest.param(Record(loaded=LOADED), OTHER, "s", 300.0, None, id="touched-and-started-since"),
        pytest.param(Record(), START, "s", 100.0, None, id="nothing-noted"),
    ],
)
def test_what_the_record_says_that_containerd_has_read(
    record: Record, start: Start, section: str, changed_at: float | None, *, expected: bool | None
) -> None:
    """The note on this very start, or on an earlier one of a file untouched since; clocks play no part."""
    assert expected is is_noted(record, start, section=section, changed_at=changed_at)


@pytest.mark.parametrize(("changed_at", "expected"), [(100.0, True), (200.0, False), (300.0, False), (None, True)])
def test_a_file_that_is_older_than_the_start_was_read_by_it(changed_at: float | None, *, expected: bool) -> None:
    """The same moment is not older."""
    assert expected is is_older(START, changed_at=changed_at)


def test_restarts_in_the_future_count_as_now_once() -> None:
    """Else a clock that was wrong for a moment would use up the budget until it is right."""
    record = Record(restarts=(100.0, 9e9)).with_clock(1000.0)
    assert (100.0, 1000.0) == record.restarts
    assert 0 == wait_s(record.with_clock(2000.0).restarts, 2000.0)


@pytest.mark.parametrize(
    ("record", "section", "changed_at", "sign", "expected"),
    [
        pytest.param(Record(loaded=LOADED), "s", LOADED.changed_at, "7:1", True, id="as-noted"),
        pytest.param(Record(loaded=LOADED), "t", LOADED.changed_at, "7:1", False, id="another-section"),
        pytest.param(Record(loaded=LOADED), "s", 101.0, "7:1", False, id="file-touched"),
        pytest.param(Record(loaded=LOADED), "s", None, "7:1", False, id="file-gone"),
        pytest.param(Record(loaded=LOADED), "s", LOADED.changed_at, "7:2", False, id="another-start"),
        pytest.param(Record(loaded=LOADED), "s", LOADED.changed_at, None, False, id="socket-gone"),
        pytest.param(Record(loaded=LOADED, under_way=UNDER_WAY), "s", LOADED.changed_at, "7:1", False, id="under-way"),
        pytest.param(Record(), "s", 100.0, "7:1", False, id="nothing-known"),
    ],
)
def test_what_needs_no_second_look(
    record: Record, section: str, changed_at: float | None, sign: str | None, *, expected: bool
) -> None:
    """Only a file that was not touched since containerd had read it, by a containerd that was not started since."""
    assert expected is is_settled(record, section=section, changed_at=changed_at, sign=sign)


@pytest.mark.parametrize(
    ("restarts", "now", "expected"),
    [
        pytest.param((), 1000.0, 0.0, id="none-yet"),
        pytest.param((1000.0,), 1000.0, 60.0, id="a-moment-ago"),
        pytest.param((1000.0,), 1059.5, 0.5, id="almost-a-minute-ago"),
        pytest.param((1000.0,), 1060.0, 0.0, id="a-minute-ago"),
        pytest.param((1000.0, 1060.0), 1121.0, 0.0, id="two-in-the-window"),
        pytest.param((1000.0, 1060.0, 1120.0), 1180.0, 420.0, id="three-in-the-window"),
        pytest.param((1000.0, 1060.0, 1599.0), 1600.0, 59.0, id="the-longer-wait-counts"),
        pytest.param((1000.0, 1060.0, 1120.0), 1600.0, 0.0, id="the-first-has-left"),
        pytest.param((900.0, 1000.0, 1060.0, 1120.0), 1600.0, 0.0, id="more-than-are-looked-at"),
        pytest.param((1120.0, 1000.0, 1060.0), 1180.0, 420.0, id="in-any-order"),
        pytest.param((5000.0,), 1000.0, 60.0, id="the-clock-went-back"),
        pytest.param((5000.0, 5060.0, 5120.0), 1000.0, 600.0, id="the-clock-went-back-after-three"),
    ],
)
def test_how_long_the_budget_lets_wait(restarts: tuple[float, ...], now: float, expected: float) -> None:
    """One in 60 s, three in 600 s; a clock that went back never makes the wait longer than the window."""
    assert expected == wait_s(restarts, now)


def test_the_budget_is_far_below_the_start_limit_of_systemd() -> None:
    """5 starts in 10 s leave containerd dead; a restart and its way back are two."""
    assert 2 * 10 / MIN_SPACING_S + 1 < 5
    assert MIN_SPACING_S * MAX_IN_WINDOW < WINDOW_S


@pytest.mark.parametrize("state", list(State))
def test_which_states_are_settled(state: State) -> None:
    """What waits, fails or only would change something is not."""
    expected = state in {State.LEFT_ALONE, State.IN_ORDER, State.RESTARTED}
    assert expected is Switched(state=state).is_settled
