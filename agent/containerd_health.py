"""Whether containerd is well, and what it has loaded, asked over its own socket. Nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from agent.errors import RuntimeUnavailable


class Version(Protocol):
    """What the runtime calls itself."""

    @property
    def version(self) -> str:
        """Such as 1.7.24~ds1."""


class Status(Protocol):
    """What CRI says of the runtime."""

    @property
    def info(self) -> Mapping[str, str]:
        """The verbose part."""

    @property
    def is_ready(self) -> bool:
        """Whether the runtime is ready."""


class Socket(Protocol):
    """containerd's socket; every call raises RuntimeUnavailable."""

    async def version(self) -> Version:
        """Return the runtime's name and version."""

    async def status(self, *, verbose: bool) -> Status:
        """Return its conditions."""

    async def running_containers(self) -> frozenset[str]:
        """Return the ids of the containers that run."""

    async def is_cut_off(self, container: str) -> bool:
        """Tell whether a container has ended and nobody has seen how."""

    async def is_serving(self) -> bool:
        """Tell what the health service says."""


class ContainerdHealth:
    """Judges by what CRI calls answer: gRPC health says SERVING even when the CRI plugin did not load."""

    def __init__(self, socket: Socket, path: Path) -> None:
        """`path` is where the socket is; nothing is asked yet."""
        self._socket = socket
        self._path = path

    def sign(self) -> str | None:
        """Return what changes with each start of containerd: it makes its socket anew. None when there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return f"{status.st_ino}:{status.st_ctime_ns}"

    async def version(self) -> str:
        """Return containerd's version; raises RuntimeUnavailable."""
        if self.sign() is None:
            raise RuntimeUnavailable("Version", "UNAVAILABLE", "there is no socket")
        return (await self._socket.version()).version

    async def running_containers(self) -> frozenset[str]:
        """Return the ids of the containers that run; raises RuntimeUnavailable."""
        return await self._socket.running_containers()

    async def lost(self, before: frozenset[str]) -> frozenset[str]:
        """Return those of `before` whose end nobody has seen; raises RuntimeUnavailable.

        That is how a restart ends containers: with their shims. What came to its end meanwhile, or was ended by
        kubelet or for want of memory, has an end that its shim tells.
        """
        gone = before - await self._socket.running_containers()
        return frozenset([name for name in sorted(gone) if await self._socket.is_cut_off(name)])

    async def problem(self, directory: str | None) -> str | None:
        """Return what is wrong, None when containerd is well and, where it says, uses `directory`."""
        try:
            if not await self._socket.is_serving():
                return "its health service does not say SERVING"
            await self._socket.version()
            status = await self._socket.status(verbose=True)
        except RuntimeUnavailable as err:
            return err.message
        if not status.is_ready:
            return "it says that its runtime is not ready"
        loaded = loaded_directory(status.info)
        if directory is not None and loaded is not None and loaded != directory:
            return f"it has loaded another config_path than {directory}"
        return None

    async def loaded_directory(self) -> str | None:
        """Return the config_path that it has loaded, "" for none; None when it does not say (2.x)."""
        try:
            return loaded_directory((await self._socket.status(verbose=True)).info)
        except RuntimeUnavailable:
            return None


def loaded_directory(info: Mapping[str, str]) -> str | None:
    """Read the verbose status of containerd 1.x, which holds the CRI plugin's whole config; None without."""
    try:
        registry = json.loads(info["config"])["registry"]
        return str(registry["configPath"]).rstrip("/")
    except (KeyError, ValueError, TypeError):
        return None
