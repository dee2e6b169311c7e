"""The file source: a desired config, or a Secret's manifest, in a file on the node."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from agent.desired import Absent, Present, Reading, Unreadable
from agent.errors import AgentError, SourceUnreadable
from agent.parse.secret import MAX_MANIFEST_BYTES, from_file


class FileSource:
    """Reads one file. Symlinks are followed: kubelet mounts Secrets and ConfigMaps as symlinks."""

    def __init__(self, path: Path) -> None:
        """`path` is where the agent finds the file, root prefix included."""
        self.path = path

    async def read(self, *, is_confirming: bool) -> Reading:  # noqa: ARG002 -- every reading is a live one
        """Return the document; a missing file is absence, a missing directory is unreadable."""
        return await asyncio.to_thread(read_file, self.path)


def read_file(path: Path, *, allow_pipe: bool = False) -> Reading:
    """Read a file source synchronously. Never raises AgentError.

    `allow_pipe` is for the command line: a daemon must not wait for the writer of a FIFO.
    """
    try:
        with open(path, "rb", opener=None if allow_pipe else _without_waiting) as file:
            if not allow_pipe and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Unreadable(error=_unreadable(path, "is not a file"))
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        return Present(document=from_file(raw))
    except FileNotFoundError:
        if os.path.isdir(path.parent):
            return Absent()
        return Unreadable(error=_unreadable(path, "its directory does not exist"))
    except OSError as err:
        return Unreadable(error=_unreadable(path, err.strerror or "cannot be read"))
    except AgentError as err:
        return Unreadable(error=err)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, why: str) -> SourceUnreadable:
    return SourceUnreadable(f"desired config {path}: {why}", remedy="correct the path or its rights")
