"""The adapter on a private dbus-daemon with a double of systemd: what real nodes do too seldom.

Needs no root, only dbus-daemon, which a bare machine does not have: hence with the suite that installs.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_fast import DBusError, Message, MessageType

from agent import systemd as door
from agent.errors import BusGone, UnitFailed
from agent.systemd import Systemd
from agent.unit import Done, Failed, IfBusy, Refusal, Refused, Unknown
from tests.support.systemd_double import MANAGER, NAME, Bus, Job, Signal, SystemdDouble, private_bus, serving
from tests.support.waiting import until_async

CONTAINERD = "containerd.service"
RESTART = ("RestartUnit", CONTAINERD, "fail")
LONG_S = 5.0
SHORT_S = 0.2


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    async with private_bus(tmp_path) as running:
        yield running


@pytest.fixture
async def double(bus: Bus) -> AsyncIterator[SystemdDouble]:
    async with serving(bus) as served:
        yield served


@pytest.fixture
async def systemd(bus: Bus, double: SystemdDouble) -> AsyncIterator[Systemd]:
    """A connection that has asked for nothing yet."""
    async with Systemd(bus.socket) as connected:
        assert double.calls == [("Subscribe",)]
        double.calls.clear()
        yield connected


@pytest.mark.parametrize("signal", [Signal.BEFORE_REPLY, Signal.AFTER_REPLY])
async def test_the_end_of_a_job_is_heard_however_early(systemd: Systemd, double: SystemdDouble, signal: Signal) -> None:
    """A job may be over before its number is known."""
    double.jobs.append(Job(signal=signal, then=lambda: double.set(MainPID=200)))
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(outcome, Done)
    assert outcome.unit.main_pid == 200
    assert not outcome.was_reset
    assert double.calls == [RESTART]


@pytest.mark.parametrize("result", ["canceled", "timeout", "dependency", "skipped", "a word of the future"])
async def test_any_other_end_of_a_job_is_a_failure(systemd: Systemd, double: SystemdDouble, result: str) -> None:
    """With systemd's own word, and without a second try."""
    double.jobs.append(Job(result=result))
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(outcome, Failed)
    assert outcome.result == result
    assert double.calls == [RESTART]


async def test_a_job_whose_end_is_not_told_is_unknown(systemd: Systemd, double: SystemdDouble) -> None:
    """The unit is read again, for it may well be up."""
    double.jobs.append(Job(signal=Signal.NEVER, then=lambda: double.set(MainPID=200)))
    outcome = await systemd.restart(CONTAINERD, timeout_s=SHORT_S)
    assert isinstance(outcome, Unknown)
    assert outcome.unit.main_pid == 200


async def test_the_end_of_another_job_is_not_ours(systemd: Systemd, double: SystemdDouble) -> None:
    """Two units are restarted at the same time."""
    double.jobs += [Job(signal=Signal.NEVER), Job(result="canceled")]
    first = asyncio.create_task(systemd.restart(CONTAINERD, timeout_s=SHORT_S))
    await until_async(lambda: double.calls == [RESTART], what="the first job is asked for")
    assert isinstance(await systemd.restart("kubelet.service", timeout_s=LONG_S), Failed)
    assert isinstance(await first, Unknown)


async def test_only_systemd_can_end_a_job(systemd: Systemd, double: SystemdDouble, bus: Bus) -> None:
    """Anybody on the bus may send us a signal; the number of the job is easily guessed."""
    double.jobs.append(Job(signal=Signal.NEVER))
    restart = asyncio.create_task(systemd.restart(CONTAINERD, timeout_s=SHORT_S))
    await until_async(lambda: double.calls == [RESTART], what="the job is asked for")
    async with bus.connection() as stranger:
        await stranger.send(
            Message(
                message_type=MessageType.SIGNAL,
                destination=systemd._bus.unique_name,
                path=MANAGER,
                interface=f"{NAME}.Manager",
                member="JobRemoved",
                signature="uoss",
                body=[101, f"{MANAGER}/job/101", CONTAINERD, "done"],
            )
        )
        assert isinstance(await restart, Unknown)


async def test_a_node_that_shuts_down_is_left_alone(systemd: Systemd, double: SystemdDouble) -> None:
    """Even on the way back."""
    double.system_state = "stopping"
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S, if_busy=IfBusy.TAKE_OVER)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.SHUTTING_DOWN
    assert double.calls == []


