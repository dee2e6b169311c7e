"""The loop that the tests of hours and days rest on."""

import asyncio
import time

import pytest

from tests.support.faketime import jumping, now


def test_a_day_takes_no_time() -> None:
    """Timers fire in their order, at their time, and nobody waits for them."""
    fired: list[tuple[str, float]] = []

    @jumping
    async def day() -> None:
        began, loop = now(), asyncio.get_running_loop()
        for name, at_s in (("late", 86_400.0), ("early", 0.5), ("noon", 43_200.0)):
            loop.call_later(at_s, lambda name=name: fired.append((name, now() - began)))  # type: ignore[misc]
        await asyncio.sleep(86_401)

    started = time.monotonic()
    day()
    assert [("early", 0.5), ("noon", 43_200.0), ("late", 86_400.0)] == fired
    assert time.monotonic() - started < 1


@jumping
async def test_timeouts_end_what_never_ends() -> None:
    """At their time, not before."""
    began = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(35):
            await asyncio.Event().wait()
    assert 35 == now() - began


@jumping
async def test_what_is_ready_takes_no_time() -> None:
    """A thousand turns of the loop are one moment."""
    began = now()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert began == now()


def test_waiting_for_nothing_is_a_failure() -> None:
    """Not a test that hangs until its ceiling."""

    @jumping
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="never happen"):
        stuck()


def test_tasks_that_are_left_behind_are_a_failure() -> None:
    """As in tests on the ordinary loop."""

    @jumping
    async def careless() -> None:
        task = asyncio.create_task(asyncio.sleep(1), name="left")
        assert not task.done()

    with pytest.raises(AssertionError, match="left"):
        careless()
