"""Facts about the node's containerd that are read from its disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Protocol

from agent.address import is_ip
from agent.disk import managers
from agent.disk.containerd import DEFAULT_PATH, ContainerdFiles
from agent.disk.node import CONTAINERD_FILE, NODE_ADDRESS_FILE
from agent.errors import DiskFailed, Obstructed, RuntimeUnavailable
from agent.hosts_toml import Target
from agent.managers import Manager
from agent.runtime import Containerd, ContainerdVersion, Flavour
from agent.settings import Settings
from agent.switching import Record

NODE_IP_FILE = PurePosixPath("/var/lib/bashible/discovered-node-ip")

#: Either of them says that containerd is Deckhouse's build (contract, section 2).
DECKHOUSE_MARKS = (
    PurePosixPath("/opt/deckhouse/bin/containerd"),
    PurePosixPath("/etc/systemd/system/containerd-deckhouse.service"),
    PurePosixPath("/lib/systemd/system/containerd-deckhouse.service"),
    PurePosixPath("/usr/lib/systemd/system/containerd-deckhouse.service"),
)


def config_file(settings: Settings) -> PurePosixPath:
    """Return the file that containerd was last seen to read."""
    record = _last_switch(settings)
    return PurePosixPath(record.config) if record and record.config else DEFAULT_PATH


def _last_switch(settings: Settings) -> Record | None:
    """Return what the record of switches says; nothing if it is damaged, which the switch says itself."""
    try:
        return Record.load(ContainerdFiles(settings.root, settings.state_dir).read_record())
    except (DiskFailed, Obstructed):
        return None


class Known(Protocol):
    """What the cluster knows of the node."""

    @property
    def node_address(self) -> str | None:
        """Its address."""

    @property
    def runtime_version(self) -> str | None:
        """The version of containerd."""


class _NothingKnown:
    node_address: str | None = None
    runtime_version: str | None = None


class NodeFacts:
    """Reads the facts anew for each pass: containerd may be upgraded under a running agent."""

    def __init__(
        self,
        settings: Settings,
        *,
        origin: str,
        known: Known | None = None,
        ask: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`origin` says in words where the desired config is kept, for the header of hosts.toml.

        `ask` asks containerd for its version; raises RuntimeUnavailable.
        """
        self._settings = settings
        self._known = known or _NothingKnown()
        self._ask = ask
        self._found: str | None = None
        # A file name may hold bytes that are no text; the header of hosts.toml is UTF-8.
        self._origin = origin.encode(errors="backslashreplace").decode()

    async def meet(self) -> None:
        """Ask containerd for its version, if nobody else knows it: files are written for it."""
        if self._ask is None or self._settings.containerd_version != "auto" or self._version():
            return
        with contextlib.suppress(RuntimeUnavailable):  # known later, then: what all versions read is written till then
            self._found = await self._ask()

    def target(self) -> Target:
        """Return what to render for; raises DiskFailed."""
        return Target(
            containerd=self.containerd(None),
            registry_dir=self._settings.registry_dir,
            origin=self._origin,
            node_ip=self._node_ip(),
        )

    def containerd(self, found: str | None) -> Containerd:
        """Return what is known of containerd; `found` is the version that it gives itself, if it was asked.

        Else the one on the Node, else what it said when it was last asked, else what the Node said last.
        """
        text = self._settings.containerd_version
        if text == "auto":
            text = found or self._version() or ""
        try:
            version = ContainerdVersion.parse(text) if text else None
        except ValueError:  # a build without a version
            version = None
        return Containerd(flavour=self._settings.fixed_flavour or self._flavour(text), version=version)

    def managers(self) -> tuple[Manager, ...]:
        """Return who else manages the node; who says so in registry.d itself is seen there."""
        if self._settings.beside_others:
            return ()
        found = managers.find(self._settings.root, self._settings.registry_dir)
        return tuple(manager for manager in found if not manager.is_final)

    def unit(self) -> str:
        """Return the name of containerd's unit."""
        if self._settings.containerd_unit != "auto":
            return self._settings.containerd_unit
        is_there = any(os.path.exists(self._settings.on_node(path)) for path in DECKHOUSE_MARKS[1:])
        return "containerd-deckhouse.service" if is_there else "containerd.service"

    def _flavour(self, version: str) -> Flavour:
        if any(os.path.exists(self._settings.on_node(path)) for path in DECKHOUSE_MARKS):
            return Flavour.DECKHOUSE
        return Flavour.K3S if "k3s" in version else Flavour.STOCK

    def _node_ip(self) -> str | None:
        """Return the address of the settings, bashible, the cluster, or of the cluster as it was last known.

        Without one, only a placeholder in the config is an error.
        """
        kept = self._settings.state_dir / NODE_ADDRESS_FILE
        known = self._settings.node_ip or self._read_ip(NODE_IP_FILE) or self._known.node_address
        return known or self._read_ip(kept)

    def _read_ip(self, path: PurePosixPath) -> str | None:
        line = self._line(path)
        return line if line and is_ip(line) else None

    def _read(self, name: str) -> str | None:
        return self._line(self._settings.state_dir / name)

    def _line(self, path: PurePosixPath) -> str | None:
        try:
            lines = self._settings.on_node(path).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        return lines[0].strip() if lines else None

    def _version(self) -> str | None:
        if self._known.runtime_version:
            return self._known.runtime_version
        record = _last_switch(self._settings)
        return (record and record.version) or self._found or self._read(CONTAINERD_FILE)
