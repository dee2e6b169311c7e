"""What a switch of containerd needs of the outside; the adapters do not know these."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from agent.approval import Granted, Waiting
from agent.switch_plan import SwitchPlan
from agent.switching import ConfigFile, Goal, State, Switched
from agent.unit import Finished, IfBusy, JobOutcome, Unit

BUSY_RETRY_S = 5.0


class Files(Protocol):
    """config.toml and what is kept about it; synchronous. Methods raise DiskFailed and Obstructed."""

    @property
    def where(self) -> str:
        """The path of config.toml as the node sees it."""

    def locate(self, argv: tuple[str, ...]) -> None:
        """Take the path of config.toml from containerd's command line; raises ContainerdConfigUnsupported."""

    def read(self) -> ConfigFile:
        """Return config.toml."""

    def write(self, raw: bytes | None) -> None:
        """Replace config.toml, or remove it."""

    def back_up(self) -> int:
        """Keep copies of config.toml and the saved section under the next number; only the newest are kept."""

    def roll_back(self, number: int) -> None:
        """Put both back as they were; raises BackupMissing when the copies are gone."""

    def read_saved(self) -> bytes | None:
        """Return the legacy registry section that was moved aside."""

    def write_saved(self, saved: bytes | None) -> None:
        """Keep it, or forget it."""

    def read_record(self) -> bytes | None:
        """Return the record."""

    def write_record(self, record: bytes) -> None:
        """Keep the record."""

    def candidate(self, raw: bytes) -> AbstractContextManager[str]:
        """Lend a file beside config.toml; gives its path as the node sees it."""


class Systemd(Protocol):
    """The node's systemd; raises BusGone and UnitFailed."""

    async def unit(self, name: str) -> Unit:
        """Return the facts about a service."""

    async def restart(self, name: str, *, timeout_s: float, if_busy: IfBusy) -> JobOutcome:
        """Restart a service and wait for the verdict."""

    async def run_transient(self, argv: tuple[str, ...], *, timeout_s: float) -> Finished:
        """Run a command in the node's own context."""


class Runtime(Protocol):
    """containerd's socket; raises RuntimeUnavailable."""

    def sign(self) -> str | None:
        """Return what changes with each start of containerd, asking nobody; None when nothing is there."""

    async def version(self) -> str:
        """Return the version of containerd."""

    async def running_containers(self) -> frozenset[str]:
        """Return the ids of the containers that run."""

    async def lost(self, before: frozenset[str]) -> frozenset[str]:
        """Return those of the containers that ran before and whose end nobody has seen."""

    async def problem(self, directory: str | None) -> str | None:
        """Return what is wrong with the runtime, None when it is healthy and, as far as it says, uses `directory`."""

    async def loaded_directory(self) -> str | None:
        """Return the config_path that it has loaded, "" for none; None when it does not say."""


class MakePlan(Protocol):
    """Decides what config.toml has to become; pure."""

    def __call__(self, goal: Goal, raw: bytes | None, *, saved: bytes | None, version: str | None) -> SwitchPlan | None:
        """Return the plan, None when there is nothing to do for the goal; raises AgentError."""


class Approval(Protocol):
    """Permission to restart; everything raises AgentError."""

    async def ask(self) -> Granted | Waiting:
        """Ask, or ask again."""

    async def keep(self) -> None:
        """Keep the permission alive."""

    async def release(self) -> None:
        """Give it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """containerd's unit and the systemd that it is in."""

    systemd: Systemd
    name: str

    async def unit(self) -> Unit:
        """Return the facts as they are now."""
        return await self.systemd.unit(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the settings say about restarts."""

    restart_timeout_s: float
    restarts_kubelet: bool


class Leave(Enum):
    """How far a step may go."""

    #: Begin a switch.
    BEGIN = "begin"
    #: Begin nothing: what is wanted is about to change.
    WATCH = "watch"
    #: Write nothing at all.
    OBSERVE = "observe"


class Wait(Exception):
    """Nothing more can be done now: what is waited for."""

    def __init__(self, reason: str, message: str, retry_in_s: float | None = None, detail: str = "") -> None:
        """`detail` changes often: it is for `/status`, not for the Node."""
        super().__init__(message)
        self.switched = Switched(
            state=State.WAITING, reason=reason, message=message, retry_in_s=retry_in_s, detail=detail
        )