@pytest.mark.parametrize(
    "state",
    [
        {"ActiveState": "activating"},
        {"ActiveState": "deactivating"},
        {"ActiveState": "reloading"},
        {"Job": [7, f"{MANAGER}/job/7"]},
    ],
)
async def test_a_unit_on_its_way_is_left_alone_unless_taken_over(
    systemd: Systemd, double: SystemdDouble, state: dict[str, object]
) -> None:
    """Taking over may replace what is queued."""
    double.set(**state)
    refused = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.BUSY
    assert double.calls == []
    double.jobs.append(Job())
    assert isinstance(await systemd.restart(CONTAINERD, timeout_s=LONG_S, if_busy=IfBusy.TAKE_OVER), Done)
    assert double.calls == [("RestartUnit", CONTAINERD, "replace")]


async def test_a_job_that_came_in_between_is_left_alone(systemd: Systemd, double: SystemdDouble) -> None:
    """Somebody else's stop was queued after we had looked: systemd says so, because of the mode."""
    double.jobs.append(Job(error=DBusError(f"{NAME}.TransactionIsDestructive", "a stop job is queued")))
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.BUSY


async def test_a_refusal_of_systemd_is_an_error_with_its_name(systemd: Systemd, double: SystemdDouble) -> None:
    """Foreign text is cut."""
    double.jobs.append(Job(error=DBusError(f"{NAME}.NoSuchUnit", "x" * 1000)))
    with pytest.raises(UnitFailed) as caught:
        await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert caught.value.error_name == f"{NAME}.NoSuchUnit"
    assert caught.value.message.endswith("refused RestartUnit: " + "x" * 256)


async def test_what_was_not_even_started_is_reset_and_started_once(systemd: Systemd, double: SystemdDouble) -> None:
    """The start limit, whatever the Result says."""
    double.jobs += [Job(result="failed", then=lambda: double.set(Result="exit-code")), Job()]
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(outcome, Done)
    assert outcome.was_reset
    assert double.calls == [RESTART, ("ResetFailedUnit", CONTAINERD), ("StartUnit", CONTAINERD, "fail")]


async def test_a_second_failure_is_final(systemd: Systemd, double: SystemdDouble) -> None:
    """No third start."""
    double.jobs += [Job(result="failed"), Job(result="failed")]
    outcome = await systemd.restart(CONTAINERD, timeout_s=LONG_S)
    assert isinstance(outcome, Failed)
    assert [call[0] for call in double.calls] == ["RestartUnit", "ResetFailedUnit", "StartUnit"]


async def test_a_process_that_was_started_and_died_is_not_started_again(
    systemd: Systemd, double: SystemdDouble
) -> None:
    """That is no start limit but a containerd that does not come up."""
    double.jobs.append(
        Job(result="failed", then=lambda: double.set(ExecMainStartTimestampMonotonic=2_000_000, Result="exit-code"))
    )
    assert isinstance(await systemd.restart(CONTAINERD, timeout_s=LONG_S), Failed)
    assert double.calls == [RESTART]


async def test_a_bus_that_dies_under_a_job_is_gone(systemd: Systemd, double: SystemdDouble, bus: Bus) -> None:
    """At once, not at the deadline; and so is every later call."""
    double.jobs.append(Job(signal=Signal.NEVER))
    restart = asyncio.create_task(systemd.restart(CONTAINERD, timeout_s=60.0))
    await until_async(lambda: double.calls == [RESTART], what="the job is asked for")
    await bus.kill()
    with pytest.raises(BusGone, match="during a job"):
        await restart
    for _ in range(2):
        with pytest.raises(BusGone):
            await systemd.unit(CONTAINERD)
    assert systemd._listeners == set()


async def test_a_bus_that_dies_under_a_call_is_gone(systemd: Systemd, double: SystemdDouble, bus: Bus) -> None:
    double.is_mute = True
    reading = asyncio.create_task(systemd.unit(CONTAINERD))
    await until_async(lambda: double.calls == [("LoadUnit",)], what="the call is there")
    await bus.kill()
    with pytest.raises(BusGone):
        await reading


