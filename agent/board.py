"""The latest report and the heartbeat of the loop, for the health endpoint and the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A report with what only the loop knows: when, why and how long."""

    report: Report
    number: int
    trigger: str
    finished_at: float
    duration_s: float
    next_in_s: float


class Board:
    """Written by the reconcile loop, read by the health endpoint and the watchdog; all on the event loop."""

    def __init__(self, *, pass_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`pass_timeout_s` is how long a pass may run before the loop counts as hung."""
        self._timeout_s = pass_timeout_s
        self._clock = clock
        self._started: float | None = None
        self._next_at = clock()
        self.posted: Posted | None = None

    def begin_pass(self) -> None:
        """Note that a pass has begun."""
        self._started = self._clock()

    def post(self, posted: Posted) -> None:
        """Note that a pass has ended, and publish its report."""
        self._started = None
        self._next_at = self._clock() + posted.next_in_s
        self.posted = posted

    @property
    def hung_for_s(self) -> float | None:
        """Seconds that the present pass has run, when that is longer than it may; else None."""
        if self._started is None:
            return None
        running_s = self._clock() - self._started
        return running_s if running_s > self._timeout_s else None

    @property
    def is_alive(self) -> bool:
        """Tell whether the loop keeps its word: a pass ends in time, and the next one begins when it was to."""
        since = self._next_at if self._started is None else self._started
        return self._clock() - since <= self._timeout_s
