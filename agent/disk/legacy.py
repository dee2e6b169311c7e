"""Reads the files of containerd that may hold legacy registry configuration, and keeps bashible's label file.

Files are found as containerd on the node finds them: symlinks are followed, absolute ones from the
node's root and not from the agent's. Nothing here ever waits for a file, and an unchanged file is
not opened again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import cast

from agent import legacy
from agent.disk.directory import Calls, Directory, is_ours, open_below, permissions
from agent.disk.observe import temporary_names
from agent.legacy import Examined, Legacy
from agent.tree import PUBLIC_MODE

LABEL_DIRECTORY = PurePosixPath("/var/lib/node_labels")
LABEL_FILE = "containerd-conf-registry"

#: More files than any node imports; a pattern that finds more is a mistake, or names half the disk.
MAX_FILES = 512

#: Linux gives up at the same number.
MAX_LINKS = 40

#: A file is trusted to have changed its times with its content when its last change is this old: what
#: is written twice within a tick of the kernel's clock (10 ms) looks the same twice.
SETTLED_NS = 1_000_000_000

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NULL_DEVICE = os.makedev(1, 3)

_Identity = tuple[int, int, int, int, int]


class LegacyReader:
    """Synchronous: run it in a thread, one call at a time."""

    def __init__(
        self,
        root: Path,
        config_file: Callable[[], PurePosixPath] = lambda: legacy.CONFIG_FILE,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        calls: Calls | None = None,
    ) -> None:
        """`config_file` is absolute as the node sees it, and may become another; drop-ins stand beside it."""
        self._root = root
        self._config_file = config_file
        self._locate()
        self._now_ns = now_ns
        self._calls = calls if calls is not None else cast("Calls", os)
        self._known: dict[str, tuple[_Identity, Examined]] = {}
        self._folders: frozenset[str] = frozenset()

    def read(self, *, major: int | None = None) -> Legacy:
        """Return what config.toml imports and what the drop-ins of this containerd hold; never raises.

        `major` is containerd's major version; None looks at the drop-ins of every generation.
        """
        self._locate()
        files = NodeFiles(self._root)
        names = legacy.DROP_IN_DIRECTORIES.get(major, legacy.ANY_DROP_IN_DIRECTORY)
        examined = self._walk(files, [self._config, *(f"{self._beside}/{name}/*.toml" for name in names)])
        self._folders = frozenset(files.folders)
        # The registry section of config.toml itself is no finding: the agent moves it aside at the switch.
        found = [each.findings for path, each in examined.items() if path != self._config]
        return Legacy(
            findings=tuple(chain.from_iterable(found)),
            unreadable=tuple(each.unreadable for each in examined.values() if each.unreadable is not None),
        )

    def _locate(self) -> None:
        path = self._config_file()
        self._config, self._beside = str(path), str(path.parent).rstrip("/")

    def watch_paths(self) -> tuple[Path, ...]:
        """Return the directories whose changes the next `read` may see, found or not, below the root."""
        beside = self._root / self._beside.lstrip("/")
        always = (beside, *(beside / name for name in legacy.ANY_DROP_IN_DIRECTORY))
        return tuple(sorted({*always, *(Path(folder or "/") for folder in self._folders)}))

    def write_label_file(self, value: str) -> bool:
        """Tell bashible the label, where it keeps label files; returns whether anything was written.

        Raises DiskFailed or Obstructed.
        """
        directory = open_below(self._root, LABEL_DIRECTORY, calls=self._calls)
        if directory is None:
            return False
        content = f"{legacy.LABEL}={value}\n".encode()
        with directory:
            if _holds(directory, content):
                return False
            for leftover in temporary_names(directory):
                directory.remove(leftover)
            directory.replace(LABEL_FILE, content, mode=PUBLIC_MODE)
            directory.sync()
        return True

    def _walk(self, files: NodeFiles, start: list[str]) -> dict[str, Examined]:
        """Examine each file once, and what it imports after it; remember what is needed next time."""
        known, self._known = self._known, {}
        examined: dict[str, Examined] = {}
        pending = deque(start)
        while pending:
            pattern = pending.popleft()
            try:
                paths = files.expand(pattern)
            except (OSError, ValueError) as err:
                paths, examined[pattern] = [], _unreadable(pattern, err)
            for path in paths:
                if path not in examined:
                    examined[path] = self._examine(files, path, known.get(path))
                    pending.extend(examined[path].imports)
            if len(examined) > MAX_FILES:
                examined[pattern] = _unreadable(pattern, _too_many())
                break
        return examined

    def _examine(self, files: NodeFiles, path: str, known: tuple[_Identity, Examined] | None) -> Examined:
        try:
            real, status = files.find(path)
            identity = _identity(status)
            if known is None or known[0] != identity:
                known = identity, _load(path, real, status)
        except FileNotFoundError as err:
            # containerd starts without config.toml, and does not start without a file that is imported.
            return Examined() if path == self._config else _unreadable(path, err)
        except (OSError, ValueError) as err:
            return _unreadable(path, err)
        if self._now_ns() - status.st_ctime_ns > SETTLED_NS:
            self._known[path] = known
        return known[1]


class NodeFiles:
    """The node's file system below its root, for one reading. Paths are absolute as the node sees them."""

    def __init__(self, root: Path) -> None:
        """Know nothing yet; what is looked up is remembered for the reading."""
        self._root = str(root).rstrip("/")
        self._real: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        #: Directories that were looked at or in, found or not, as the agent sees them.
        self.folders: set[str] = set()

    def expand(self, pattern: str) -> list[str]:
        """Return the files that an import means: itself, or with a ``*`` in it what it matches, as in Go."""
        if "*" not in pattern:
            return [pattern]
        parts = pattern.split("/")
        fixed = next(index for index, part in enumerate(parts) if legacy.is_glob(part))
        found = ["/".join(parts[:fixed])]
        for part in parts[fixed:]:
            found = [
                f"{folder}/{name}" for folder in found for name in self._list(folder) if legacy.matches(name, part)
            ]
            if len(found) > MAX_FILES:
                raise _too_many()
        return found

    def find(self, path: str) -> tuple[str, os.stat_result]:
        """Return where a file really is, as the agent sees it, and its status; symlinks are followed."""
        folder, _, name = path.rpartition("/")
        real = f"{self._folder(folder)}/{name}"
        self.folders.add(self._parent(real))
        status = os.lstat(real)
        if stat.S_ISLNK(status.st_mode):
            real = self._follow(self._folder(folder), name)
            self.folders.add(self._parent(real))
            status = os.lstat(real or "/")
        return real, status

    def read(self, path: str) -> bytes:
        """Return what is in a file, or a byte more than MAX_FILE_BYTES of it; raises OSError or ValueError."""
        return _content(*self.find(path))

    def _list(self, folder: str) -> list[str]:
        """Return the sorted names in a directory; where there is none, there are none."""
        if folder not in self._names:
            real = self._folder(folder)
            self.folders.add(real)
            try:
                self._names[folder] = sorted(os.listdir(real or "/"))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = []
        return self._names[folder]

    def _folder(self, path: str) -> str:
        if path not in self._real:
            parent, _, name = path.rpartition("/")
            is_near = parent in self._real
            self._real[path] = self._follow(self._real[parent], name) if is_near else self._follow(self._root, path)
        return self._real[path]

    def _follow(self, real: str, path: str) -> str:
        """Walk from the directory `real` along `path`, and through symlinks, without leaving the root."""
        pending = path.split("/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            step = f"{real}/{part}"
            if part == "..":
                real = self._parent(real)
            elif part in {"", "."}:
                continue
            elif not os.path.islink(step):
                real = step
            else:
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(step)
                pending.extend(target.split("/")[::-1])
                real = self._root if target.startswith("/") else real
        return real

    def _parent(self, real: str) -> str:
        return real if real == self._root else real.rpartition("/")[0]


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _load(path: str, real: str, status: os.stat_result) -> Examined:
    return legacy.examine(PurePosixPath(path), _content(real, status))


def _content(real: str, status: os.stat_result) -> bytes:
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE:
        return b""  # how a drop-in is masked
    _require_file(status)  # before it is opened, because that alone has an effect on some devices
    descriptor = os.open(real, _READ_FLAGS)
    with open(descriptor, "rb") as file:
        _require_file(os.fstat(descriptor))
        return file.read(legacy.MAX_FILE_BYTES + 1)


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _too_many() -> OSError:
    return OSError(errno.E2BIG, f"more than {MAX_FILES} files are imported")


def _unreadable(path: str, err: OSError | ValueError) -> Examined:
    why = err.strerror if isinstance(err, OSError) else "not a path"
    return legacy.unreadable(PurePosixPath(path), why or type(err).__name__)


def _holds(directory: Directory, content: bytes) -> bool:
    """Tell whether the label file is right, mode and owner included."""
    status = directory.stat(LABEL_FILE)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    is_right = permissions(status) == PUBLIC_MODE and is_ours(status)
    return is_right and directory.read(LABEL_FILE, max_bytes=len(content)) == content
