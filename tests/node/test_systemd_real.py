"""The adapter and systemd 252, 257 and 262 themselves, through a node's system bus from outside."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import BusGone, UnitFailed
from agent.systemd import Systemd
from agent.unit import Done, Failed, IfBusy, Refusal, Refused, Unknown
from tests.node.node import Node
from tests.support.waiting import until_async

pytestmark = pytest.mark.timeout(60, func_only=True)

CONTAINERD = "containerd.service"
SLOW = "slow.service"
#: Starts once somebody writes to the pipe: no test has to guess how long.
SLOW_START = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'read line < /run/slow.pipe'\n"
LONG_S = 20.0

Install = Callable[[str, str], None]


@pytest.fixture
async def systemd(node: Node) -> AsyncIterator[Systemd]:
    async with Systemd(bus(node)) as connected:
        yield connected


@pytest.fixture
def containerd(node: Node) -> Iterator[str]:
    """The unit as if nobody had restarted it lately."""
    node.run("systemctl", "reset-failed", CONTAINERD)
    yield CONTAINERD
    node.run("systemctl", "reset-failed", CONTAINERD)
    node.run("systemctl", "start", CONTAINERD)


@pytest.fixture
def install(node: Node) -> Iterator[Install]:
    """Return a function that defines a unit, which goes with the test."""
    names: set[str] = set()

    def define(name: str, text: str) -> None:
        (node.root / "run/systemd/system").mkdir(exist_ok=True)
        (node.root / "run/systemd/system" / name).write_text(text)
        names.add(name)
        node.run("systemctl", "daemon-reload")

    os.mkfifo(node.root / "run/slow.pipe")
    yield define
    for name in names:
        node.run("sh", "-c", f"systemctl stop {name} || true")  # it may be gone already
        (node.root / "run/systemd/system" / name).unlink()
    node.run("systemctl", "daemon-reload")
    node.run("systemctl", "reset-failed")
    (node.root / "run/slow.pipe").unlink()


async def test_facts_are_what_systemctl_shows(systemd: Systemd, node: Node) -> None:
    """Every field, of a real containerd.service."""
    unit = await systemd.unit(CONTAINERD)
    shown = dict(line.split("=", 1) for line in node.run("systemctl", "show", CONTAINERD).splitlines())
    assert {
        "LoadState": unit.load_state,
        "ActiveState": unit.active_state,
        "SubState": unit.sub_state,
        "Result": unit.result,
        "MainPID": str(unit.main_pid),
        "ExecMainStartTimestampMonotonic": str(unit.started_monotonic_us),
        "KillMode": unit.kill_mode,
        "NRestarts": str(unit.restarts),
        "FragmentPath": unit.fragment_path,
    }.items() <= shown.items()
    assert unit.argv == ("/usr/bin/containerd",)
    assert unit.kill_mode == "process"
    assert unit.job_id == 0
    assert unit.is_active
    assert not unit.is_changing
    assert 0 < unit.started_us / 1e6 <= time.time()


async def test_a_restart_is_done_when_a_new_process_is_up(systemd: Systemd, containerd: str) -> None:
    """Type=notify: systemd says done only after containerd said READY."""
    before = await systemd.unit(containerd)
    outcome = await systemd.restart(containerd, timeout_s=LONG_S)
    assert isinstance(outcome, Done)
    assert not outcome.was_reset
    assert outcome.unit.is_active
    assert outcome.unit.main_pid not in {0, before.main_pid}
    assert outcome.unit.started_us > before.started_us
    assert outcome.unit.restarts == 0


async def test_a_unit_that_cannot_be_started_is_refused(systemd: Systemd, node: Node) -> None:
    """Missing or masked."""
    node.run("systemctl", "mask", "--runtime", "masked.service")
    for name in ("nothing.service", "masked.service"):
        outcome = await systemd.restart(name, timeout_s=LONG_S)
        assert isinstance(outcome, Refused)
        assert outcome.reason is Refusal.NOT_LOADED
    assert (await systemd.unit("masked.service")).load_state == "masked"
    node.run("systemctl", "unmask", "--runtime", "masked.service")


async def test_the_start_limit_is_reset_once(systemd: Systemd, containerd: str, node: Node) -> None:
    """Five restarts in ten seconds are systemd's limit: the sixth leaves containerd dead."""
    for _ in range(5):
        node.run("systemctl", "restart", containerd)
    outcome = await systemd.restart(containerd, timeout_s=LONG_S)
    assert isinstance(outcome, Done)
    assert outcome.was_reset
    assert outcome.unit.is_active


