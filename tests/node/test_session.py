"""The session in the docs is a real one: its commands, in order, print on a fresh node what the page shows."""

import contextlib
from pathlib import Path

import pytest

from tests.node import session
from tests.node.node import Node
from tests.node.roots import Root
from tests.node.session import Step
from tests.node.waiting import until

#: An agent that stands behind needs less.
PATIENCE_S = 15.0


@pytest.mark.only(session.SUITE)
@pytest.mark.timeout(120)
def test_a_session_goes_as_the_docs_show_it(root: Root, tmp_path: Path) -> None:
    """From the installation to the purge."""
    assert root.path.name.startswith(session.SUITE)
    shown = list(session.steps(session.PAGE.read_text()))
    with session.fresh(tmp_path) as node:
        for step in shown:
            assert session.masked(step.output) == _printed(node, step), step.command
    assert len(shown) > 20


def _printed(node: Node, step: Step) -> str:
    """Return what a command prints, or what it prints in the end, after the agent has seen what was changed before."""
    found: list[str] = []

    def is_as_shown() -> bool:
        found.append(session.masked(session.typed(node, step.command)))
        return not step.is_reading or found[-1] == session.masked(step.output)

    with contextlib.suppress(TimeoutError):
        until(is_as_shown, what=step.command, timeout_s=PATIENCE_S)
    return found[-1]
