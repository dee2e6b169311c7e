"""The one place that polls: for other processes and threads, which offer no event to wait for."""

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.01


def until(condition: Callable[[], bool], *, what: str, timeout_s: float = 8.0) -> float:
    """Return after how many seconds `condition` held; fail and name `what` when the deadline passes first."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - started


async def until_async(condition: Callable[[], bool], *, what: str, timeout_s: float = 8.0) -> None:
    """Do the same while the event loop of the test goes on."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain: {what}")
        await asyncio.sleep(POLL_S)
