"""A private dbus-daemon and, on it, an org.freedesktop.systemd1 whose jobs end as a test says."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from dbus_fast import DBusError, Message, MessageType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusObjectPath, DBusSignature, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

NAME = "org.freedesktop.systemd1"
MANAGER = "/org/freedesktop/systemd1"
UNIT = f"{MANAGER}/unit/containerd_2eservice"

_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""

Transient = Annotated[list[tuple[str, Variant]], DBusSignature("a(sv)")]
Auxiliary = Annotated[list[Any], DBusSignature("a(sa(sv))")]
Removed = Annotated[tuple[int, str, str, str], DBusSignature("uoss")]


class Signal(Enum):
    """When the end of a job is told."""

    BEFORE_REPLY = "before"
    AFTER_REPLY = "after"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How the next job goes; `then` runs before its end is told."""

    result: str = "done"
    signal: Signal = Signal.AFTER_REPLY
    then: Callable[[], None] = lambda: None
    error: DBusError | None = None


@dataclass
class SystemdDouble:
    """What the double is told, and what it was asked for."""

    properties: dict[str, Variant] = field(default_factory=lambda: dict(_PROPERTIES))
    system_state: str = "running"
    jobs: list[Job] = field(default_factory=list)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    transient: dict[str, Any] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)
    is_mute: bool = False

    def set(self, **values: object) -> None:
        """Change properties of the unit."""
        for name, value in values.items():
            self.properties[name] = Variant(_PROPERTIES[name].signature, value)


_PROPERTIES: dict[str, Variant] = {
    "LoadState": Variant("s", "loaded"),
    "ActiveState": Variant("s", "active"),
    "SubState": Variant("s", "running"),
    "FragmentPath": Variant("s", "/lib/systemd/system/containerd.service"),
    "Job": Variant("(uo)", [0, "/"]),
    "Result": Variant("s", "success"),
    "MainPID": Variant("u", 100),
    "ExecMainStartTimestamp": Variant("t", 1_700_000_000_000_000),
    "ExecMainStartTimestampMonotonic": Variant("t", 1_000_000),
    "ExecMainCode": Variant("i", 0),
    "ExecMainStatus": Variant("i", 0),
    "KillMode": Variant("s", "process"),
    "NRestarts": Variant("u", 0),
    "ExecStart": Variant("a(sasbttttuii)", [["/usr/bin/containerd", ["/usr/bin/containerd"], False, *[0] * 7]]),
}


class _Manager(ServiceInterface):
    """The manager's methods that the agent calls."""

    def __init__(self, double: SystemdDouble) -> None:
        super().__init__(f"{NAME}.Manager")
        self._double = double
        self._number = 100

    @dbus_method()
    def Subscribe(self) -> None:  # noqa: N802 -- D-Bus has its own names
        self._double.calls.append(("Subscribe",))

    @dbus_method()
    def LoadUnit(self, name: DBusStr) -> DBusObjectPath:  # noqa: N802
        assert name
        return UNIT

    @dbus_method()
    def RestartUnit(self, name: DBusStr, mode: DBusStr) -> DBusObjectPath:  # noqa: N802
        return self._job("RestartUnit", name, mode)

    @dbus_method()
    def StartUnit(self, name: DBusStr, mode: DBusStr) -> DBusObjectPath:  # noqa: N802
        return self._job("StartUnit", name, mode)

    @dbus_method()
    def StopUnit(self, name: DBusStr, mode: DBusStr) -> DBusObjectPath:  # noqa: N802
        self._double.calls.append(("StopUnit", name, mode))
        return f"{MANAGER}/job/1"

    @dbus_method()
    def ResetFailedUnit(self, name: DBusStr) -> None:  # noqa: N802
        self._double.calls.append(("ResetFailedUnit", name))

    @dbus_method()
    def UnrefUnit(self, name: DBusStr) -> None:  # noqa: N802
        self._double.calls.append(("UnrefUnit", name))

    @dbus_method()
    def StartTransientUnit(  # noqa: N802
        self, name: DBusStr, mode: DBusStr, properties: Transient, auxiliary: Auxiliary
    ) -> DBusObjectPath:
        assert not auxiliary
        self._double.transient = {key: variant.value for key, variant in properties}
        return self._job("StartTransientUnit", name, mode)

    @dbus_property(access=PropertyAccess.READ)
    def SystemState(self) -> DBusStr:  # noqa: N802
        return self._double.system_state

    @dbus_signal()
    def JobRemoved(self, number: int, path: str, unit: str, result: str) -> Removed:  # noqa: N802
        return number, path, unit, result

    def _job(self, *call: str) -> str:
        self._double.calls.append(call)
        job = self._double.jobs.pop(0)
        if job.error is not None:
            raise job.error
        self._number += 1
        number, path = self._number, f"{MANAGER}/job/{self._number}"
        job.then()
        if job.signal is Signal.BEFORE_REPLY:
            self.JobRemoved(number, path, call[1], job.result)
        elif job.signal is Signal.AFTER_REPLY:
            asyncio.get_running_loop().call_soon(self.JobRemoved, number, path, call[1], job.result)
        return path


class Bus:
    """A running dbus-daemon."""

    def __init__(self, socket: Path, daemon: asyncio.subprocess.Process) -> None:
        """Begin with no connection."""
        self.socket = socket
        self._daemon = daemon

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[MessageBus]:
        """Lend a connection that passes descriptors."""
        bus = MessageBus(bus_address=f"unix:path={self.socket}", negotiate_unix_fd=True)
        try:
            yield await bus.connect()
        finally:
            bus.disconnect()
            with contextlib.suppress(EOFError):  # the daemon was killed
                await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    async def kill(self) -> None:
        """End the daemon without a word."""
        with contextlib.suppress(ProcessLookupError):
            self._daemon.kill()
        await self._daemon.wait()


@contextlib.asynccontextmanager
async def private_bus(folder: Path) -> AsyncIterator[Bus]:
    """Run a dbus-daemon whose socket and config are in this folder."""
    socket, config = folder / "bus", folder / "bus.conf"
    config.write_text(_CONFIG.format(socket=socket))
    reading, writing = os.pipe()
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={config}", "--nofork", f"--print-address={writing}", pass_fds=[writing]
    )
    os.close(writing)
    bus = Bus(socket, daemon)
    try:
        assert await asyncio.to_thread(os.read, reading, 4096), "dbus-daemon did not start"
        yield bus
    finally:
        os.close(reading)
        await bus.kill()


@contextlib.asynccontextmanager
async def serving(bus: Bus) -> AsyncIterator[SystemdDouble]:
    """Serve a double on the bus."""
    double = SystemdDouble()

    def answer(message: Message) -> Message | bool | None:
        """Give the unit's properties, of which there are too many to write a method for each, or nothing."""
        if double.is_mute and message.message_type is MessageType.METHOD_CALL:
            double.calls.append((str(message.member),))
            return True
        if message.unix_fds:
            double.descriptors = message.unix_fds
        if message.message_type is MessageType.METHOD_CALL and (message.path, message.member) == (UNIT, "GetAll"):
            return Message.new_method_return(message, "a{sv}", [double.properties])
        return None

    async with bus.connection() as connection:
        connection.add_message_handler(answer)
        connection.export(MANAGER, _Manager(double))
        await connection.request_name(NAME)
        yield double
