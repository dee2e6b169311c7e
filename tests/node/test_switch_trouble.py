"""What goes wrong around a restart on a real node: a unit that does not get well, systemd's limit, no system bus."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.node.config_tomls import IMPORTING_TOML, LEGACY_TOML, POINTS_AT_US
from tests.node.daemon import Daemon
from tests.node.desired import Document, document, host, mirror
from tests.node.node import Node
from tests.node.registry import Registry
from tests.node.starts import CONTAINERD, Starts, answers, drop_in, run_with, trapped
from tests.node.waiting import until

pytestmark = [pytest.mark.timeout(60, func_only=True), pytest.mark.usefixtures("config_toml")]

ONE = pytest.mark.only("trixie")
TIMEOUT_S = 2.5
MARGIN_S = 2.0
"""For what stands around the wait: stopping, the way back, and the first answer after it."""

SICK = "usr/local/bin/containerd-sick-with-registry.d"
SICK_PROGRAM = """\
#!/bin/sh
case "$*" in
*dump) ;;
*) grep -q registry.d /etc/containerd/config.toml && exec {command} ;;
esac
exec /usr/bin/containerd "$@"
"""

#: Accepts every connection and never says a word.
SILENT = (
    """perl -MSocket -e '$p = "/run/containerd/containerd.sock"; unlink $p; socket(S, AF_UNIX, SOCK_STREAM, 0);"""
    """ bind(S, sockaddr_un($p)) && listen(S, 5) && sleep'"""
)


@pytest.fixture
def wanted(mirror_a: Registry) -> Document:
    return document({"registry.test": host(mirror(mirror_a))})


@pytest.mark.parametrize(
    ("unit_type", "command"),
    [
        pytest.param("notify", "sleep infinity", id="never-notifies"),
        pytest.param("exec", "sleep infinity", marks=ONE, id="never-listens"),
        pytest.param("notify", "false", marks=ONE, id="exits"),
        pytest.param("exec", SILENT, marks=ONE, id="says-nothing"),
    ],
)
def test_a_containerd_that_does_not_get_well_is_rolled_back_in_time(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, wanted: Document, *, unit_type: str, command: str
) -> None:
    program = node.root / SICK
    program.write_text(SICK_PROGRAM.format(command=command))
    program.chmod(0o755)
    agent.flags += ("--restart-timeout-s", f"{TIMEOUT_S:g}")
    with drop_in(node, "sick", f"Type={unit_type}", "ExecStart=", f"ExecStart=/{SICK}"):
        run_with(node, starts, LEGACY_TOML)
        agent.publish(wanted.text)
        agent.start()
        until(lambda: len(starts) == 1, what="the restart")
        begin = time.monotonic()
        until(lambda: config_toml.read_text() == LEGACY_TOML and answers(node), what="the way back")
        took_s = time.monotonic() - begin
        until(lambda: agent.says("RolledBack"), what="the report")
        assert len(starts) == 2
        assert took_s < TIMEOUT_S + MARGIN_S


@ONE
def test_the_start_limit_leaves_no_containerd_dead(node: Node, agent: Daemon, starts: Starts, wanted: Document) -> None:
    """The restart meets it, and the restart of the way back once more."""
    agent.flags += ("--restart-timeout-s", "1")
    with drop_in(node, "limit", "StartLimitIntervalSec=1h", "StartLimitBurst=1", section="Unit"), trapped(node):
        run_with(node, starts, IMPORTING_TOML)
        before = _limits(node)
        agent.publish(wanted.text)
        agent.start()
        until(lambda: agent.says("RolledBack"), what="the way back")
        assert answers(node)
        assert len(starts) == 2
        assert _limits(node) == before + 2


@contextmanager
def _stopped(node: Node) -> Iterator[None]:
    """Let the bus refuse every connection."""
    node.run("systemctl", "stop", "dbus.socket", "dbus.service")
    try:
        yield
    finally:
        node.run("systemctl", "start", "dbus.socket", "dbus.service")


@contextmanager
def _away(node: Node) -> Iterator[None]:
    """Let the bus not be there."""
    socket = node.root / "run/dbus/system_bus_socket"
    socket.rename(socket.with_suffix(".away"))
    try:
        yield
    finally:
        socket.with_suffix(".away").rename(socket)


@ONE
@pytest.mark.parametrize("without_bus", [_stopped, _away])
def test_a_bus_that_is_gone_holds_up_the_switch_alone_until_it_is_back(
    node: Node,
    agent: Daemon,
    starts: Starts,
    config_toml: Path,
    wanted: Document,
    *,
    without_bus: Callable[[Node], AbstractContextManager[None]],
) -> None:
    run_with(node, starts, LEGACY_TOML)
    agent.flags += ("--retry-max-s", "1")
    with without_bus(node):
        agent.publish(wanted.text)
        agent.start()
        until(lambda: agent.says("BusGone"), what="the reason", timeout_s=10)
        assert (node.root / "etc/containerd/registry.d/registry.test/hosts.toml").exists()
        assert config_toml.read_text() == LEGACY_TOML
        assert not agent.is_ready()
        assert not starts
    until(lambda: agent.has_applied(wanted.version), what="the switch")
    assert POINTS_AT_US in config_toml.read_text()
    assert len(starts) == 1


@ONE
def test_a_bus_that_goes_away_amid_the_restart_costs_no_other_one(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, wanted: Document
) -> None:
    agent.flags += ("--retry-max-s", "1")
    with drop_in(node, "x-slow", "ExecStartPre=/bin/sleep 1"):
        run_with(node, starts, LEGACY_TOML)
        agent.publish(wanted.text)
        agent.start()
        until(lambda: len(starts) == 1, what="the restart has begun")
        with _stopped(node):
            until(lambda: agent.says("BusGone"), what="the reason")
        until(lambda: agent.has_applied(wanted.version), what="the switch")
    assert POINTS_AT_US in config_toml.read_text()
    assert answers(node)
    assert len(starts) == 1


def _limits(node: Node) -> int:
    """Count how often systemd has refused to start containerd so far."""
    log = node.run("journalctl", "--unit", CONTAINERD, "--output", "cat", "--no-pager")
    return log.count("Start request repeated too quickly")
