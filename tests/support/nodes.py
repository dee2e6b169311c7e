"""A node in a folder: its registry.d, the agent's state directory and the real adapter over both."""

import json
from pathlib import Path, PurePosixPath

from agent.disk.directory import Calls
from agent.disk.node import NodeDisk
from agent.model import Notice
from agent.plan import Plan, make_plan
from agent.tree import Tree
from tests.support import folders, reader
from tests.support.disk_model import Disk
from tests.support.folders import Entry, Folder

STATE_DIR = PurePosixPath("/var/lib/registry-agent")


class Node:
    """The folder `root` is the node's ``/``."""

    def __init__(self, root: Path) -> None:
        """`root` exists; everything below it is up to the test."""
        self.root = root
        self.registry = reader.registry(root)
        self.state_dir = reader.on_node(root, STATE_DIR)
        self.state_file = self.registry / reader.STATE_FILE
        self.record = self.state_dir / "ownership.json"
        self.backup = self.state_dir / "backup"

    def disk(self, calls: Calls | None = None) -> NodeDisk:
        """Return the adapter under test."""
        return NodeDisk(self.root, reader.REGISTRY_DIR, STATE_DIR, calls=calls)

    def plan(self, tree: Tree, calls: Calls | None = None) -> Plan:
        """Observe and plan."""
        observed = self.disk(calls).observe(frozenset(host.name for host in tree.hosts)).observed
        return make_plan(tree, observed)

    def settle(self, tree: Tree, calls: Calls | None = None) -> Plan:
        """Observe, plan and apply; return the plan."""
        plan = self.plan(tree, calls)
        assert self.disk(calls).apply(plan, should_stop=lambda: False)
        return plan

    def notices(self) -> tuple[Notice, ...]:
        """Return what an observation finds odd."""
        return self.disk().observe(frozenset()).notices

    def make(self, path: str, entry: Entry) -> Path:
        """Put something at a path below registry.d."""
        target = self.registry / path
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.write(target, entry)
        return target

    def host(self, name: str) -> Entry:
        """Return what stands at a host's directory."""
        return folders.read(self.registry / name)

    def read(self) -> Disk:
        """Return the disk as the model has it."""
        registry = _entries(self.registry)
        registry.pop(reader.STATE_FILE, None)
        return Disk(
            registry=registry,
            state=frozenset(reader.state(self.root)),
            is_canonical=True,
            ours=frozenset(_names(self.record)),
            backups=_entries(self.backup),
        )

    def write(self, disk: Disk) -> None:
        """Bring a model onto the disk."""
        self.registry.mkdir(parents=True)
        self.backup.mkdir(parents=True)
        for name, entry in disk.registry.items():
            folders.write(self.registry / name, entry)
        for name, entry in disk.backups.items():
            folders.write(self.backup / name, entry)
        self.record.write_text(json.dumps(sorted(disk.ours)))
        text = json.dumps(sorted(disk.state), separators=(",", ":")) + "\n"
        self.state_file.write_text(text if disk.is_canonical else f" {text}")
        self.state_file.chmod(0o644)


def _entries(path: Path) -> dict[str, Entry]:
    if not path.exists():
        return {}
    found = folders.read(path)
    assert isinstance(found, Folder)
    return dict(found.entries)


def _names(path: Path) -> list[str]:
    return [str(name) for name in json.loads(path.read_bytes())] if path.exists() else []
