"""What systemd hears of the agent, on real datagram sockets, and what the watchdog is fed on."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from agent.board import Board, Posted
from agent.errors import Obstructed
from agent.notify import MAX_STATUS_CHARACTERS, Notifier
from agent.outcome import Mode, Outcome, Standing
from agent.report import Report, make_report

PASS_TIMEOUT_S = 300.0
PERIOD_S = 0.02


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Listen as a service manager does."""
    address = str(tmp_path / "notify") if request.param == "path" else f"\0{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(0)
        yield manager


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    address = f"@{name[1:].decode()}" if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def report(message: str = "") -> Report:
    errors = (Obstructed(message),) if message else ()
    outcome = Outcome(
        mode=Mode.MANAGE, standing=Standing.NOT_CONFIGURED, steps=(), is_in_place=not message, errors=errors
    )
    return make_report(outcome)


def test_a_report_makes_ready_and_is_the_status_in_one_short_line(manager: socket.socket) -> None:
    """Ready means that the first pass has an outcome, not that all is well."""
    notifier = Notifier(environment(manager))
    notifier.report(report())
    notifier.report(report("two\nlines \udcff" + "long" * 100))
    well, unwell = heard(manager)
    assert well.startswith("READY=1\nSTATUS=ready (NotConfigured): ")
    assert unwell.startswith("READY=1\nSTATUS=not ready (PathObstructed): two lines \\udcff")
    assert len(unwell.splitlines()) == 2
    assert len(unwell.partition("STATUS=")[2]) < MAX_STATUS_CHARACTERS + len("\\udcff")


def test_the_end_is_said(manager: socket.socket) -> None:
    Notifier(environment(manager)).stopping()
    assert ["STOPPING=1"] == heard(manager)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nobody/listens", "@nobody-listens"])
async def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    async with notifier.watched(lambda: True):
        notifier.report(report())
        notifier.stopping()


def test_a_manager_that_does_not_read_holds_nothing_up(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    for _ in range(5000):
        notifier.stopping()
    assert 0 < len(heard(manager)) < 5000, "the queue was never full"


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
    ids=["none", "off", "garbage", "another's"],
)
async def test_a_watchdog_that_is_not_ours_is_not_fed(manager: socket.socket, watchdog: Mapping[str, str]) -> None:
    async with Notifier(environment(manager, **watchdog)).watched(lambda: True):
        assert asyncio.current_task() == asyncio.all_tasks().pop()
    assert [] == heard(manager)


async def test_the_watchdog_is_fed_in_time_and_only_while_the_loop_is_alive(manager: socket.socket) -> None:
    """Twice a period; a loop that is not heard of any more starves it, and one that comes back feeds it again."""
    beats = iter([True, True, True, False, False, True])
    asked, asked_at = asyncio.Event(), []

    def is_alive() -> bool:
        asked_at.append(asyncio.get_running_loop().time())
        beat = next(beats, None)
        if beat is None:
            asked.set()
        return bool(beat)

    watchdog = {"WATCHDOG_USEC": f"{PERIOD_S * 1e6:.0f}", "WATCHDOG_PID": f"{os.getpid()}"}
    async with Notifier(environment(manager, **watchdog)).watched(is_alive):
        await asked.wait()
    assert ["WATCHDOG=1"] * 4 == heard(manager)
    assert asked_at[-1] - asked_at[0] >= PERIOD_S / 2 * (len(asked_at) - 1) * 0.9


class Clock:
    """Time that only the test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _ends(board: Board, *, next_in_s: float) -> None:
    board.post(Posted(report=report(), number=1, trigger="", finished_at=0, duration_s=0, next_in_s=next_in_s))


def _runs(board: Board) -> None:
    board.begin_pass()


def _waits(board: Board) -> None:
    board.begin_pass()
    _ends(board, next_in_s=60)


@pytest.mark.parametrize(
    ("reach", "patience_s"),
    [(lambda _: None, PASS_TIMEOUT_S), (_runs, PASS_TIMEOUT_S), (_waits, 60 + PASS_TIMEOUT_S)],
    ids=["before-the-first-pass", "in-a-pass", "between-passes"],
)
def test_the_loop_counts_as_alive_for_as_long_as_an_honest_one_may_be_silent(
    reach: Callable[[Board], None], patience_s: float
) -> None:
    """A long pass is not a hung one, and a loop that does not begin the next pass is."""
    clock = Clock()
    board = Board(pass_timeout_s=PASS_TIMEOUT_S, clock=clock)
    reach(board)
    clock.now_s += patience_s
    assert board.is_alive
    clock.now_s += 1
    assert not board.is_alive
    board.begin_pass()
    assert board.is_alive
