"""Units and jobs of systemd as values: what was read, what a restart came to, what a command left."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A service at one moment in systemd's own words, with its main process as it runs or ran last."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    result: str
    main_pid: int
    started_us: int
    """Start of the main process since the epoch; 0 when it never ran."""
    started_monotonic_us: int
    kill_mode: str
    restarts: int
    """How often systemd restarted it by itself."""
    fragment_path: str
    argv: tuple[str, ...]
    job_id: int
    """The job that waits or runs for it; 0 for none."""

    @property
    def is_loaded(self) -> bool:
        """Tell whether systemd has a definition of it that may be started."""
        return self.load_state == "loaded"

    @property
    def is_active(self) -> bool:
        """Tell whether it is up."""
        return self.active_state == "active"

    @property
    def is_changing(self) -> bool:
        """Tell whether it is on its way up or down, or a job will take it there."""
        return self.job_id != 0 or self.active_state not in {"active", "inactive", "failed"}


class IfBusy(Enum):
    """What a restart does about a unit that is changing already."""

    REFUSE = "refuse"
    TAKE_OVER = "take over"
    """For the way back: a start that hangs or waits for its next try would hold it up."""


class Refusal(Enum):
    """Why no restart was asked for."""

    NOT_LOADED = "the unit is missing or masked"
    BUSY = "the unit is being started or stopped already"
    SHUTTING_DOWN = "the node is shutting down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """systemd says that the unit was restarted; `was_reset` if its start limit had to be reset for that."""

    unit: Unit
    was_reset: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The job did not end as "done"; `result` is the job's, `unit.result` the service's own."""

    unit: Unit
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The job had not ended in time and goes on; `unit` was read after that."""

    unit: Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was done."""

    unit: Unit
    reason: Refusal


JobOutcome: TypeAlias = Done | Failed | Unknown | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that ended; the code is negative for a signal. What it printed may hold secrets."""

    exit_code: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
