"""What one pass found and did, as a frozen value: everything that is reported comes from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from agent.desired import Origin
from agent.errors import AgentError
from agent.legacy import Legacy
from agent.managers import Manager
from agent.model import DesiredConfig, Notice
from agent.plan import Plan
from agent.runtime import Containerd
from agent.switching import LEFT_ALONE, Switched


class Mode(Enum):
    """Whether the agent writes on the node."""

    MANAGE = "manage"
    OBSERVE = "observe"


class Standing(Enum):
    """What the pass is about."""

    CONFIGURED = "configured"
    CONFIRMING_DELETION = "confirming-deletion"
    NOT_CONFIGURED = "not-configured"
    OTHER_AGENT = "other-agent"
    UNKNOWN = "unknown"


class StepResult(Enum):
    """How a step ended."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    WOULD_CHANGE = "would-change"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a pass."""

    name: str
    result: StepResult
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a pass has changed in registry.d, as ``host/name``."""

    paths: tuple[str, ...]
    taken_over: tuple[str, ...]
    is_drift: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a pass. `plan` is what was applied, or what would be in mode observe."""

    mode: Mode
    standing: Standing
    steps: tuple[Step, ...]
    plan: Plan = field(default_factory=Plan)
    config: DesiredConfig | None = None
    origin: Origin | None = None
    #: Unix time at which the source said so; of a copy, at which it was made.
    as_of: float | None = None
    legacy: Legacy | None = None
    #: Who else manages the node, so that the agent only observes.
    managers: tuple[Manager, ...] = ()
    #: Hosts whose directory was somebody else's: saved, to be given back on release.
    saved: frozenset[str] = frozenset()
    is_in_place: bool = False
    #: What was rendered for; None when nothing was.
    containerd: Containerd | None = None
    switched: Switched = LEFT_ALONE
    is_drift: bool = False
    is_complete: bool = True
    errors: tuple[AgentError, ...] = ()
    notices: tuple[Notice, ...] = ()
    #: Seconds until the next pass, if sooner than usual.
    look_in_s: float | None = None
    #: False when trying again without a change of the input cannot help.
    is_retry_useful: bool = False

    @property
    def is_applied(self) -> bool:
        """Whether the config is in place, and containerd looks where it is."""
        return self.is_in_place and self.switched.is_settled
