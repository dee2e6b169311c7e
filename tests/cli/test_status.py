"""`status`: the running agent's answer as a table and as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support import configs
from tests.support.agents import Agent, agent_on
from tests.support.waiting import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Return an agent with a config in place."""
    with agent_on(tmp_path_factory.mktemp("running")) as agent:
        agent.want(configs.simple("v1", hosts=2))
        agent.run()
        agent.until_idle()
        yield agent


def test_a_ready_node_is_0_and_a_table(command: Command, running: Agent) -> None:
    """Verdict, versions, and each host with its mirrors in order and its last resort."""
    ended = command("status", "--root", running.root)
    assert (0, "") == (ended.code, ended.err)
    lines = ended.out.splitlines()
    assert lines[:5] == [
        "node       ready (InPlace)",
        "           registry.d is what the desired config says",
        "mode       manage, registry mode Direct",
        "desired    v1 (live)",
        "in place   v1",
    ]
    assert lines[5] == "legacy     none found"
    assert lines[6] == "containerd version not known, stock: config.toml is left alone"
    assert lines[7].startswith("last pass  number ")
    assert lines[8:11] == [
        "host       r0.test: in place",
        "            1. https://v1.test:5000 (CA, user robot)",
        "            then the original registry",
    ]


def test_json_is_what_the_endpoint_says(command: Command, running: Agent) -> None:
    """For scripts: /status as it is."""
    ended = command("status", "--json", "--root", running.root)
    assert (0, running.ask("/status").json) == (ended.code, json.loads(ended.out))


def test_a_node_that_is_not_ready_is_1(command: Command, running: Agent) -> None:
    """The reason and the error are in the table; the last good version stays named."""
    running.want(configs.config({}))
    until(lambda: running.ask("/readyz").status == 503, what="the refusal")
    ended = command("status", "--root", running.root)
    running.want(configs.simple("v1", hosts=2))
    until(lambda: running.ask("/readyz").status == 200, what="ready again")
    assert (1, "node       NOT READY (ConfigInvalid)") == (ended.code, ended.out.splitlines()[0])
    assert "desired    v1 (last-good)" in ended.out
    assert "error      ConfigInvalid: desired config refused: hosts: must have at least one entry" in ended.out


@pytest.mark.parametrize("kind", ["no-directory", "no-socket", "dead-socket"])
def test_no_agent_is_2(command: Command, tmp_path: Path, kind: str) -> None:
    """An agent that does not answer is trouble, with an advice and without a traceback."""
    with agent_on(tmp_path / "root") as agent:
        if kind == "no-socket":
            agent.socket.parent.mkdir(parents=True)
        elif kind == "dead-socket":
            agent.run()
            agent.process.kill()
            agent.process.wait()
        ended = command("status", "--root", agent.root)
    assert (2, "") == (ended.code, ended.out)
    assert ended.err.splitlines() == [
        f"registry-agent: error: no agent answers on {agent.socket}",
        "registry-agent: hint: is it running, and with this --root? are you root?",
    ]
