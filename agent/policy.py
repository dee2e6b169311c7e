"""When the next pass runs: resync with jitter, retry with capped exponential backoff. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: A resync is spread by this share of its interval, so that nodes started together drift apart.
RESYNC_JITTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Intervals in seconds."""

    resync_s: float
    retry_min_s: float
    retry_max_s: float

    def after_success(self, *, random: float) -> float:
        """Seconds until the slow resync; `random` is from 0 to 1."""
        return self.resync_s * (1 + RESYNC_JITTER * (2 * random - 1))

    def after_failure(self, failures: int) -> float:
        """Seconds until the retry after this many failed passes in a row (1 or more)."""
        exponent = min(failures - 1, 30)  # 2**30 is beyond any cap and no overflow
        return float(min(self.retry_min_s * 2**exponent, self.retry_max_s))
