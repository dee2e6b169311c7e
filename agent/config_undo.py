"""What an edit of config.toml keeps for the way back.

Where statements were moved aside stands a numbered comment: it finds its place again whatever is
written around it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count

from agent.config_toml import Path, Table
from agent.errors import LegacyRestoreFailed

_FORMAT = 1
_MARKER = "# registry-agent: part {} of the legacy registry configuration was moved aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Neighbouring statements that were moved aside."""

    marker: str
    """The comment that stands in their place."""
    table: Path | None
    """The table that they belong to; None if they bring their own headers."""
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """What the way back needs."""

    was_missing: bool
    schema: int
    directory: str
    section: Table = field(repr=False)
    """What the section lost."""
    value: str | None = field(repr=False)
    """The former value of config_path, or of the section where that is an inline table."""
    inserted: str
    """What was put in where neither was; with `version`, where nothing was."""
    pieces: tuple[Piece, ...]
    earlier: str | None = field(default=None, repr=False)
    """What an earlier edit had kept, if that could not be undone before this one."""


def markers(text: str) -> Iterator[str]:
    """Make comments that are not in a text yet."""
    return (marker for marker in map(_MARKER.format, count(1)) if marker not in text)


def require_saved(text: str) -> None:
    """Raise LegacyRestoreFailed for a text that something was moved aside from, if what was saved is gone."""
    if _MARKER.partition("{}")[0] in text:
        message = "config.toml says that legacy registry configuration was moved aside, but what was saved is gone"
        raise LegacyRestoreFailed(message, remedy="put it back by hand, and take the comment away")


def dump(undo: Undo) -> bytes:
    """Write down what has to be kept."""
    return json.dumps({"format": _FORMAT, **asdict(undo)}, ensure_ascii=False, default=str).encode()


def load(saved: bytes) -> Undo:
    """Read what was kept; raises LegacyRestoreFailed."""
    try:
        fields = json.loads(saved)
        is_known = fields.pop("format") == _FORMAT
        pieces = tuple(Piece(**{**piece, "table": _path(piece["table"])}) for piece in fields.pop("pieces"))
        undo = Undo(**fields, pieces=pieces)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_known, undo = False, None
    if not is_known or undo is None:
        message = "what was saved of config.toml is damaged, or of another version of the agent"
        raise LegacyRestoreFailed(message, remedy="put the legacy configuration back from a backup of the file")
    return undo


def behind(saved: bytes | None, earlier: bytes | None) -> bytes | None:
    """Keep what an earlier edit had saved behind what a later one has, unless it is of no use any more."""
    if saved is None or earlier is None:
        return saved
    try:
        load(earlier)
    except LegacyRestoreFailed:
        return saved
    return dump(replace(load(saved), earlier=earlier.decode()))


def merged(staying: Table, leaving: Table) -> Table:
    """Join what is in the section with what comes back; raises LegacyRestoreFailed."""
    both = dict(staying)
    for name, value in leaving.items():
        mine = both.setdefault(name, value)
        if isinstance(mine, dict) and isinstance(value, dict):
            both[name] = merged(mine, value)
        elif mine != value:
            raise stuck("other legacy configuration has been written into it since")
    return both


def stuck(what: str) -> LegacyRestoreFailed:
    """Say why the file is left alone."""
    message = f"the saved legacy configuration does not fit config.toml any more: {what}"
    return LegacyRestoreFailed(message, remedy="put it back by hand, from a backup of the file")


def _path(names: list[str] | None) -> Path | None:
    return None if names is None else tuple(names)
