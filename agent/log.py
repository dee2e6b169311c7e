"""The log as a sink over the report: one line per effect, silence when nothing changes."""

from __future__ import annotations

import logging

from agent.board import Posted
from agent.outcome import Written
from agent.report import UNKNOWN_VERSION, Report
from agent.switching import SETTLING

logger = logging.getLogger("agent")

#: Paths named in one line; the rest is counted.
MAX_PATHS_SHOWN = 5


class ReportLog:
    """Writes what a pass does, and what is new against the report before."""

    def __init__(self) -> None:
        """Start with nothing said."""
        self._errors: tuple[str, ...] = ()
        self._warnings: frozenset[str] = frozenset()
        self._verdict: tuple[str, str] | None = None

    def write_effects(self, written: Written) -> None:
        """Log what a pass has changed in registry.d, before what comes of it."""
        for host in written.taken_over:
            logger.warning("took over registry.d/%s, which somebody else had written; its content is saved", host)
        shown = ", ".join(written.paths[:MAX_PATHS_SHOWN])
        more = len(written.paths) - MAX_PATHS_SHOWN
        what = "drift repaired" if written.is_drift else "registry.d changed"
        logger.info("%s: %s%s", what, shown, f" and {more} more" if more > 0 else "")

    def write(self, posted: Posted) -> None:
        """Log a changed state at INFO, new failures at ERROR, an unchanged pass at DEBUG."""
        report = posted.report
        for message in sorted({notice.message for notice in report.warnings} - self._warnings):
            logger.warning("%s", message)
        errors = tuple(f"{error.reason}: {error}" for error in report.errors)
        for error in errors:
            logger.log(logging.DEBUG if error in self._errors else logging.ERROR, "%s", error)
        verdict = (report.verdict.reason, report.applied_version)
        if verdict != self._verdict and not _is_said(report):
            logger.info("%s", _state(report))
        self._warnings = frozenset(notice.message for notice in report.warnings)
        self._errors = errors
        self._verdict = verdict
        logger.debug("pass %d (%s) took %.1f ms", posted.number, posted.trigger, posted.duration_s * 1000)


def _is_said(report: Report) -> bool:
    """Tell whether the verdict is no more than an error that has its line, or a wait of moments."""
    is_error = report.applied_version == UNKNOWN_VERSION and report.verdict.reason in {e.reason for e in report.errors}
    return is_error or report.verdict.reason == SETTLING


def _state(report: Report) -> str:
    """Say the verdict in a line; an error has had its own line already."""
    state = f"{'ready' if report.verdict.is_ready else 'not ready'} ({report.verdict.reason})"
    if report.errors or report.applied_version != UNKNOWN_VERSION:
        return f"{state}: version in place {report.applied_version}"
    return f"{state}: {report.verdict.message}"
