"""Whose a host directory is: the state file shared with bashible, and the agent's own record.

`deckhouse_hosts_state.json` lists the directories that *somebody* manages. The agent's record lists
those that *this agent* has written, so that it removes only its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model import Notice
from agent.tree import STATE_FILE, is_plain_name

RECORD_FILE = "ownership.json"

#: A file in registry.d by which another node agent says that registry.d is its own.
OTHER_AGENT_MARKER = ".managed-by-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Names in the shared state file and in the agent's own record."""

    state: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameList:
    """A list of host names as read from a file, and what was wrong with the file."""

    names: frozenset[str]
    notices: tuple[Notice, ...] = ()
    is_known: bool = True


def read_names(raw: bytes | None, *, path: str) -> NameList:
    """Read a JSON array of host names; entries that are not plain names are refused, never followed."""
    if raw is None:
        return NameList(names=frozenset(), is_known=False)
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError, too deep is not
        entries = None
    if not isinstance(entries, list):
        notice = _notice(path, "is not a JSON array and counts as empty")
        return NameList(names=frozenset(), notices=(notice,), is_known=False)
    plain = [entry for entry in entries if isinstance(entry, str) and is_host_name(entry)]
    names, refused = frozenset(plain), len(entries) - len(plain)
    notices = (_notice(path, f"has {refused} entries that are not host names; they are dropped"),) if refused else ()
    return NameList(names=names, notices=notices)


def is_host_name(name: str) -> bool:
    """Tell whether an entry of a record may name a host directory."""
    return is_plain_name(name) and not name.startswith(".") and name != STATE_FILE


def write_names(names: Iterable[str]) -> bytes:
    """Return the file's bytes: sorted, compact, newline at the end."""
    return f"{json.dumps(sorted(names), separators=(',', ':'), ensure_ascii=False)}\n".encode()


def _notice(path: str, text: str) -> Notice:
    return Notice(code="StateFileInvalid", message=f"{path} {text}")
