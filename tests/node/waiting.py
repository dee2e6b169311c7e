"""The one place that polls: for outside parts which offer no event to wait for."""

import time
from collections.abc import Callable

POLL_S = 0.02


def until(condition: Callable[[], bool], *, what: str, timeout_s: float = 30.0) -> None:
    """Return once `condition` holds; fail and name `what` when the deadline passes first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(POLL_S)
