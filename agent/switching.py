"""Whether containerd has to be restarted, and whether it may be now. Pure, with the record it needs.

A restart is due when what the running containerd has loaded is not what config.toml says. The record
survives the agent: it says what was loaded, what was tried and failed, and what was under way when a
crash came in between.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, Self

from agent.errors import AgentError
from agent.model import Notice

#: systemd's own limit is 5 starts in 10 s, after which containerd stays down: stay far below it.
MIN_SPACING_S = 60.0
WINDOW_S = 600.0
MAX_IN_WINDOW = 3

_FORMAT = 1

IN_THE_WAY = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """config.toml at one moment; `raw` is None when there is none."""

    raw: bytes | None = field(repr=False)
    changed_at: float | None


class Goal(Enum):
    """Where containerd has to look for registries."""

    REGISTRY_D = "registry.d"
    LEGACY = "legacy"


class State(Enum):
    """What a step came to."""

    LEFT_ALONE = "left-alone"
    IN_ORDER = "in-order"
    RESTARTED = "restarted"
    WOULD_CHANGE = "would-change"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """The result of a step. `reason` and `message` say what is waited for."""

    state: State
    reason: str = ""
    message: str = ""
    #: What changes often: for `/status`, not for the Node.
    detail: str = ""
    retry_in_s: float | None = None
    errors: tuple[AgentError, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether containerd is as it should be, or nobody's business."""
        return self.state in {State.LEFT_ALONE, State.IN_ORDER, State.RESTARTED}


#: The wait of moments in every switch; nobody has to hear of it.
SETTLING = "LegacySettling"

#: What a restart may have to wait for longer than moments.
LONG_WAITS = frozenset({"RestartBudget", "RestartHeld", "WaitingForApproval"})

LEFT_ALONE = Switched(state=State.LEFT_ALONE)


class Phase(Enum):
    """How far a switch has come; each is on the disk before what it announces is begun."""

    #: config.toml may be the old or the new one; containerd runs with the old one.
    WRITING = "writing"
    #: config.toml is the new one; containerd was, or will be, restarted.
    RESTARTING = "restarting"
    #: The old config.toml is being put back.
    ROLLING_BACK = "rolling-back"
    #: The old config.toml is back; containerd was, or will be, restarted with it.
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of containerd: of which boot, and when; `at` is Unix time."""

    id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What one start of containerd has read: digest of the registry section, and when the file was changed."""

    start: str
    section: str
    changed_at: float | None
    #: What containerd's socket looked like: another one is another start, maybe with another file.
    sign: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A switch that has begun and not ended."""

    phase: Phase
    goal: Goal
    #: Digest of what is tried: the new file and this containerd.
    attempt: str
    #: Number of the backup of config.toml as it was.
    backup: int
    #: Digest of config.toml as it is to be, of its registry section, and what config_path is in it.
    wanted: str
    section: str
    directory: str | None
    start: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that was rolled back; it is not tried again before its input changes."""

    attempt: str
    message: str
    #: Whether containerd was well with the old file.
    is_well: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that has to survive the agent."""

    loaded: Loaded | None = None
    restarts: tuple[float, ...] = ()
    failure: Failure | None = None
    under_way: UnderWay | None = None
    #: IN_THE_WAY as long as there are legacy files, then the socket of a containerd that may have read them.
    shadowed: str | None = None
    #: Where config.toml was, and who reads it, as seen last: for a pass that need not ask.
    config: str | None = None
    version: str | None = None

    def dump(self) -> bytes:
        """Return the record as it is kept."""
        content = {"format": _FORMAT, **asdict(self)}
        return f"{json.dumps(content, default=lambda value: value.value, sort_keys=True)}\n".encode()

    @classmethod
    def load(cls, raw: bytes | None) -> Self | None:
        """Read a record; None for one that is damaged, an empty one when there is none."""
        if raw is None:
            return cls()
        try:
            return cls._of(json.loads(raw))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    @classmethod
    def _of(cls, content: dict[str, Any]) -> Self:
        under_way = content["under_way"]
        return cls(
            loaded=Loaded(**content["loaded"]) if content["loaded"] else None,
            restarts=tuple(map(float, content["restarts"])),
            failure=Failure(**content["failure"]) if content["failure"] else None,
            config=content["config"],
            version=content["version"],
            shadowed=content.get("shadowed"),  # a record of 0.1.0 has none
            under_way=UnderWay(
                **{
                    **under_way,
                    "phase": Phase(under_way["phase"]),
                    "goal": Goal(under_way["goal"]),
                    "containers": tuple(under_way["containers"]),
                }
            )
            if under_way
            else None,
        )

    def with_clock(self, now: float) -> Self:
        """Take restarts that are in the future for restarts of now: the clock went back."""
        return replace(self, restarts=tuple(min(at, now) for at in self.restarts))

    def with_sight(self, sign: str | None, *, is_clear: bool) -> Self:
        """Remember legacy files, and once they are gone, a containerd that may have read them."""
        if not is_clear:
            return replace(self, shadowed=IN_THE_WAY)
        if self.shadowed != IN_THE_WAY or sign is None:
            return self
        is_known = self.loaded is not None and self.loaded.sign == sign
        return replace(self, shadowed=None if is_known else sign)

    def is_in_doubt(self, sign: str | None) -> bool:
        """Tell whether a containerd may have read legacy files that are gone by now."""
        return self.shadowed is not None and self.shadowed in {IN_THE_WAY, sign}

    def with_restart(self, at: float) -> Self:
        """Count a restart; only those that the budget looks at are kept."""
        return replace(self, restarts=(*self.restarts, at)[-MAX_IN_WINDOW:])


def digest(*parts: bytes) -> str:
    """Return one digest of several parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.hexdigest()


def is_noted(record: Record, start: Start, *, section: str, changed_at: float | None) -> bool | None:
    """Tell from the record whether the running containerd has read this registry section; None when it does not say.

    `changed_at` is when config.toml was last changed (ctime), None when there is none. What an earlier start has
    read, and nobody has touched since, every later one has read too.
    """
    loaded = record.loaded
    if loaded is None:
        return None
    if loaded.start == start.id:
        return loaded.section == section
    return True if (loaded.section, loaded.changed_at) == (section, changed_at) else None


def is_older(start: Start, *, changed_at: float | None) -> bool:
    """Tell whether nobody has touched config.toml since this start: then that is what was read."""
    return changed_at is None or start.at > changed_at


def is_settled(record: Record, *, section: str, changed_at: float | None, sign: str | None) -> bool:
    """Tell whether containerd surely has read this section: it had, and neither it nor the file was touched since."""
    loaded = record.loaded
    if record.under_way is not None or loaded is None:
        return False
    return (loaded.section, loaded.changed_at, loaded.sign) == (section, changed_at, sign)


def wait_s(restarts: tuple[float, ...], now: float) -> float:
    """Seconds until the budget allows a restart; 0 when it does. A clock that went back counts as now."""
    known = sorted(min(at, now) for at in restarts)
    waits = [known[-1] + MIN_SPACING_S - now] if known else []
    if len(known) >= MAX_IN_WINDOW:
        waits.append(known[-MAX_IN_WINDOW] + WINDOW_S - now)
    return max([0.0, *waits])
