"""A node whose containerd can be restarted: real files in a folder, with systemd and containerd as a small model."""

import contextlib
import inspect
import os
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from agent.approval import Granted, Waiting
from agent.config_toml import SECTIONS
from agent.disk.containerd import ContainerdFiles
from agent.disk.directory import Calls
from agent.errors import ApiFailed, BusGone, RuntimeUnavailable, UnitFailed
from agent.runtime import Containerd, ContainerdVersion, Flavour
from agent.switch_plan import SwitchPlan, make_switch_plan
from agent.switch_ports import Leave, Terms
from agent.switcher import CLEAR_SETTLE_S, Switcher
from agent.switching import Goal, Record, Switched
from agent.unit import Done, Failed, Finished, IfBusy, JobOutcome, Refusal, Refused, Unit, Unknown
from tests.support.faults import Crash
from tests.support.nodes import STATE_DIR

REGISTRY_D = "/etc/containerd/registry.d"
UNIT = "containerd.service"
RESTART_TIMEOUT_S = 60.0
#: How long a question takes that containerd does not answer well.
PROBE_S = 20.0

LEGACY = b"""# kept by hand
version = 2
oom_score = -999

[plugins."io.containerd.grpc.v1.cri".registry]
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
    endpoint = ["https://mirror.test"]

[debug]
  level = "info"  # quiet
"""

_Port = TypeVar("_Port")


def config_path(raw: bytes | None) -> str:
    """Return the config_path that containerd would take from a file, "" for none."""
    tables = tomllib.loads((raw or b"").decode())
    for path in SECTIONS.values():
        found: Any = tables
        for name in path:
            found = found.get(name, {})
        if "config_path" in found:
            return str(found["config_path"])
    return ""


def points_at_ours(raw: bytes | None) -> str | None:
    """Be the illness of a containerd that cannot live with registry.d."""
    return "the CRI plugin is not loaded" if config_path(raw) == REGISTRY_D else None


class Machine:
    """The node: it outlives the agents. Its clock is the real one and what tests add to it."""

    def __init__(self, root: Path, *, config: bytes | None = LEGACY, version: str = "1.7.24") -> None:
        """containerd runs with `config`, and has for a while."""
        self.root = root
        self.version = version
        self.boot_id = "boot"
        self.config = root / "etc/containerd/config.toml"
        self.config.parent.mkdir(parents=True)
        if config is not None:
            self.config.write_bytes(config)
        self.passed_s = 0.0
        self.containers = {"c1", "c2"}
        self.restarts = 0
        self.loaded = config
        self.unit = Unit(
            name=UNIT,
            load_state="loaded",
            active_state="active",
            sub_state="running",
            result="success",
            main_pid=1,
            started_us=int(time.time() * 1e6) + 20_000,
            started_monotonic_us=int(time.monotonic() * 1e6) + 20_000,
            kill_mode="process",
            restarts=0,
            fragment_path="/lib/systemd/system/containerd.service",
            argv=("/usr/bin/containerd",),
            job_id=0,
        )
        #: What is wrong with a containerd that has loaded a file.
        self.illness: Callable[[bytes | None], str | None] = lambda _: None
        #: What becomes of the next restarts, in order; then all are done.
        self.outcomes: list[str] = []
        #: Containers that do not survive the next restart.
        self.doomed: set[str] = set()
        #: Containers that come to their end by themselves meanwhile.
        self.done: set[str] = set()
        #: What `config dump` makes of a file.
        self.dump: Callable[[bytes], tuple[int, bytes]] = lambda raw: (0, raw)
        self.journal = b""
        self.dumped: list[bytes] = []

    def read(self) -> bytes | None:
        """Return config.toml."""
        return self.config.read_bytes() if self.config.exists() else None

    def now(self) -> float:
        return time.time() + self.passed_s

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s

    def boot_containerd(self) -> None:
        """Start it with the file as it is, whoever asked for that."""
        self.loaded = self.read()
        self.containers -= self.doomed | self.done
        self.unit = replace(
            self.unit,
            active_state="active",
            started_us=int(time.time() * 1e6),
            started_monotonic_us=int(time.monotonic() * 1e6),
        )

    def record(self) -> Record:
        """Return what the agent keeps."""
        path = self.root / str(STATE_DIR).lstrip("/") / "containerd/record.json"
        record = Record.load(path.read_bytes() if path.exists() else None)
        assert record is not None
        return record

    def folder(self) -> Path:
        """Where the agent keeps its files."""
        return self.root / str(STATE_DIR).lstrip("/") / "containerd"


