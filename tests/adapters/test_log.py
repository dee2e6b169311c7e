"""The log of a report: what is new, once, with its level."""

import logging

import pytest

from agent.board import Posted
from agent.log import ReportLog
from agent.outcome import Standing
from agent.report import Report
from agent.switching import SETTLING, State, Switched
from tests.support.reports import KEYLESS, report

SETTLES = report(switched=Switched(state=State.WAITING, reason=SETTLING, message="once more"))
KEYS_ARE_MISSING = report(
    standing=Standing.UNKNOWN, config=None, origin=None, is_in_place=False, legacy=None, errors=(KEYLESS,)
)


def said(caplog: pytest.LogCaptureFixture, *reports: Report) -> list[str]:
    """Return what the log says, at INFO and above, of some passes."""
    log = ReportLog()
    with caplog.at_level(logging.INFO):
        for number, each in enumerate(reports):
            log.write(Posted(report=each, number=number, trigger="x", finished_at=0, duration_s=0, next_in_s=1))
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_an_error_that_is_the_whole_state_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is met."""
    assert [f"ERROR CredentialsUnusable: {KEYLESS}"] == said(caplog, KEYS_ARE_MISSING, KEYS_ARE_MISSING)


def test_an_error_beside_a_config_that_stays_in_place_is_two(caplog: pytest.LogCaptureFixture) -> None:
    """Because it does not say what the node pulls with."""
    lines = said(caplog, report(errors=(KEYLESS,)))
    assert [f"ERROR CredentialsUnusable: {KEYLESS}", "INFO ready (LastGoodInPlace): version in place v1"] == lines


def test_the_wait_of_moments_in_a_switch_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """What came of it is."""
    assert ["INFO ready (InPlace): version in place v1"] == said(caplog, SETTLES, report())