async def test_the_start_limit_is_reset_when_the_result_tells_of_another_failure(
    systemd: Systemd, install: Install, node: Node
) -> None:
    """containerd 1.x now and then exits with 1 on SIGTERM, and systemd 252 and 257 keep the first failure."""
    install(SLOW, "[Service]\nType=exec\nKillSignal=SIGKILL\nExecStart=/bin/sleep infinity\n")
    for _ in range(5):
        node.run("systemctl", "restart", SLOW)
    assert "failed" in node.run("sh", "-c", f"systemctl restart {SLOW} 2>&1 || systemctl is-failed {SLOW}")
    assert (await systemd.unit(SLOW)).result in {"signal", "start-limit-hit"}
    outcome = await systemd.restart(SLOW, timeout_s=LONG_S)
    assert isinstance(outcome, Done)
    assert outcome.was_reset
    assert outcome.unit.is_active


async def test_a_unit_that_dies_at_start_has_failed(systemd: Systemd, install: Install) -> None:
    """The job's result and the service's own are both told."""
    install(SLOW, "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    outcome = await systemd.restart(SLOW, timeout_s=LONG_S)
    assert isinstance(outcome, Failed)
    assert outcome.result == "failed"
    assert outcome.unit.result == "exit-code"
    assert outcome.unit.active_state == "failed"


async def test_a_job_that_takes_too_long_is_unknown_and_goes_on(systemd: Systemd, install: Install, node: Node) -> None:
    """The unit that comes with it shows the job; who waits on sees it come up."""
    install(SLOW, SLOW_START)
    outcome = await systemd.restart(SLOW, timeout_s=0.3)
    assert isinstance(outcome, Unknown)
    assert outcome.unit.job_id != 0
    assert outcome.unit.is_changing
    (node.root / "run/slow.pipe").write_text("go\n")
    while (unit := await systemd.unit(SLOW)).is_changing:
        pass
    assert unit.is_active


async def test_a_unit_that_is_starting_is_left_alone_or_taken_over(systemd: Systemd, install: Install) -> None:
    """The way back may not wait for a start that hangs: it takes over, with the unit as it is now."""
    install(SLOW, SLOW_START)
    assert isinstance(await systemd.restart(SLOW, timeout_s=0.3), Unknown)
    refused = await systemd.restart(SLOW, timeout_s=LONG_S)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.BUSY
    install(SLOW, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n")
    taken = await systemd.restart(SLOW, timeout_s=LONG_S, if_busy=IfBusy.TAKE_OVER)
    assert isinstance(taken, Done)
    assert taken.unit.is_active


async def test_a_unit_between_two_tries_is_left_alone_or_taken_over(
    systemd: Systemd, install: Install, node: Node
) -> None:
    """Restart=always, RestartSec=5, as containerd has it: a way back need not wait for the next try."""
    program = node.root / "run/program"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    install(SLOW, "[Service]\nType=exec\nRestart=always\nRestartSec=1h\nExecStart=/run/program\n")
    assert not isinstance(await systemd.restart(SLOW, timeout_s=LONG_S), Refused)
    while (unit := await systemd.unit(SLOW)).sub_state != "auto-restart":
        pass
    assert unit.is_changing
    assert unit.job_id == 0
    assert isinstance(await systemd.restart(SLOW, timeout_s=LONG_S), Refused)
    program.write_text("#!/bin/sh\nexec sleep infinity\n")
    taken = await systemd.restart(SLOW, timeout_s=LONG_S, if_busy=IfBusy.TAKE_OVER)
    assert isinstance(taken, Done)
    assert taken.unit.is_active


async def test_a_bus_that_restarts_ends_the_connection_and_not_the_job(
    systemd: Systemd, install: Install, node: Node
) -> None:
    """BusGone at once; a new connection finds the job, which goes on."""
    install(SLOW, SLOW_START)
    waiting = asyncio.create_task(systemd.restart(SLOW, timeout_s=LONG_S))
    await until_async(lambda: SLOW in node.run("systemctl", "list-jobs"), what="the job runs")
    node.run("systemctl", "restart", "dbus.service")
    with pytest.raises(BusGone):
        await waiting
    with pytest.raises(BusGone):
        await systemd.unit(SLOW)
    (node.root / "run/slow.pipe").write_text("go\n")
    await until_async(lambda: "No jobs" in node.run("systemctl", "list-jobs"), what="the job ends")
    async with asyncio.timeout(LONG_S):
        while not await _is_active_by_a_new_connection(node):
            pass


async def test_a_command_prints_what_it_prints_on_the_node(systemd: Systemd, node: Node) -> None:
    """`containerd config dump` of a file that only root may read, with a secret in it."""
    candidate = node.root / "var/lib/candidate.toml"
    candidate.touch(mode=0o600)
    candidate.write_text('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/hidden"\n')
    command = ("/usr/bin/containerd", "--config", "/var/lib/candidate.toml", "config", "dump")
    finished = await systemd.run_transient(command, timeout_s=LONG_S)
    assert finished.exit_code == 0
    assert finished.stdout.decode() == node.run(*command)
    assert b"/etc/hidden" in finished.stdout
    assert "hidden" not in repr(finished)
    assert not _leftovers(node)


async def test_a_command_that_fails_tells_its_code_and_reason(systemd: Systemd, node: Node) -> None:
    """containerd's own words about broken TOML."""
    (node.root / "var/lib/candidate.toml").write_text("= nothing\n")
    command = ("/usr/bin/containerd", "--config", "/var/lib/candidate.toml", "config", "dump")
    finished = await systemd.run_transient(command, timeout_s=LONG_S)
    assert finished.exit_code == 1
    assert b"candidate.toml" in finished.stderr
    assert not _leftovers(node)


async def test_words_of_a_command_are_taken_literally(systemd: Systemd) -> None:
    """systemd would expand variables and specifiers."""
    words = ("$HOME", "${PATH}", "%n", "%%", "a b", '"', "\\x41", "", "é")
    finished = await systemd.run_transient(("/usr/bin/printf", r"%s\n", *words), timeout_s=LONG_S)
    assert finished.stdout.decode().splitlines() == list(words)


async def test_a_command_can_change_nothing(systemd: Systemd, node: Node) -> None:
    """Neither files, nor the network, nor devices; other users' files can be read."""
    program = "touch /var/lib/x; touch /run/x; ls /dev/kmsg /sys/class/net; cat /var/lib/foreign"
    foreign = node.root / "var/lib/foreign"
    foreign.write_text("read\n")
    foreign.chmod(0o600)
    os.chown(foreign, 33, 33)
    finished = await systemd.run_transient(("/bin/sh", "-c", program), timeout_s=LONG_S)
    assert finished.exit_code == 0
    assert finished.stdout.decode().splitlines()[-1] == "read"
    assert finished.stderr.count(b"Read-only file system") == 2
    assert b"/dev/kmsg" in finished.stderr
    assert not (node.root / "var/lib/x").exists()
    assert not (node.root / "run/x").exists()


async def test_a_signal_is_a_negative_code(systemd: Systemd) -> None:
    """As subprocess has it."""
    finished = await systemd.run_transient(("/bin/sh", "-c", "kill -TERM $$"), timeout_s=LONG_S)
    assert finished.exit_code == -15


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/program",), "could not start"),
        (("/bin/sh", "-c", "exec sleep infinity"), "did not end in time"),
        (("/bin/sh", "-c", "exec head -c 9000000 /dev/zero"), "printed"),
    ],
)
async def test_a_command_that_could_not_do_its_work_is_an_error(
    systemd: Systemd, node: Node, command: tuple[str, ...], reason: str
) -> None:
    """Neither is an exit code of the program, and no unit stays behind."""
    with pytest.raises(UnitFailed, match=reason):
        await systemd.run_transient(command, timeout_s=0.5)
    assert not _leftovers(node)


async def test_a_command_that_is_no_longer_wanted_is_stopped(systemd: Systemd, node: Node) -> None:
    """Cancellation reaches the node."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(systemd.run_transient(("/bin/sleep", "infinity"), timeout_s=LONG_S))
        await until_async(lambda: "activating" in _leftovers(node), what="the command runs")
        task.cancel()
    await until_async(lambda: not _leftovers(node), what="the unit is gone")


def bus(node: Node) -> Path:
    """Return the node's bus as a pod sees it."""
    return node.root / "run/dbus/system_bus_socket"


async def _is_active_by_a_new_connection(node: Node) -> bool:
    """Tell whether the slow unit is up; systemd takes a moment to return to a new bus."""
    try:
        async with Systemd(bus(node)) as systemd:
            return (await systemd.unit(SLOW)).is_active
    except BusGone:
        return False


def _leftovers(node: Node) -> str:
    return node.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "registry-agent-*")
