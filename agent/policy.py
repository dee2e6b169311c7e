"""When things happen: resync and retry of passes, backoff and manners towards the API. Pure."""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Capped exponential backoff with full jitter: what keeps 5,000 nodes from coming back at once."""

    base_s: float
    cap_s: float

    def delay_s(self, failures: int, *, random: float, at_least_s: float = 0.0) -> float:
        """Seconds to wait after this many failures in a row (1 or more); `random` is from 0 to 1.

        What the server asked for (`at_least_s`) is kept, and spread as well.
        """
        ceiling = min(self.base_s * 2 ** min(failures - 1, 30), self.cap_s)
        return at_least_s + float(ceiling) * random


def rollout_delay_s(node: str, *, spread_s: float) -> float:
    """Seconds that this node waits after a change: the same each time, spread evenly over the nodes."""
    digest = hashlib.sha256(node.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * spread_s


class TokenBucket:
    """Allows a burst of `burst`, then one per `refill_s`."""

    def __init__(self, *, burst: int, refill_s: float) -> None:
        """Start full."""
        self._burst = burst
        self._refill_s = refill_s
        self._tokens = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Take one token if there is one; `now_s` never goes back."""
        passed_s = now_s - self._at_s if self._at_s is not None else 0.0
        self._at_s = now_s
        self._tokens = min(self._burst, self._tokens + passed_s / self._refill_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
