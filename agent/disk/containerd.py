"""containerd's config.toml and what the agent keeps about it. Synchronous: run it in a thread.

config.toml is replaced by a rename, with the mode and owner it had. In the state directory, 0600: the
record, the legacy section that was moved aside, and numbered copies of both from before each change.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import cast

from agent.disk.directory import Calls, Directory, open_below, owner_of, permissions
from agent.errors import BackupMissing, ContainerdConfigUnsupported, DiskFailed, Obstructed
from agent.switching import ConfigFile
from agent.tree import SECRET_MODE, TEMPORARY_PREFIX

DEFAULT_PATH = PurePosixPath("/etc/containerd/config.toml")

#: Not named *.toml: containerd's imports may take in everything beside config.toml that is.
CANDIDATE = f"{TEMPORARY_PREFIX}candidate"

FOLDER = "containerd"
RECORD, SAVED = "record.json", "saved-legacy.json"
MAX_BACKUPS = 5
MAX_BYTES = 4 * 1024 * 1024

#: Stands for a config.toml that was not there.
_ABSENT = "no-config.toml"
_KEPT = ("config.toml", SAVED, _ABSENT)
_BACKUP = re.compile(rf"({'|'.join(map(re.escape, _KEPT))})\.([0-9]+)\Z")
_CONFIG_FLAGS = ("--config", "-c")
_MODE = 0o644
_FOLDER_MODE = 0o700


class ContainerdFiles:
    """One node's config.toml."""

    def __init__(
        self,
        root: Path,
        state_dir: PurePosixPath,
        *,
        path: PurePosixPath = DEFAULT_PATH,
        calls: Calls | None = None,
    ) -> None:
        """Paths are absolute as the node sees them."""
        self._root = root
        self._folder = state_dir / FOLDER
        self._path = self._usual = path
        self._calls = calls if calls is not None else cast("Calls", os)

    @property
    def where(self) -> str:
        """The path of config.toml as the node sees it."""
        return str(self._path)

    def locate(self, argv: tuple[str, ...]) -> None:
        """Take the path of config.toml from containerd's command line; raises ContainerdConfigUnsupported."""
        self._path = config_path(argv) or self._usual

    def read(self) -> ConfigFile:
        """Return config.toml; raises DiskFailed, and Obstructed where it is no plain file."""
        with self._beside() as directory:
            status = directory.stat(self._path.name) if directory else None
            if directory is None or status is None:
                return ConfigFile(raw=None, changed_at=None)
            if not stat.S_ISREG(status.st_mode):
                message = f"{self._path} is no plain file, and the agent does not follow symlinks there"
                raise Obstructed(message, remedy="put the file itself there, or point containerd's --config at it")
            raw = directory.read(self._path.name, max_bytes=MAX_BYTES)
        if raw is None:
            raise Obstructed(f"{self._path} is larger than {MAX_BYTES} bytes", remedy="look at what it is")
        return ConfigFile(raw=raw, changed_at=status.st_ctime_ns / 1e9)

    def write(self, raw: bytes | None) -> None:
        """Replace config.toml by a rename, or remove it."""
        with self._beside(is_made=True) as directory:
            assert directory is not None, "it was made"
            status = directory.stat(self._path.name)
            if raw is None:
                directory.remove(self._path.name)
            else:
                self._replace(directory, raw, status)
            directory.sync()

    def back_up(self) -> int:
        """Keep copies of config.toml and of the saved section under the next number."""
        config, saved = self.read().raw, self.read_saved()
        with self._state() as folder:
            numbers = _numbers(folder)
            contents = (("config.toml", config), (SAVED, saved), (_ABSENT, b"" if config is None else None))
            newest = max(numbers, default=0)
            if newest and all(folder.read(f"{name}.{newest}", max_bytes=MAX_BYTES) == raw for name, raw in contents):
                return newest
            number = newest + 1
            for name, raw in contents:
                if raw is not None:
                    folder.replace(f"{name}.{number}", raw, mode=SECRET_MODE)
            for old in sorted(numbers)[: -(MAX_BACKUPS - 1)]:
                for name in _KEPT:
                    folder.remove(f"{name}.{old}")
            folder.sync()
        return number

    def roll_back(self, number: int) -> None:
        """Put config.toml and the saved section back as they were; raises BackupMissing."""
        with self._state() as folder:
            config = folder.read(f"config.toml.{number}", max_bytes=MAX_BYTES)
            saved = folder.read(f"{SAVED}.{number}", max_bytes=MAX_BYTES)
            was_absent = folder.stat(f"{_ABSENT}.{number}") is not None
        if config is None and not was_absent:
            message = f"{self._folder}/config.toml.{number} is gone, so {self._path} cannot be put back as it was"
            raise BackupMissing(message, remedy=f"put {self._path} right by hand; the agent then goes on by itself")
        self.write_saved(saved)
        self.write(config)

    def read_saved(self) -> bytes | None:
        """Return the legacy registry section that was moved aside."""
        return self._read(SAVED)

    def write_saved(self, saved: bytes | None) -> None:
        """Keep it, or forget it."""
        with self._state() as folder:
            if saved is None:
                folder.remove(SAVED)
            else:
                folder.replace(SAVED, saved, mode=SECRET_MODE)
            folder.sync()

    def read_record(self) -> bytes | None:
        """Return the record."""
        return self._read(RECORD)

    def write_record(self, record: bytes) -> None:
        """Keep the record."""
        with self._state() as folder:
            folder.replace(RECORD, record, mode=SECRET_MODE)
            folder.sync()

    @contextlib.contextmanager
    def candidate(self, raw: bytes) -> Iterator[str]:
        """Lend a file beside config.toml, because imports may be relative to it."""
        with self._beside(is_made=True) as directory:
            assert directory is not None, "it was made"
            directory.remove(CANDIDATE)
            directory.create(CANDIDATE, raw, mode=SECRET_MODE)
            try:
                yield str(self._path.parent / CANDIDATE)
            finally:
                directory.discard(CANDIDATE)

    def _read(self, name: str) -> bytes | None:
        folder = open_below(self._root, self._folder, calls=self._calls)
        if folder is None:
            return None
        with folder:
            return folder.read(name, max_bytes=MAX_BYTES)

    def _replace(self, directory: Directory, raw: bytes, status: os.stat_result | None) -> None:
        temporary = f"{TEMPORARY_PREFIX}config"
        directory.remove(temporary)
        mode, owner = (permissions(status), owner_of(status)) if status else (_MODE, None)
        try:
            directory.create(temporary, raw, mode=mode, owner=owner)
            directory.rename(temporary, self._path.name)
        except DiskFailed:
            directory.discard(temporary)
            raise

    @contextlib.contextmanager
    def _beside(self, *, is_made: bool = False) -> Iterator[Directory | None]:
        mode = 0o755 if is_made else None
        directory = open_below(self._root, self._path.parent, calls=self._calls, mode=mode)
        with directory or contextlib.nullcontext():
            yield directory

    @contextlib.contextmanager
    def _state(self) -> Iterator[Directory]:
        parent = open_below(self._root, self._folder.parent, calls=self._calls, mode=_FOLDER_MODE)
        assert parent is not None, "it was made"
        parent.__exit__()
        folder = open_below(self._root, self._folder, calls=self._calls, mode=_FOLDER_MODE)
        assert folder is not None, "it was made"
        with folder:
            for name in folder.names():
                if name.startswith(TEMPORARY_PREFIX):  # a crash has left it
                    folder.discard(name)
            yield folder


def config_path(argv: tuple[str, ...]) -> PurePosixPath | None:
    """Return the config file that a command line of containerd names; None when it names none.

    systemd tells the line with its variables as they stand in the unit: raises ContainerdConfigUnsupported for one
    that has any, and for a path that is none.
    """
    if any("$" in word for word in argv):
        raise _unclear("has variables")
    for word, following in zip(argv, (*argv, "")[1:], strict=True):
        flag, _, value = word.partition("=")
        if flag in _CONFIG_FLAGS and (value or following):
            path = PurePosixPath(value or following)
            if not path.is_absolute() or ".." in path.parts or len(path.parts) <= len(("/", "name")):
                raise _unclear("does not name config.toml by an absolute path in a directory")
            return path
    return None


def _unclear(why: str) -> ContainerdConfigUnsupported:
    message = f"the command line of containerd's unit {why}, so it is not known which file it reads"
    return ContainerdConfigUnsupported(message, remedy="write the path out in the unit, or set containerd=leave")


def _numbers(folder: Directory) -> set[int]:
    return {int(found[2]) for found in map(_BACKUP.match, folder.names()) if found}
