"""Wakes the agent when files change: the only door to watchdog.

Events are hints, the plan is the truth: a missed event costs a resync interval, never correctness.
Watches end when their directory is deleted and follow it when it is renamed, so each directory is
watched together with its name in the parent, some levels up, and `arm` is called after every pass.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from agent.model import Notice
from agent.tree import TEMPORARY_PREFIX

#: Levels above a directory that are watched for its name: /etc and / for /etc/containerd/registry.d.
ANCESTORS = 3

#: A file of others that is written in place is looked at when nothing was written for this long, so
#: that no half of it is taken for the whole. A file that is renamed into place is looked at immediately.
WRITE_SETTLE_S = 0.1

#: Reads are filtered out, or every image pull would wake the agent. FileModifiedEvent is also what
#: makes inotify report changes of mode (measured with watchdog 7.1).
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileAttribEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirAttribEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A directory to watch; `names` limits a flat watch to some of its entries.

    Below a recursive watch only the agent writes, so a write there counts at once.
    """

    path: Path
    is_recursive: bool
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Armed:
    watch: ObservedWatch
    inode: tuple[int, int]


class FileWatcher:
    """Calls `on_change` on the event loop when something below the targets changes."""

    def __init__(self, targets: Callable[[], Iterable[Watched]], on_change: Callable[[], None]) -> None:
        """`targets` is asked at each `arm`; `on_change` runs on the loop that calls `start`."""
        self._targets = targets
        self._on_change = on_change
        self._observer: BaseObserver = Observer()
        self._armed: dict[Watched, _Armed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._failed: dict[Watched, str] = {}

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Directories that cannot be watched, and why."""
        return tuple(
            Notice(code="NotWatched", message=f"{watched.path} is not watched ({why}): changes are seen at a resync")
            for watched, why in self._failed.items()
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the observer's thread."""
        # watchdog 7.1 warns on stderr when a new directory is seen twice; both watches work.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        self._loop = loop
        self._observer.start()

    def stop(self) -> None:
        """Stop and join the observer's threads; may block, so call it off the loop."""
        self._observer.stop()
        self._observer.join()

    def arm(self) -> bool:
        """Renew the watches whose directory is gone or another one; True when any was renewed.

        Synchronous disk work: call it in a thread. What changed before a renewed watch stood was
        not seen, so the caller runs another pass.
        """
        self._failed.clear()
        wanted = _merged(watched for target in self._targets() for watched in _with_ancestors(target))
        for watched in set(self._armed) - wanted:
            self._disarm(watched)
        renewed = [self._renew(watched) for watched in sorted(wanted, key=lambda item: str(item.path))]
        return any(renewed)

    def _renew(self, watched: Watched) -> bool:
        inode = _inode(watched.path)
        armed = self._armed.get(watched)
        if armed is not None and inode == armed.inode and self._is_alive(armed.watch):
            return False
        if armed is not None:
            self._disarm(watched)
        if inode is None:
            return False
        handler = _Handler(watched, self._wake)
        # watchdog does not follow a symlink in the last place. Not realpath: /proc/PID/root, by which a
        # node may be mounted, would resolve to the agent's own root.
        path = f"{watched.path}/." if os.path.islink(watched.path) else str(watched.path)
        try:
            watch = self._observer.schedule(handler, path, recursive=watched.is_recursive, event_filter=_EVENTS)
        except OSError as err:  # most likely fs.inotify.max_user_watches or max_user_instances
            self._failed[watched] = err.strerror or type(err).__name__
            return False
        self._armed[watched] = _Armed(watch, inode)
        return True

    def _disarm(self, watched: Watched) -> None:
        self._observer.unschedule(self._armed.pop(watched).watch)

    def _is_alive(self, watch: ObservedWatch) -> bool:
        return any(emitter.watch == watch and emitter.is_alive() for emitter in self._observer.emitters)

    def _wake(self, *, is_settled: bool) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_change if is_settled else self._settle)

    def _settle(self) -> None:
        if self._loop is not None:
            if self._settling is not None:
                self._settling.cancel()
            self._settling = self._loop.call_later(WRITE_SETTLE_S, self._on_change)


class _Wake(Protocol):
    def __call__(self, *, is_settled: bool) -> None: ...


class _Handler(FileSystemEventHandler):
    """Runs on the observer's thread: filter, wake, nothing else."""

    def __init__(self, watched: Watched, wake: _Wake) -> None:
        self._watched = watched
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = [os.fsdecode(path) for path in (event.dest_path, event.src_path) if path]
        names = self._watched.names
        if names is not None and not any(os.path.basename(path) in names for path in paths):
            return
        # Our own half-written files wake nobody; the rename that ends them does.
        if f"/{TEMPORARY_PREFIX}" not in paths[0]:
            is_write = isinstance(event, FileCreatedEvent | FileModifiedEvent)
            self._wake(is_settled=self._watched.is_recursive or not is_write)


def _with_ancestors(target: Watched) -> Iterator[Watched]:
    """Yield the target, the existing ones of its ancestors, and where its named files really are."""
    path = target.path
    if os.path.isdir(path):
        yield target
    for name in target.names or ():
        linked = _linked(path / name)
        if linked is not None and os.path.isdir(linked.parent):
            yield Watched(path=linked.parent, is_recursive=False, names=frozenset({linked.name}))
    found = 0
    while path.parent != path and found < ANCESTORS:
        if os.path.isdir(path.parent):
            yield Watched(path=path.parent, is_recursive=False, names=frozenset({path.name}))
            found += 1
        path = path.parent


def _linked(path: Path) -> Path | None:
    """Return where a symlink points, one link far; None when it is none."""
    try:
        return path.parent / os.readlink(path)  # not normalised: the parent may be a link itself
    except OSError:
        return None


def _merged(found: Iterable[Watched]) -> set[Watched]:
    """Join watches of one directory: watchdog knows them by path, and ends them by path."""
    merged: dict[tuple[Path, bool], Watched] = {}
    for watched in found:
        known = merged.setdefault((watched.path, watched.is_recursive), watched)
        names = None if known.names is None or watched.names is None else known.names | watched.names
        merged[watched.path, watched.is_recursive] = replace(watched, names=names)
    return set(merged.values())


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
