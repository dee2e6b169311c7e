"""The real process under a service manager: ready, fed, told to go on, stopped."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import configs
from tests.support.agents import Agent
from tests.support.waiting import until

WATCHDOG_USEC = 200_000


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen as systemd does for a unit with Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(8)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_USEC))
        yield manager


def _hear(manager: socket.socket, wanted: str) -> str:
    """Return the first message that begins so."""
    while not (message := manager.recv(4096).decode()).startswith(wanted):
        pass
    return message


def test_the_agent_is_ready_once_its_first_pass_is_through(agent: Agent, manager: socket.socket) -> None:
    """Not before: the config is in place when the message comes. Then it feeds the watchdog, and says its end first."""
    agent.want(configs.simple("v1"))
    agent.start()
    status = _hear(manager, "READY=1\nSTATUS=")
    assert agent.has("v1")
    assert "ready (InPlace)" in status
    _hear(manager, "WATCHDOG=1")
    _hear(manager, "WATCHDOG=1")
    assert agent.end() == 0
    _hear(manager, "STOPPING=1")


def test_a_first_pass_that_fails_is_an_outcome_too(agent: Agent, manager: socket.socket) -> None:
    agent.want(b"mode: [")
    agent.start()
    assert "STATUS=not ready (ConfigInvalid): " in _hear(manager, "READY=1")


def test_sighup_is_a_pass_at_once(agent: Agent, manager: socket.socket) -> None:
    """`systemctl reload` asks for it; the agent goes on."""
    agent.want(configs.simple("v1"))
    agent.run()
    before = agent.until_idle()
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: agent.ask("/status").json["last_pass"]["number"] > before, what="a pass")
    assert agent.ask("/status").json["last_pass"]["trigger"] == "reload"
    assert _hear(manager, "READY=1")
