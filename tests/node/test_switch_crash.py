"""The agent is killed at every step of a switch and of the way back: its next start ends what was begun."""

from pathlib import Path

import pytest

from tests.node.config_tomls import IMPORTING_TOML, LEGACY_TOML, POINTS_AT_US
from tests.node.daemon import Daemon
from tests.node.desired import Document, document, host, mirror
from tests.node.node import Node
from tests.node.registry import Registry
from tests.node.starts import Starts, answers, run_with, trapped
from tests.node.waiting import until

pytestmark = [pytest.mark.timeout(60, func_only=True), pytest.mark.usefixtures("config_toml")]

ONE = pytest.mark.only("trixie")


@pytest.fixture
def wanted(mirror_a: Registry) -> Document:
    return document({"registry.test": host(mirror(mirror_a))})


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before 1 write_record", marks=ONE, id="before-the-record"),
        pytest.param("before 1 write", marks=ONE, id="before-the-file"),
        pytest.param("after 1 write", marks=ONE, id="after-the-file"),
        pytest.param("before 1 restart", id="before-the-restart"),
        pytest.param("after 1 _call RestartUnit", marks=ONE, id="during-the-restart"),
        pytest.param("after 1 restart", id="after-the-restart"),
        pytest.param("before 3 write_record", marks=ONE, id="healthy-and-not-recorded"),
    ],
)
def test_an_agent_killed_amid_a_switch_finishes_it_with_one_restart_in_all(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, wanted: Document, *, moment: str
) -> None:
    run_with(node, starts, LEGACY_TOML)
    agent.publish(wanted.text)
    _die(agent, moment)
    agent.apply(wanted)
    assert POINTS_AT_US in config_toml.read_text()
    assert answers(node)
    assert len(starts) == 1


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before 1 roll_back", marks=ONE, id="before-the-old-file"),
        pytest.param("after 1 roll_back", marks=ONE, id="after-the-old-file"),
        pytest.param("before 2 restart", id="before-the-restart"),
        pytest.param("after 2 restart", marks=ONE, id="after-the-restart"),
    ],
)
def test_an_agent_killed_on_the_way_back_goes_it_to_the_end_with_two_restarts_in_all(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, wanted: Document, *, moment: str
) -> None:
    agent.flags += ("--restart-timeout-s", "1")
    with trapped(node):
        run_with(node, starts, IMPORTING_TOML)
        agent.publish(wanted.text)
        _die(agent, moment)
        assert len(starts) >= 1
        agent.start()
        until(lambda: agent.says("RolledBack"), what="the way back")
    assert config_toml.read_text() == IMPORTING_TOML
    assert answers(node)
    assert len(starts) == 2


def _die(agent: Daemon, moment: str) -> None:
    """Run an agent until it dies at this moment; the next one is a usual one."""
    agent.program = ("tests.node.dying", moment)
    agent.start()
    agent.wait_for_death()
    agent.program = ("agent",)