async def test_a_systemd_that_does_not_answer_is_gone(
    systemd: Systemd, double: SystemdDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "CALL_TIMEOUT_S", SHORT_S)
    double.is_mute = True
    with pytest.raises(BusGone, match="no answer"):
        await systemd.unit(CONTAINERD)


async def test_a_bus_without_systemd_is_gone(bus: Bus) -> None:
    """The bus itself answers then."""
    with pytest.raises(BusGone, match="was not provided"):
        async with Systemd(bus.socket):
            pass


async def test_a_socket_that_is_not_there_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BusGone, match="No such file"):
        async with Systemd(tmp_path / "~a,b=c"):
            pass


@pytest.mark.parametrize("answer", [b"", b"OK 0123\r\nAGREE_UNIX_FD\r\n", b"REJECTED EXTERNAL\r\n", b"\xff\r\n"])
async def test_whatever_else_listens_there_is_no_bus(tmp_path: Path, answer: bytes) -> None:
    """It hangs up at once, after the greeting, refuses us, or talks nonsense."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            await reader.readuntil(b"\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "socket"):
        with pytest.raises(BusGone):
            async with Systemd(tmp_path / "socket"):
                pass


async def test_a_listener_that_says_nothing_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CALL_TIMEOUT_S", SHORT_S)
    async with await asyncio.start_unix_server(_hold, tmp_path / "socket"):
        with pytest.raises(BusGone, match="no answer"):
            async with Systemd(tmp_path / "socket"):
                pass


async def test_a_cancelled_restart_leaves_nothing_behind(systemd: Systemd, double: SystemdDouble) -> None:
    double.jobs.append(Job(signal=Signal.NEVER))
    restart = asyncio.create_task(systemd.restart(CONTAINERD, timeout_s=60.0))
    await until_async(lambda: double.calls == [RESTART], what="the job is asked for")
    restart.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restart
    assert systemd._listeners == set()
    assert (await systemd.unit(CONTAINERD)).is_active


async def test_a_command_is_confined_and_leaves_no_unit(systemd: Systemd, double: SystemdDouble) -> None:
    """What it may do is pinned here; what it prints comes through two descriptors."""

    def run() -> None:
        for stream in ("Output", "Error"):
            descriptor = double.descriptors[double.transient.pop(f"Standard{stream}FileDescriptor")]
            os.write(descriptor, stream.encode())
            os.close(descriptor)
        double.set(ExecMainCode=1, ExecMainStatus=3)

    double.jobs.append(Job(result="failed", then=run))
    finished = await systemd.run_transient(("/usr/bin/containerd", "$x"), timeout_s=1.5)
    assert (finished.exit_code, finished.stdout, finished.stderr) == (3, b"Output", b"Error")
    assert double.transient == {
        "Description": "/usr/bin/containerd for registry-agent",
        "Type": "oneshot",
        "ExecStart": [("/usr/bin/containerd", ["/usr/bin/containerd", "$$x"], False)],
        "TimeoutStartUSec": 1_500_000,
        "KillSignal": 9,
        "AddRef": True,
        "CollectMode": "inactive-or-failed",
        "LimitFSIZE": door.MAX_OUTPUT_BYTES,
        "LimitCORE": 0,
        "MemoryMax": 256 * 1024 * 1024,
        "TasksMax": 128,
        "CapabilityBoundingSet": 4,
        "NoNewPrivileges": True,
        "PrivateDevices": True,
        "PrivateNetwork": True,
        "ProtectSystem": "strict",
    }
    (_, name, mode), *rest = double.calls
    assert mode == "fail"
    assert rest == [("StopUnit", name, "replace"), ("UnrefUnit", name)]


async def test_a_command_that_systemd_does_not_end_is_given_up(
    systemd: Systemd, double: SystemdDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is stopped all the same."""
    monkeypatch.setattr(door, "GRACE_S", 0.1)
    double.jobs.append(Job(signal=Signal.NEVER))
    with pytest.raises(UnitFailed, match="nor did systemd"):
        await systemd.run_transient(("/bin/sleep",), timeout_s=0.1)
    for descriptor in double.descriptors:
        os.close(descriptor)
    assert [call[0] for call in double.calls] == ["StartTransientUnit", "StopUnit", "UnrefUnit"]


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take all, say nothing, until the other side goes."""
    await reader.read()
    writer.close()
