"""`diff`: a plan as text. hosts.toml is compared key by key, with every secret masked.

The file on the disk may be anybody's, so nothing of it is shown verbatim: it is parsed, and only
values of keys that are known to hold no secret appear.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, cast

from agent import plan as planning
from agent.disk.directory import Calls, open_below
from agent.disk.observe import MAX_FILE_BYTES
from agent.errors import AgentError
from agent.plan import Plan
from agent.render import toml_string
from agent.settings import Settings
from agent.tree import HOSTS_TOML, File, HostDirectory

#: Keys of hosts.toml whose values are shown; any other value is masked.
_SHOWN = {
    "server",
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "override_path",
    "dial_timeout",
    "rewrite",
    "regex",
    "replace",
    "username",
}
_USER_INFO = re.compile(r"//[^/@]*@")

_RED, _GREEN, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"


def lines(plan: Plan, settings: Settings) -> Iterator[str]:
    """Yield the lines of the diff between the node's files and the plan's; paths as the node sees them."""
    for operation in plan.operations:
        match operation:
            case planning.PublishHost(directory=HostDirectory(name=host, files=files)):
                yield from _files(settings, host, files)
            case planning.ReplaceFiles(host=host, files=files):
                yield from _files(settings, host, files)
            case _:
                yield from _other(operation, settings.registry_dir)


def _other(operation: planning.Operation, registry_dir: PurePosixPath) -> Iterator[str]:
    match operation:
        case planning.RemoveFiles(host=host, names=names) | planning.RetireHost(host=host, names=names):
            yield from (f"- {registry_dir / host / name} is removed" for name in names)
        case planning.FixDirectory(host=host):
            yield f"~ {registry_dir / host} gets mode 0700 and the agent's owner"
        case planning.SaveForeign(host=host):
            yield f"~ {registry_dir / host} is somebody else's: saved, then taken over"
        case planning.RestoreForeign(host=host):
            yield f"~ {registry_dir / host} is given back as it was saved"
        case planning.ClearPath(host=host, name=name):
            yield f"- {registry_dir / host / (name or '')} is in the way and is removed"
        case _:  # records, backups and leftovers are the agent's own business
            return


def colored(line: str) -> str:
    """Colour a line for a terminal."""
    if line.startswith(("---", "+++")):
        return f"{_BOLD}{line}{_PLAIN}"
    if line.startswith("-"):
        return f"{_RED}{line}{_PLAIN}"
    return f"{_GREEN}{line}{_PLAIN}" if line.startswith("+") else line


def _files(settings: Settings, host: str, files: tuple[File, ...]) -> Iterator[str]:
    for file in files:
        yield from _file(settings, host, file)


def _file(settings: Settings, host: str, file: File) -> Iterator[str]:
    path = settings.registry_dir / host / file.name
    old = _read(settings, path)
    if old is None:
        yield f"+ {path} is new, mode {file.mode:04o}"
    elif old == file.content:
        yield f"~ {path} gets mode {file.mode:04o} and the agent's owner"
        return
    else:
        yield f"~ {path} changes"
    if file.name == HOSTS_TOML:
        yield from _toml_difference(old or b"", file.content)


def _toml_difference(old: bytes, new: bytes) -> Iterator[str]:
    masks: dict[str, str] = {}
    before, after = _flat(old, masks), _flat(new, masks)
    changes = list(difflib.unified_diff(before, after, "on this node", "desired", lineterm="", n=100))
    yield from (f"    {line}" if line.startswith(" ") else line for line in changes if not line.startswith("@@"))
    if not changes:
        yield "  only comments or layout differ"


def _flat(content: bytes, masks: dict[str, str]) -> list[str]:
    try:
        parsed = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return ["(not TOML: containerd ignores this file)"]
    return list(_flatten(parsed, "", masks, is_shown=False))


def _flatten(value: Any, place: str, masks: dict[str, str], *, is_shown: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            name = key if key.replace("_", "").isalnum() and key.isascii() else _without_user(toml_string(key))
            is_secret = place.endswith(".header") or place == "header"
            shown = not is_secret and (key in _SHOWN or (is_shown and place.endswith(".rewrite")))
            yield from _flatten(inner, f"{place}.{name}" if place else name, masks, is_shown=shown)
        if not value and place:
            yield f"{place} = {{}}"
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{place}[{index}]", masks, is_shown=is_shown)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
        text = _without_user(text) if is_shown else text
        yield f"{place} = {text if is_shown else masks.setdefault(text, f'*** ({len(masks) + 1})')}"


def _without_user(text: str) -> str:
    """Mask what somebody may have put before the host of a URL, and what a terminal would obey."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return _USER_INFO.sub("//***@", text)


def _read(settings: Settings, path: PurePosixPath) -> bytes | None:
    try:
        directory = open_below(settings.root, path.parent, calls=cast("Calls", os))
        if directory is None:
            return None
        with directory:
            return directory.read(path.name, max_bytes=MAX_FILE_BYTES)
    except AgentError:
        return None  # a symlink or no file: it is replaced, and not shown
