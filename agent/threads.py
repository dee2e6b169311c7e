"""Runs blocking work beside the event loop, in threads that never keep the process alive.

asyncio's own executor is joined at exit: a thread that is deep in computing, or hangs on a dead
disk, would hold up the shutdown. Whoever abandons such work must make sure that it writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def run(name: str, action: Callable[[], _Result]) -> _Result:
    """Return what `action` returns or raises, from a daemon thread of this name."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def work() -> None:
        try:
            value = action()
        except BaseException as err:  # noqa: BLE001 -- handed over to the awaiting side, whatever it is
            deliver(future.set_exception, err)
        else:
            deliver(future.set_result, value)

    def deliver(setter: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else setter(value))

    threading.Thread(target=work, name=name, daemon=True).start()
    return await future
