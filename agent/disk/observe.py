"""Reads registry.d as it is, without changing anything and without following a symlink."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from agent.disk.directory import Directory, is_ours, permissions
from agent.plan import Kind, ObservedFile, ObservedHost
from agent.tree import TEMPORARY_PREFIX, is_our_file

#: Larger than any file the agent writes (a document has 1 MiB); such a file differs without a look.
MAX_FILE_BYTES = 4 * 1024 * 1024


def hosts(registry: Directory, names: frozenset[str]) -> dict[str, ObservedHost]:
    """Return what stands at each of `names`; absent ones are left out."""
    found = {}
    for name in sorted(names):
        status = registry.stat(name)
        if status is not None:
            found[name] = _host(registry, name, status)
    return found


def leftovers(registry: Directory, found: dict[str, ObservedHost]) -> Iterator[str]:
    """Yield temporary names that an interrupted write left in registry.d and in observed hosts."""
    yield from temporary_names(registry)
    for host, observed in found.items():
        yield from (f"{host}/{name}" for name in observed.files if name.startswith(TEMPORARY_PREFIX))


def temporary_names(directory: Directory) -> tuple[str, ...]:
    """Return the names in a directory that only an interrupted write can have left."""
    return tuple(name for name in directory.names() if name.startswith(TEMPORARY_PREFIX))


def _host(registry: Directory, name: str, status: os.stat_result) -> ObservedHost:
    if not stat.S_ISDIR(status.st_mode):
        return ObservedHost(kind=Kind.OTHER)
    with registry.child(name) as directory:
        return ObservedHost(
            kind=Kind.DIRECTORY,
            mode=permissions(status),
            is_owner_right=is_ours(status),
            files={file: _file(directory, file) for file in directory.names()},
        )


def _file(directory: Directory, name: str) -> ObservedFile:
    status = directory.stat(name)
    if status is None or not stat.S_ISREG(status.st_mode):
        is_directory = status is not None and stat.S_ISDIR(status.st_mode)
        return ObservedFile(kind=Kind.DIRECTORY if is_directory else Kind.OTHER)
    content = directory.read(name, max_bytes=MAX_FILE_BYTES) if is_our_file(name) else None
    return ObservedFile(
        kind=Kind.FILE,
        mode=permissions(status),
        is_owner_right=is_ours(status),
        digest=None if content is None else hashlib.sha256(content).hexdigest(),
    )