class ModelSystemd:
    """systemd, as far as a Switcher asks it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def unit(self, name: str) -> Unit:
        machine = self._machine
        found = machine.unit
        if found.active_state == "activating":  # it is there when it is asked for the next time
            machine.boot_containerd()
        if not found.is_active:
            machine.passed_s += PROBE_S
        return replace(found, name=name)

    async def restart(self, name: str, *, timeout_s: float, if_busy: IfBusy) -> JobOutcome:
        machine = self._machine
        assert timeout_s == RESTART_TIMEOUT_S
        outcome = machine.outcomes.pop(0) if machine.outcomes else "done"
        if outcome == "refused" and if_busy is not IfBusy.REFUSE:
            outcome = "done"
        ended = self._not_made(outcome)
        if ended is not None:
            return ended
        if name == machine.unit.name:
            machine.restarts += 1
            machine.boot_containerd()
            if outcome != "done":
                active_state = "failed" if outcome == "failed" else "activating"
                machine.unit = replace(machine.unit, active_state=active_state, result="exit-code")
        if outcome in {"failed", "overtaken"}:
            return Failed(unit=machine.unit, result="failed" if outcome == "failed" else "canceled")
        return Unknown(unit=machine.unit) if outcome == "unknown" else Done(unit=machine.unit, was_reset=False)

    def _not_made(self, outcome: str) -> JobOutcome | None:
        """Return what a restart comes to that was never made, None for one that is; raises BusGone, UnitFailed."""
        unit = self._machine.unit
        match outcome:
            case "gone":
                raise BusGone("the bus is gone")
            case "unit-failed":
                raise UnitFailed("systemd refused RestartUnit")
            case "refused":
                return Refused(unit=unit, reason=Refusal.BUSY)
            case "canceled":
                return Failed(unit=unit, result="canceled")
            case "queued":
                self._machine.passed_s += RESTART_TIMEOUT_S
                return Unknown(unit=unit)
            case _:
                return None

    async def run_transient(self, argv: tuple[str, ...], *, timeout_s: float) -> Finished:
        assert timeout_s > 0
        if argv[0].endswith("journalctl"):
            return Finished(exit_code=0, stdout=self._machine.journal, stderr=b"")
        assert ("/usr/bin/containerd", "--config") == argv[:2]
        assert ("config", "dump") == argv[3:]
        raw = (self._machine.root / argv[2].lstrip("/")).read_bytes()
        self._machine.dumped.append(raw)
        exit_code, stdout = self._machine.dump(raw)
        return Finished(exit_code=exit_code, stdout=stdout, stderr=b"")


class ModelRuntime:
    """containerd's socket."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sign(self) -> str | None:
        return str(self._machine.unit.started_monotonic_us) if self._machine.unit.is_active else None

    async def version(self) -> str:
        return self._machine.version

    async def running_containers(self) -> frozenset[str]:
        if not self._machine.unit.is_active or self._machine.illness(self._machine.loaded):
            raise RuntimeUnavailable("ListContainers", "UNAVAILABLE", "")
        return frozenset(self._machine.containers)

    async def lost(self, before: frozenset[str]) -> frozenset[str]:
        lost = before - await self.running_containers() - self._machine.done
        self._machine.passed_s += PROBE_S if lost else 0
        return lost

    async def problem(self, directory: str | None) -> str | None:
        problem = self._machine.illness(self._machine.loaded)
        loaded = await self.loaded_directory()
        if problem is None and directory is not None and loaded not in {None, directory}:
            problem = "another config_path"
        self._machine.passed_s += PROBE_S if problem else 0
        return problem

    async def loaded_directory(self) -> str | None:
        if self._machine.version.startswith("2"):
            return None
        return config_path(self._machine.loaded)


class ScriptedApproval:
    """Grants, unless the test says otherwise."""

    def __init__(self) -> None:
        self.waiting = ""
        self.is_held = False
        self.is_wanted = False
        self.is_api_gone = False
        self.asked = 0

    async def ask(self) -> Granted | Waiting:
        self.asked += 1
        self.is_wanted = True
        if self.waiting:
            return Waiting(reason=self.waiting)
        self.is_held = True
        return Granted()

    async def keep(self) -> None:
        assert self.is_held

    async def release(self) -> None:
        if self.is_api_gone:
            raise ApiFailed("ApiUnreachable", "no answer")
        self.is_held = self.is_wanted = False


