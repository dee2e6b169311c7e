"""Agents as real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import Agent, agent_on


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent on an empty root, ended when the test ends."""
    with agent_on(tmp_path / "root") as agent:
        yield agent
