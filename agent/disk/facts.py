"""Facts about the node's containerd that are read from its disk."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from agent.address import is_ip
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

    def __init__(self, settings: Settings, *, origin: str) -> None:
        """`origin` says in words where the desired config is kept, for the header of hosts.toml."""
        self._settings = settings
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
            node_ip=self._settings.node_ip or self._discovered_ip(),
        )

    def _flavour(self, version: str) -> Flavour:
        if any(os.path.exists(self._settings.on_node(path)) for path in DECKHOUSE_MARKS):
            return Flavour.DECKHOUSE
        return Flavour.K3S if "k3s" in version else Flavour.STOCK

    def _discovered_ip(self) -> str | None:
        """Return bashible's finding if it is an address; without one, only a placeholder is an error."""
        try:
            lines = self._settings.on_node(NODE_IP_FILE).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        return lines[0].strip() if lines and is_ip(lines[0].strip()) else None
