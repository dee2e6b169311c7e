"""When the next pass runs, and with what patience others are asked."""

from __future__ import annotations

from collections import Counter

import pytest

from agent.policy import RESYNC_JITTER, Backoff, Pace, TokenBucket, rollout_delay_s

_PACE = Pace(resync_s=300, retry_min_s=1, retry_max_s=60)


@pytest.mark.parametrize(("random", "expected"), [(0.0, 270.0), (0.5, 300.0), (1.0, 330.0)])
def test_a_resync_is_spread_around_its_interval(random: float, expected: float) -> None:
    """Nodes that were started together drift apart."""
    assert expected == pytest.approx(_PACE.after_success(random=random))
    assert 0.1 == RESYNC_JITTER


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (31, 60), (10_000, 60)]
)
def test_retries_back_off_to_a_cap(failures: int, expected: float) -> None:
    """Doubling, and no overflow after a long weekend."""
    assert expected == _PACE.after_failure(failures)


def test_a_cap_as_small_as_the_start_is_a_steady_retry() -> None:
    """retry_min_s = retry_max_s is a legal setting."""
    pace = Pace(resync_s=1, retry_min_s=5, retry_max_s=5)
    assert [5, 5, 5] == [pace.after_failure(failures) for failures in (1, 2, 50)]


_BACKOFF = Backoff(base_s=1.0, cap_s=30.0)


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (31, 30), (10_000, 30)]
)
def test_a_backoff_doubles_up_to_its_cap(failures: int, ceiling: float) -> None:
    """Full jitter: anything from nothing to the ceiling; no overflow after a long weekend."""
    delays = [_BACKOFF.delay_s(failures, random=random) for random in (0.0, 0.5, 1.0)]
    assert [0, ceiling / 2, ceiling] == delays


def test_what_the_server_asks_for_is_kept_and_spread() -> None:
    """Retry-After is a minimum; 5,000 nodes that were told the same do not come back in the same second."""
    assert [7, 8] == [_BACKOFF.delay_s(1, random=random, at_least_s=7) for random in (0.0, 1.0)]


def test_each_node_has_a_delay_of_its_own() -> None:
    """The same each time, on every machine and in every version: a hash of the name."""
    assert [4.6, 3.8, 0.3] == [round(rollout_delay_s(name, spread_s=10), 1) for name in ("w0", "w1", "w2")]


def test_delays_fill_the_spread_evenly() -> None:
    """5,000 nodes in 10 s: no second has many more than its share."""
    delays = [rollout_delay_s(f"worker-{number}", spread_s=10) for number in range(5000)]
    assert 0 <= min(delays) < max(delays) < 10
    seconds = Counter(int(delay) for delay in delays)
    assert sorted(seconds) == list(range(10))
    assert 400 < min(seconds.values()) <= max(seconds.values()) < 600


def test_without_a_spread_nobody_waits() -> None:
    """rollout_spread_s = 0."""
    assert 0 == rollout_delay_s("w0", spread_s=0)


def test_a_bucket_gives_its_burst_and_then_refills() -> None:
    """One more per interval; fractions of it add up."""
    bucket = TokenBucket(burst=3, refill_s=60)
    assert [True, True, True, False] == [bucket.take(100.0) for _ in range(4)]
    assert [False, True, False] == [bucket.take(at_s) for at_s in (130.0, 160.0, 160.0)]


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    """However long nothing was taken."""
    bucket = TokenBucket(burst=3, refill_s=60)
    assert bucket.take(0.0)
    assert [True, True, True, False] == [bucket.take(1e6) for _ in range(4)]


def test_a_bucket_asked_all_the_time_refills_all_the_same() -> None:
    """Ten thousand refusals lose no fraction of a token."""
    bucket = TokenBucket(burst=1, refill_s=60)
    taken = sum(bucket.take(at_ms / 100) for at_ms in range(60_000))
    assert 10 <= taken <= 11
