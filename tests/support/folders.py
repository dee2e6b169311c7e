"""What stands on a disk, as values that can be compared: the real one and the model of it."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A regular file."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink."""

    target: str


@dataclass(frozen=True, slots=True)
class Special:
    """A FIFO, a socket or a device."""

    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A directory with everything below it."""

    mode: int = 0o755
    entries: Mapping[str, "Entry"] = field(default_factory=dict)


Entry = Plain | Link | Special | Folder


def read(path: Path) -> Entry:
    """Return what stands at `path`; a symlink is not followed."""
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Link(os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return Folder(mode=mode, entries={name: read(path / name) for name in sorted(os.listdir(path))})
    if stat.S_ISREG(status.st_mode):
        return Plain(content=path.read_bytes(), mode=mode)
    return Special(stat.S_IFMT(status.st_mode))


def write(path: Path, entry: Entry) -> None:
    """Put `entry` at `path`, where nothing stands."""
    match entry:
        case Link(target=target):
            path.symlink_to(target)
        case Plain(content=content, mode=mode):
            path.write_bytes(content)
            path.chmod(mode)
        case Folder(mode=mode, entries=entries):
            path.mkdir()
            for name, inner in entries.items():
                write(path / name, inner)
            path.chmod(mode)
        case Special(kind=kind):
            os.mknod(path, kind | 0o644)


def identities(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, time of change of content and of status of everything below `path`."""
    return {str(found): _identity(found) for found in _walk(path)}


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _walk(path: Path) -> Iterator[Path]:
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder) / name for name in (*folders, *files))
