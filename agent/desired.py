"""Which desired config applies now: the pure half of the step "desired".

Absent is not unreadable. Unreadable keeps everything as it is. Absent is confirmed by a second
reading after a settle time before the node is released (contract, section 1, "Absent, unreadable,
deleted").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from agent.errors import AgentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The source has a document."""

    document: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Absent:
    """The source says that there is no document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """The source cannot be asked, or what it has is no document at all."""

    error: AgentError


Reading = Present | Absent | Unreadable


class Origin(Enum):
    """Where a document in use comes from."""

    LIVE = "live"
    LAST_GOOD = "last-good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A document to try."""

    document: bytes = field(repr=False)
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Use the first candidate that is valid for this node; report `error` beside it."""

    candidates: tuple[Candidate, ...]
    error: AgentError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """The document is gone: keep the last good one and read again after `wait_s`."""

    last_good: Candidate | None
    wait_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing is desired, for certain: what the agent has written goes."""


Choice = Use | Confirm | Release


def choose(
    reading: Reading, *, last_good: bytes | None, is_managing: bool, absent_for_s: float | None, settle_s: float
) -> Choice:
    """Decide from one reading of the source.

    `is_managing` says that the agent has something on this node; `absent_for_s` is the time since
    the first of an unbroken row of absent readings, None when this is the first.
    """
    kept = Candidate(document=last_good, origin=Origin.LAST_GOOD) if last_good is not None else None
    fallback = (kept,) if kept else ()
    match reading:
        case Present(document=document):
            return Use(candidates=(Candidate(document=document, origin=Origin.LIVE), *fallback))
        case Unreadable(error=error):
            return Use(candidates=fallback, error=error)
        case Absent():
            waited_s = absent_for_s or 0.0
            if is_managing and waited_s < settle_s:
                return Confirm(last_good=kept, wait_s=settle_s - waited_s)
            return Release()
