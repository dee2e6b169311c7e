"""Reads and restarts units and runs commands through the node's systemd: the only door to dbus_fast.

The socket of the system bus is all it needs, so it works from a pod. It never decides: what a job
came to is a value. Once the bus is gone (BusGone) the object is of no more use: open a new one and
read the unit again, for a job that was asked for goes on without us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError
from dbus_fast.unpack import unpack_variants

from agent.errors import BusGone, UnitFailed
from agent.unit import Done, Failed, Finished, IfBusy, JobOutcome, Refusal, Refused, Unit, Unknown

#: systemd answers within milliseconds, also while it runs jobs; jobs are waited for separately.
CALL_TIMEOUT_S = 5.0

#: A command may print this much; `containerd config dump` prints about 8 KiB.
MAX_OUTPUT_BYTES = 1024 * 1024

#: systemd itself ends a command that takes too long; only this much later do we give up on systemd.
GRACE_S = 3.0

_MAX_FOREIGN_TEXT = 256
_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_Interface: TypeAlias = tuple[str, str, str]
_MANAGER_OBJECT: _Interface = (_SYSTEMD, _MANAGER_PATH, _MANAGER)
_BUS = "org.freedesktop.DBus"
_PROPERTIES = f"{_BUS}.Properties"
_JOB_REMOVED = f"type='signal',sender='{_SYSTEMD}',interface='{_MANAGER}',member='JobRemoved'"
_CONFLICT = f"{_SYSTEMD}.TransactionIsDestructive"

_EXITED = 1  # CLD_EXITED; the other codes are signals
_NOT_STARTED = range(200, 256)  # systemd's own exit codes, systemd.exec(5)
_YES = Variant("b", value=True)

#: A command may read the node, imports and all, and change nothing. Tried with systemd 252, 257 and 262.
_CONFINED = {
    "Type": Variant("s", "oneshot"),
    "AddRef": _YES,  # keeps the unit until its exit code is read
    "CollectMode": Variant("s", "inactive-or-failed"),
    "StandardOutputFileDescriptor": Variant("h", 0),
    "StandardErrorFileDescriptor": Variant("h", 1),
    "KillSignal": Variant("i", 9),
    "LimitFSIZE": Variant("t", MAX_OUTPUT_BYTES),
    "LimitCORE": Variant("t", 0),
    "MemoryMax": Variant("t", 256 * 1024 * 1024),
    "TasksMax": Variant("t", 128),
    "CapabilityBoundingSet": Variant("t", 1 << 2),  # CAP_DAC_READ_SEARCH
    "NoNewPrivileges": _YES,
    "PrivateDevices": _YES,
    "PrivateNetwork": _YES,
    "ProtectSystem": Variant("s", "strict"),
}


class Systemd:
    """A connection to one node's systemd, as `async with`; everything raises BusGone and UnitFailed."""

    def __init__(self, socket: Path) -> None:
        """`socket` is /run/dbus/system_bus_socket below the node's root."""
        # dbus-fast wants "~" escaped, too, which `quote` leaves alone.
        address = f"unix:path={quote(str(socket)).replace('~', '%7E')}"
        self._bus = MessageBus(bus_address=address, negotiate_unix_fd=True)
        self._listeners: set[asyncio.Queue[Message | None]] = set()

    async def __aenter__(self) -> Self:
        self._gone = asyncio.create_task(
            self._bus.wait_for_disconnect(),  # type: ignore[no-untyped-call]
            name="system-bus",
        )
        self._gone.add_done_callback(lambda _: self._tell(None))
        try:
            await self._connect()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def unit(self, name: str) -> Unit:
        """Return the facts about a service; `load_state` says if there is none of this name."""
        return _unit(name, await self._properties(name))

    async def restart(self, name: str, *, timeout_s: float, if_busy: IfBusy = IfBusy.REFUSE) -> JobOutcome:
        """Restart a service once and wait for systemd's verdict; the unit in it was read afterwards."""
        unit = await self.unit(name)
        if (reason := await self._refusal(unit, if_busy)) is not None:
            return Refused(unit=unit, reason=reason)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._restart(unit, mode="fail" if if_busy is IfBusy.REFUSE else "replace")
        except TimeoutError:
            return Unknown(unit=await self.unit(name))
        except UnitFailed as err:
            if err.error_name != _CONFLICT:
                raise
            return Refused(unit=await self.unit(name), reason=Refusal.BUSY)

    async def run_transient(self, argv: Sequence[str], *, timeout_s: float) -> Finished:
        """Run a command in the node's own context, confined to reading, and return what it left."""
        name = f"registry-agent-{secrets.token_hex(8)}.service"
        with _memory_file("stdout") as stdout, _memory_file("stderr") as stderr:
            try:
                async with asyncio.timeout(timeout_s + GRACE_S):
                    await self._start_transient(name, argv, timeout_s=timeout_s, outputs=(stdout, stderr))
                exit_code = _exit_code(await self._properties(name), argv)
            except TimeoutError as err:
                raise UnitFailed(f"{argv[0]} did not end in time, nor did systemd end it") from err
            finally:
                await self._discard(name)
            return Finished(exit_code=exit_code, stdout=_content(stdout), stderr=_content(stderr))

    async def _connect(self) -> None:
        with _translated("connect"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._bus.connect()
        self._bus.add_message_handler(self._hear)
        await self._call("AddMatch", "s", _JOB_REMOVED, at=(_BUS, "/org/freedesktop/DBus", _BUS))
        await self._call("Subscribe")  # without it systemd is silent where no logind runs

    async def _close(self) -> None:
        """End the connection; a task that waits for its end has then seen it."""
        if self._bus.connected:
            self._bus.disconnect()
            await asyncio.wait([self._gone], timeout=CALL_TIMEOUT_S)
        self._gone.cancel()
        await asyncio.gather(self._gone, return_exceptions=True)

    async def _refusal(self, unit: Unit, if_busy: IfBusy) -> Refusal | None:
        state = await self._call("Get", "ss", _MANAGER, "SystemState", at=(_SYSTEMD, _MANAGER_PATH, _PROPERTIES))
        if unpack_variants(state.body[0]) == "stopping":
            return Refusal.SHUTTING_DOWN
        if not unit.is_loaded:
            return Refusal.NOT_LOADED
        return Refusal.BUSY if unit.is_changing and if_busy is IfBusy.REFUSE else None

    async def _restart(self, before: Unit, *, mode: str) -> JobOutcome:
        result = await self._job("RestartUnit", "ss", before.name, mode)
        unit = await self.unit(before.name)
        # The start limit: stopped, and nothing was started. Result need not say so, for up to systemd 257
        # the first failure stays there, and containerd 1.x now and then exits with 1 when it is stopped.
        was_reset = result == "failed" and unit.started_monotonic_us == before.started_monotonic_us
        if was_reset:
            await self._call("ResetFailedUnit", "s", unit.name)
            result = await self._job("StartUnit", "ss", unit.name, mode)
            unit = await self.unit(unit.name)
        return Done(unit=unit, was_reset=was_reset) if result == "done" else Failed(unit=unit, result=result)

    async def _start_transient(
        self, name: str, argv: Sequence[str], *, timeout_s: float, outputs: tuple[int, int]
    ) -> None:
        properties = _CONFINED | {
            "Description": Variant("s", f"{argv[0]} for registry-agent"),
            # Only "$" means something to systemd here.
            "ExecStart": Variant("a(sasb)", [[argv[0], [word.replace("$", "$$") for word in argv], False]]),
            "TimeoutStartUSec": Variant("t", round(timeout_s * 1_000_000)),
        }
        body = [name, "fail", [list(pair) for pair in properties.items()], []]
        await self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", *body, descriptors=outputs)

    async def _discard(self, name: str) -> None:
        """Stop a transient unit if it still runs, and let systemd forget it."""
        with contextlib.suppress(BusGone, UnitFailed):
            await self._call("StopUnit", "ss", name, "replace")
            await self._call("UnrefUnit", "s", name)

    async def _job(self, member: str, signature: str, *body: Any, descriptors: Sequence[int] = ()) -> str:
        """Ask for a job and return its result; who listens only after asking can miss it."""
        removed: asyncio.Queue[Message | None] = asyncio.Queue()
        self._listeners.add(removed)
        try:
            asked = await self._call(member, signature, *body, descriptors=descriptors)
            while (signal := await removed.get()) is not None:
                # Anybody on the bus can send a signal to us alone; only systemd's counts.
                if signal.sender == asked.sender and signal.body[1] == asked.body[0]:
                    return str(signal.body[3])
        finally:
            self._listeners.discard(removed)
        raise BusGone(f"the system bus went away during a job of {member}")

    def _hear(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and (message.member, message.signature) == ("JobRemoved", "uoss"):
            self._tell(message)

    def _tell(self, signal: Message | None) -> None:
        for listener in self._listeners:
            listener.put_nowait(signal)

    async def _properties(self, name: str) -> dict[str, Any]:
        """Return a service's properties, which is quicker in two calls than one by one."""
        (path,) = (await self._call("LoadUnit", "s", name)).body
        found: dict[str, Any] = {}
        for interface in ("Unit", "Service"):
            reply = await self._call("GetAll", "s", f"{_SYSTEMD}.{interface}", at=(_SYSTEMD, path, _PROPERTIES))
            found |= unpack_variants(reply.body[0])
        return found

    async def _call(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        at: _Interface | None = None,
        descriptors: Sequence[int] = (),
    ) -> Message:
        """Call a method of the manager, or of another object, and return the reply."""
        if not self._bus.connected:  # dbus-fast would wait for an answer
            raise BusGone(f"{member}: the system bus is gone")
        object_ = at or _MANAGER_OBJECT
        message = Message(*object_, member, signature=signature, body=list(body), unix_fds=list(descriptors))
        with _translated(member):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                reply = await self._bus.call(message)
        if reply.message_type is MessageType.ERROR:
            text = " ".join(str(each) for each in reply.body)[:_MAX_FOREIGN_TEXT]
            if reply.sender == _BUS:  # it never reached systemd
                raise BusGone(f"{member}: {text}")
            raise UnitFailed(f"systemd refused {member}: {text}", error_name=reply.error_name or "")
        return reply


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as err:
        raise BusGone(f"{what}: no answer from the system bus in {CALL_TIMEOUT_S:g} s") from err
    except (OSError, EOFError, DBusFastError, UnicodeDecodeError) as err:
        text = (err.strerror if isinstance(err, OSError) else None) or type(err).__name__
        raise BusGone(f"{what}: the system bus is gone ({text})") from err


@contextlib.contextmanager
def _memory_file(name: str) -> Iterator[int]:
    """Lend a file that is on no disk: what a command prints may hold credentials."""
    descriptor = os.memfd_create(f"registry-agent-{name}", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    content = os.pread(descriptor, MAX_OUTPUT_BYTES, 0)
    if len(content) == MAX_OUTPUT_BYTES:
        raise UnitFailed(f"a command printed {MAX_OUTPUT_BYTES} bytes or more")
    return content


def _exit_code(properties: dict[str, Any], argv: Sequence[str]) -> int:
    """Return the code as subprocess has it, negative for a signal."""
    result, kind, status = (properties[key] for key in ("Result", "ExecMainCode", "ExecMainStatus"))
    if result == "timeout":
        raise UnitFailed(f"{argv[0]} did not end in time")
    if kind == 0 or (kind == _EXITED and status in _NOT_STARTED):
        raise UnitFailed(f"systemd could not start {argv[0]}: {result}, status {status}")
    return int(status if kind == _EXITED else -status)


def _unit(name: str, properties: dict[str, Any]) -> Unit:
    commands = properties["ExecStart"]
    return Unit(
        name=name,
        load_state=properties["LoadState"],
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        result=properties["Result"],
        main_pid=properties["MainPID"],
        started_us=properties["ExecMainStartTimestamp"],
        started_monotonic_us=properties["ExecMainStartTimestampMonotonic"],
        kill_mode=properties["KillMode"],
        restarts=properties["NRestarts"],
        fragment_path=properties["FragmentPath"],
        argv=(commands[0][0], *commands[0][1][1:]) if commands else (),
        job_id=properties["Job"][0],
    )
