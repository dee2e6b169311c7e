"""Wake-ups are a flag, not a queue."""

import asyncio

from agent.daemon import Wakeup


async def test_a_burst_becomes_one_pass() -> None:
    """A hundred wake-ups while a pass runs are one more pass, with the latest reason."""
    wakeup = Wakeup()
    for number in range(100):
        wakeup.set(f"event {number}")
    assert await wakeup.wait(5) == "event 99"
    assert await wakeup.wait(0.01) == "timer"


async def test_time_alone_wakes() -> None:
    """Without any event the pass runs when its time has come."""
    assert await Wakeup().wait(0.01) == "timer"


async def test_a_waiter_is_woken_at_once() -> None:
    """A wake-up ends a wait of an hour."""
    wakeup = Wakeup()
    async with asyncio.timeout(2), asyncio.TaskGroup() as group:
        waiting = group.create_task(wakeup.wait(3600))
        await asyncio.sleep(0)
        wakeup.set("now")
    assert waiting.result() == "now"


async def test_a_cancelled_waiter_ends_cancelled() -> None:
    """Cancelling is not taken for a timeout."""
    waiting = asyncio.create_task(Wakeup().wait(3600))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
