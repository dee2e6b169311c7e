"""System calls that fail on command: the n-th one with an error, or as if the machine had stopped."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Which errors a call can meet on a real file system.
POSSIBLE = {
    "open": {errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE},
    "write": {errno.ENOSPC, errno.EIO},
    "fsync": {errno.ENOSPC, errno.EIO},
    "fchmod": {errno.EIO, errno.EROFS},
    "fchown": {errno.EIO, errno.EROFS},
    "mkdir": {errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS},
    "rename": {errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS},
    "unlink": {errno.EIO, errno.EACCES, errno.EROFS},
    "rmdir": {errno.EIO, errno.EACCES, errno.EROFS},
    "symlink": {errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS},
}


class Crash(BaseException):
    """The machine stopped: nothing after this call happens, no clean-up either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One call that was made."""

    name: str
    path: str
    mode: int | None = None


class Calls:
    """`os`, counted. With `at`, the call of that number fails: with `error`, or by a crash."""

    def __init__(self, *, at: int | None = None, error: int | None = None, is_lasting: bool = False) -> None:
        """`is_lasting` lets every call from `at` on fail that can meet the error."""
        self._at = at
        self._error = error
        self._is_lasting = is_lasting
        self.made: list[Made] = []
        self.has_failed = False

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._count("open", path, mode if flags & os.O_CREAT else None)
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: bytes, /) -> int:
        """Write no more than half of what is asked, as a kernel may."""
        self._count("write", _name(fd))
        return os.write(fd, data[: max(1, len(data) // 2)] if len(data) > 64 else data)

    def fsync(self, fd: int) -> None:
        self._count("fsync", _name(fd))
        os.fsync(fd)

    def fchmod(self, fd: int, mode: int) -> None:
        self._count("fchmod", _name(fd), mode)
        os.fchmod(fd, mode)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        self._count("fchown", _name(fd))
        os.fchown(fd, uid, gid)

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._count("mkdir", path, mode)
        os.mkdir(path, mode, dir_fd=dir_fd)

    def rename(self, src: str, dst: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._count("rename", dst)
        os.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._count("unlink", path)
        os.unlink(path, dir_fd=dir_fd)

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._count("rmdir", path)
        os.rmdir(path, dir_fd=dir_fd)

    def symlink(self, src: str, dst: str, *, dir_fd: int | None = None) -> None:
        self._count("symlink", dst)
        os.symlink(src, dst, dir_fd=dir_fd)

    def _count(self, name: str, path: str, mode: int | None = None) -> None:
        number = len(self.made)
        self.made.append(Made(name=name, path=path, mode=mode))
        if self._at is None or number < self._at:
            return
        if self._error is None:
            self.has_failed = True
            raise Crash
        if (number == self._at or self._is_lasting) and self._error in POSSIBLE[name]:
            self.has_failed = True
            raise OSError(self._error, os.strerror(self._error))


def every_fault(scenario: Callable[[Calls], None], *, error: int | None, is_lasting: bool = False) -> int:
    """Run `scenario` with the fault at each of its calls in turn; return how many faults were met.

    `scenario` runs everything anew each time and checks what the fault has left behind.
    """
    clean = Calls()
    scenario(clean)
    met = 0
    for at in range(len(clean.made)):
        if error is not None and error not in POSSIBLE[clean.made[at].name]:
            continue
        calls = Calls(at=at, error=error, is_lasting=is_lasting)
        scenario(calls)
        assert calls.has_failed, f"call {at} of {len(clean.made)} was not reached"
        met += 1
    return met


def _name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name
