"""One open directory and what may be done in it. Nothing here ever follows a symlink.

All work goes through file descriptors of directories, so that no path is looked up twice, and
through `Calls`, which is `os` in production and a failing double in fault-injection tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from agent.errors import DiskFailed, Obstructed
from agent.tree import TEMPORARY_PREFIX

#: Mode of parents that have to be made on the way to registry.d or the state directory.
PARENT_MODE = 0o755

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o7777
_SET_ID = 0o6000

#: User and group id.
Owner = tuple[int, int]


class Calls(Protocol):
    """The system calls that change the disk; the module `os` is one implementation."""

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Do what the system call open does."""

    def write(self, fd: int, data: bytes, /) -> int:
        """Do what the system call write does."""

    def fsync(self, fd: int) -> None:
        """Do what the system call fsync does."""

    def fchmod(self, fd: int, mode: int) -> None:
        """Do what the system call fchmod does."""

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        """Do what the system call fchown does."""

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """Do what the system call mkdirat does."""

    def rename(self, src: str, dst: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        """Do what the system call renameat does."""

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        """Do what the system call unlinkat does."""

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        """Do what the system call unlinkat does with AT_REMOVEDIR."""

    def symlink(self, src: str, dst: str, *, dir_fd: int | None = None) -> None:
        """Do what the system call symlinkat does."""


class Directory:
    """An open directory. Errors become DiskFailed with the full path, for the operator."""

    def __init__(self, descriptor: int, path: str, calls: Calls) -> None:
        """Own `descriptor`; `path` is for messages only."""
        self.descriptor = descriptor
        self.path = path
        self.calls = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def child(self, name: str) -> Directory:
        """Open the directory `name`; a symlink or a file there is a DiskFailed."""
        with self._failing("open directory", name):
            descriptor = self.calls.open(name, _DIRECTORY_FLAGS, dir_fd=self.descriptor)
        return Directory(descriptor, self._path(name), self.calls)

    def make_child(self, name: str, *, mode: int, owner: Owner | None = None) -> Directory:
        """Create the directory `name` with exactly `mode` and our or another owner, and open it."""
        with self._failing("create directory", name):
            self.calls.mkdir(name, mode, dir_fd=self.descriptor)
        child = self.child(name)
        try:
            child.set_mode(mode, owner=owner)
        except DiskFailed:
            os.close(child.descriptor)
            raise
        return child

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        with self._failing("list"):
            return sorted(os.listdir(self.descriptor))

    def stat(self, name: str) -> os.stat_result | None:
        """Return what stands at `name`, the symlink itself if it is one; None when nothing does."""
        with self._failing("stat", name):
            try:
                return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def own_stat(self) -> os.stat_result:
        """Return the status of the directory itself."""
        with self._failing("stat"):
            return os.fstat(self.descriptor)

    def read(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return a regular file's content, None when there is none or it is larger than `max_bytes`."""
        with self._failing("read", name):
            try:
                descriptor = os.open(name, _READ_FLAGS, dir_fd=self.descriptor)
            except FileNotFoundError:
                return None
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                    return None
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    return file.read()
            finally:
                os.close(descriptor)

    def replace(self, name: str, content: bytes, *, mode: int) -> None:
        """Put a file in place at once: readers see the old bytes or the new ones, never a mix.

        The entry is durable after `sync`. On failure the old file stays and nothing is left over.
        """
        temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
        try:
            self.create(temporary, content, mode=mode)
            self.rename(temporary, name)
        except DiskFailed:
            self.discard(temporary)
            raise

    def create(self, name: str, content: bytes, *, mode: int, owner: Owner | None = None) -> None:
        """Create a new file with its final mode and owner (ours by default), its content durable."""
        with self._failing("write", name):
            descriptor = self.calls.open(name, _CREATE_FLAGS, mode, dir_fd=self.descriptor)
            try:
                _own(descriptor, mode, owner, self.calls)
                written = 0
                while written < len(content):
                    written += self.calls.write(descriptor, content[written:])
                if mode & _SET_ID:  # without root, writing has cleared these bits (write(2))
                    self.calls.fchmod(descriptor, mode)
                self.calls.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        """Rename an entry within this directory."""
        with self._failing(f"rename {old} to", new):
            self.calls.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def link(self, name: str, target: str) -> None:
        """Create a symlink (only to restore one that was saved)."""
        with self._failing("create symlink", name):
            self.calls.symlink(target, name, dir_fd=self.descriptor)

    def read_link(self, name: str) -> str:
        """Return where a symlink points."""
        with self._failing("read symlink", name):
            return os.readlink(name, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, a symlink or a whole directory; nothing at `name` is fine."""
        status = self.stat(name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            with self.child(name) as child:
                for inner in child.names():
                    child.remove(inner)
            self.remove_empty(name)
            return
        with self._failing("remove", name), contextlib.suppress(FileNotFoundError):
            self.calls.unlink(name, dir_fd=self.descriptor)

    def discard(self, name: str) -> None:
        """Remove what a failed write left; if that fails too, the next pass does it."""
        with contextlib.suppress(DiskFailed):
            self.remove(name)

    def remove_empty(self, name: str) -> bool:
        """Remove the directory `name` if it is empty; returns False when it is not."""
        with self._failing("remove directory", name):
            try:
                self.calls.rmdir(name, dir_fd=self.descriptor)
            except OSError as err:
                if err.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                return False
            return True

    def set_mode(self, mode: int, *, owner: Owner | None = None) -> None:
        """Give the directory itself this mode and our or another owner."""
        with self._failing("change mode of"):
            _own(self.descriptor, mode, owner, self.calls)

    def sync(self) -> None:
        """Make the directory's entries durable."""
        with self._failing("sync"):
            self.calls.fsync(self.descriptor)

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}" if name else self.path

    @contextlib.contextmanager
    def _failing(self, operation: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise DiskFailed(operation, self._path(name), err) from err


def permissions(status: os.stat_result) -> int:
    """Return the permission bits, with set-id and sticky bits."""
    return status.st_mode & _PERMISSIONS


def owner_of(status: os.stat_result) -> Owner:
    """Return user and group."""
    return status.st_uid, status.st_gid


def is_ours(status: os.stat_result) -> bool:
    """Tell whether owner and group are those of the agent."""
    return owner_of(status) == (os.geteuid(), os.getegid())


def open_below(root: Path, path: PurePosixPath, *, calls: Calls, mode: int | None = None) -> Directory | None:
    """Open ``root/path`` without following a symlink below `root`; None when it does not exist.

    With `mode`, missing directories are made: the last one with this mode. The node's own root,
    ``/``, may reach the parent through symlinks, as its owner set them up; a mounted root may not:
    there an absolute link would lead out of it (and ``/proc/PID/root`` itself resolves to ``/``).
    """
    absolute = PurePosixPath("/") / path
    if root == Path("/"):
        absolute = PurePosixPath(os.path.realpath(absolute.parent)) / absolute.name
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise DiskFailed("open root directory", str(root), err) from err
    current = Directory(descriptor, str(root), calls)
    *parents, last = absolute.parts[1:]
    modes = [PARENT_MODE if mode is not None else None] * len(parents) + [mode]
    for part, part_mode in zip((*parents, last), modes, strict=True):
        with current:
            found = _step(current, part, mode=part_mode)
        if found is None:
            return None
        current = found
    return current


def _step(current: Directory, part: str, *, mode: int | None) -> Directory | None:
    status = current.stat(part)
    if status is None:
        if mode is None:
            return None
        child = current.make_child(part, mode=mode)
        current.sync()
        return child
    if not stat.S_ISDIR(status.st_mode):
        message = f"{current.path.rstrip('/')}/{part} is not a directory, and symlinks are not followed"
        raise Obstructed(message, remedy="put a directory there, or set the real path in the agent's settings")
    return current.child(part)


def _own(descriptor: int, mode: int, owner: Owner | None, calls: Calls) -> None:
    status, wanted = os.fstat(descriptor), owner or (os.geteuid(), os.getegid())
    if owner_of(status) != wanted:
        calls.fchown(descriptor, *wanted)
    calls.fchmod(descriptor, mode)
