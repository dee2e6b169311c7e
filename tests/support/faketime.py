"""An event loop whose time jumps to the next timer when nothing is ready: a day passes in a second.

For tests without sockets and threads only: whatever the loop cannot see takes no time at all.
"""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable
from typing import ParamSpec

_P = ParamSpec("_P")


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait: says how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise AssertionError("everything waits for something that will never happen")
        if not ready:
            self.now_s += max(timeout or 0.0, 0.0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """The loop; its time begins at second 1000."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # A timer is due when its time has come to the nanosecond, however large the sum of jumps.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now_s


def jumping(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Make an ordinary test of an asynchronous one, run in fake time; it must end all its tasks."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(_alone(test(*args, **kwargs)))

    return run


async def _alone(test: Awaitable[None]) -> None:
    await test
    pending = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not pending, f"the test left tasks behind: {[task.get_name() for task in pending]}"


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let everything happen that happens without time passing."""
    await asyncio.sleep(1e-3)
