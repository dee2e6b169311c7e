"""The file source: a desired config, or a Secret's manifest, in a file on the node."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agent.desired import Absent, Present, Reading, Unreadable
from agent.errors import AgentError, SourceUnreadable
from agent.parse.secret import MAX_MANIFEST_BYTES, from_file


class FileSource:
    """Reads one file. Symlinks are followed: kubelet mounts Secrets and ConfigMaps as symlinks."""

    def __init__(self, path: Path) -> None:
        """`path` is where the agent finds the file, root prefix included."""
        self.path = path

    async def read(self) -> Reading:
        """Return the document; a missing file is absence, a missing directory is unreadable."""
        return await asyncio.to_thread(read_file, self.path)


def read_file(path: Path) -> Reading:
    """Read a file source synchronously. Never raises AgentError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        return Present(document=from_file(raw))
    except FileNotFoundError:
        if path.parent.is_dir():
            return Absent()
        return Unreadable(error=_unreadable(path, "its directory does not exist"))
    except OSError as err:
        return Unreadable(error=_unreadable(path, os.strerror(err.errno) if err.errno else "cannot be read"))
    except AgentError as err:
        return Unreadable(error=err)


def _unreadable(path: Path, why: str) -> SourceUnreadable:
    return SourceUnreadable(
        f"desired config {path}: {why}", remedy="correct the path or its rights; the last good config stays in force"
    )