class Trip:
    """Lets the agent die at one of its calls: before it or after it."""

    def __init__(self, at: int | None = None, *, call: str = "", is_after: bool = False) -> None:
        """Of `at`, a half-step: 2 n is before the n-th call, 2 n + 1 after it. `call` is one by its name."""
        self._at = at
        self._call = call, is_after
        self.count = 0

    def step(self, name: str, *, is_after: bool) -> None:
        """Count, and die when it is time; whoever is dead does nothing any more."""
        self.count += 1
        if (name, is_after) == self._call:
            self._at = self.count - 1
        if self._at is not None and self.count > self._at:
            raise Crash


class _Tripping:
    def __init__(self, port: object, trip: Trip) -> None:
        self._port, self._trip = port, trip

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found) or inspect.isgeneratorfunction(getattr(found, "__wrapped__", None)):
            return found
        return self._later(found) if inspect.iscoroutinefunction(found) else self._now(found)

    def _now(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            self._trip.step(call.__name__, is_after=False)
            result = call(*args, **kwargs)
            self._trip.step(call.__name__, is_after=True)
            return result

        return made

    def _later(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def made(*args: Any, **kwargs: Any) -> Any:
            self._trip.step(call.__name__, is_after=False)
            result = await call(*args, **kwargs)
            self._trip.step(call.__name__, is_after=True)
            return result

        return made


def tripping(port: _Port, trip: Trip) -> _Port:
    """Return the port with the agent dying at one of its calls."""
    return cast("_Port", _Tripping(port, trip))


class Life:
    """One agent on a machine; a new one is a restart of the agent."""

    def __init__(
        self,
        machine: Machine,
        *,
        is_observing: bool = False,
        restarts_kubelet: bool = False,
        has_systemd: bool = True,
        calls: Calls | None = None,
        trip: Trip | None = None,
    ) -> None:
        self.machine = machine
        self.approval = ScriptedApproval()
        self.held: str | None = None
        self.connects = 0
        self._is_observing = is_observing
        trip = trip or Trip()
        systemd = tripping(ModelSystemd(machine), trip)

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[ModelSystemd]:
            self.connects += 1
            yield systemd

        self.switcher = Switcher(
            files=tripping(ContainerdFiles(machine.root, STATE_DIR, calls=calls or cast("Calls", os)), trip),
            connect=connect,
            runtime=tripping(ModelRuntime(machine), trip),
            approval=self.approval,
            make_plan=make_plan,
            hold=lambda: Waiting(reason=self.held) if self.held else None,
            has_systemd=lambda: has_systemd,
            unit=lambda: machine.unit.name,
            terms=Terms(
                restart_timeout_s=RESTART_TIMEOUT_S,
                restarts_kubelet=restarts_kubelet,
            ),
            boot_id=machine.boot_id,
            clock=machine.now,
            monotonic=machine.monotonic,
        )

    async def step(self, goal: Goal = Goal.REGISTRY_D, *, is_clear: bool = True) -> Switched:
        """Take one step, and if the legacy files are looked at once more, the next one after that."""
        switched = await self.look(goal, is_clear=is_clear)
        if switched.reason == "LegacySettling":
            self.machine.passed_s += CLEAR_SETTLE_S
            switched = await self.look(goal, is_clear=is_clear)
        return switched

    async def look(
        self, goal: Goal = Goal.REGISTRY_D, *, is_clear: bool = True, leave: Leave | None = None
    ) -> Switched:
        """Take one step as a pass does: what is under way comes first."""
        finished = await self.switcher.finish(goal, is_observing=self._is_observing)
        if finished is not None:
            return finished
        usual = Leave.OBSERVE if self._is_observing else Leave.BEGIN
        return await self.switcher.step(goal, is_clear=is_clear, leave=leave or usual)


def make_plan(goal: Goal, raw: bytes | None, *, saved: bytes | None, version: str | None) -> SwitchPlan | None:
    """Plan as the daemon does."""
    containerd = Containerd(flavour=Flavour.STOCK, version=ContainerdVersion.parse(version) if version else None)
    return make_switch_plan(goal, raw, saved=saved, registry_dir=PurePosixPath(REGISTRY_D), containerd=containerd)
