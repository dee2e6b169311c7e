"""`release`: takes the node back to its legacy configuration by hand, as if the Secret had been deleted."""

from __future__ import annotations

import asyncio

from agent import daemon
from agent.desired import Absent, Reading
from agent.disk.node import exclusive
from agent.outcome import Outcome, Standing
from agent.report import Report, make_report
from agent.settings import Settings

#: A budget that is used up lets wait for ten minutes; after that, something else is wrong.
PATIENCE_S = 900.0

RETRY_S = 2.0


class _Nothing(daemon.FileSide):
    """A source that is empty for certain."""

    async def read(self, *, is_confirming: bool) -> Reading:  # noqa: ARG002 -- as the port has it
        return Absent()


def release(settings: Settings) -> int:
    """Give back what the agent has taken over, restart containerd once if that needs it; returns the exit code.

    Raises AlreadyRunning while an agent runs: it would undo all of it.
    """
    with exclusive(settings.root, (settings.run_dir, settings.state_dir)):
        return asyncio.run(_release(settings.model_copy(update={"absent_settle_s": 0})))


async def _release(settings: Settings) -> int:
    nothing = _Nothing(settings.on_node(settings.source_file))
    reconciler = daemon.build_reconciler(settings, nothing, daemon.make_legacy_reader(settings))
    said = ""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                outcome = await reconciler.run_pass()
                said = _say(make_report(outcome), outcome, said)
                if is_released(outcome):
                    return 0
                if outcome.managers or (outcome.errors and not outcome.is_retry_useful):
                    return 1
                await asyncio.sleep(RETRY_S if outcome.look_in_s is None else outcome.look_in_s)
    except TimeoutError:
        return 1


def is_released(outcome: Outcome) -> bool:
    """Whether nothing of the agent is on the node any more."""
    return outcome.standing is Standing.NOT_CONFIGURED and outcome.is_applied and not outcome.managers


def _say(report: Report, outcome: Outcome, said: str) -> str:
    """Print what is new."""
    for path in report.changed:
        print(f"registry.d/{path} released")
    # What is waited for is the verdict.
    if report.switched.message not in {"", said, report.verdict.message}:
        print(report.switched.message)
    message = "released: the agent has nothing on this node" if is_released(outcome) else report.verdict.message
    if message != said:
        print(message)
    return message
