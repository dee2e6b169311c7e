"""Facts about the node's containerd that are read from its disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath

from agent.address import is_ip
from agent.disk.node import NODE_ADDRESS_FILE
from agent.hosts_toml import Target
from agent.runtime import Containerd, ContainerdVersion, Flavour
from agent.settings import Settings

NODE_IP_FILE = PurePosixPath("/var/lib/bashible/discovered-node-ip")

#: Either of them says that containerd is Deckhouse's build (contract, section 2).
DECKHOUSE_MARKS = (
    PurePosixPath("/opt/deckhouse/bin/containerd"),
    PurePosixPath("/etc/systemd/system/containerd-deckhouse.service"),
    PurePosixPath("/lib/systemd/system/containerd-deckhouse.service"),
    PurePosixPath("/usr/lib/systemd/system/containerd-deckhouse.service"),
)


class NodeFacts:
    """Reads the facts anew for each pass: containerd may be upgraded under a running agent."""

    def __init__(
        self, settings: Settings, *, origin: str, node_address: Callable[[], str | None] = lambda: None
    ) -> None:
        """`origin` says in words where the desired config is kept, for the header of hosts.toml.

        `node_address` is what the cluster knows of the node's address.
        """
        self._settings = settings
        self._node_address = node_address
        # A file name may hold bytes that are no text; the header of hosts.toml is UTF-8.
        self._origin = origin.encode(errors="backslashreplace").decode()

    def target(self) -> Target:
        """Return what to render for; raises DiskFailed."""
        text = self._settings.containerd_version
        version = None if text == "auto" else ContainerdVersion.parse(text)
        return Target(
            containerd=Containerd(flavour=self._settings.fixed_flavour or self._flavour(text), version=version),
            registry_dir=self._settings.registry_dir,
            origin=self._origin,
            node_ip=self._node_ip(),
        )

    def _flavour(self, version: str) -> Flavour:
        if any(os.path.exists(self._settings.on_node(path)) for path in DECKHOUSE_MARKS):
            return Flavour.DECKHOUSE
        return Flavour.K3S if "k3s" in version else Flavour.STOCK

    def _node_ip(self) -> str | None:
        """Return the address of the settings, bashible, the cluster, or of the cluster as it was last known.

        Without one, only a placeholder in the config is an error.
        """
        kept = self._settings.state_dir / NODE_ADDRESS_FILE
        return self._settings.node_ip or self._read_ip(NODE_IP_FILE) or self._node_address() or self._read_ip(kept)

    def _read_ip(self, path: PurePosixPath) -> str | None:
        try:
            lines = self._settings.on_node(path).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        return lines[0].strip() if lines and is_ip(lines[0].strip()) else None
