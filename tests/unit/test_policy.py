"""When the next pass runs."""

from __future__ import annotations

import pytest

from agent.policy import RESYNC_JITTER, Pace

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
