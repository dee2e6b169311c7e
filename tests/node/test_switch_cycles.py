"""Ten times from legacy to registry.d and back, on real nodes: nothing drifts, nothing piles up."""

import os
from pathlib import Path

import pytest

from tests.node.config_tomls import LEGACY_TOML, POINTS_AT_US
from tests.node.daemon import Daemon
from tests.node.desired import document, host, mirror
from tests.node.node import Node
from tests.node.registry import Registry
from tests.node.starts import CONTAINERD, Starts, answers, run_with
from tests.node.waiting import until

pytestmark = [pytest.mark.timeout(90, func_only=True), pytest.mark.usefixtures("config_toml")]

CYCLES = 10
OWNER, MODE = (1234, 2345), 0o640


def test_ten_cycles_leave_the_file_as_it_was_and_five_backups_at_most(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, *, mirror_a: Registry, mirror_b: Registry
) -> None:
    """On containerd 2 config_path stays, so that only the first cycle restarts anything."""
    run_with(node, starts, LEGACY_TOML)
    os.chown(config_toml, *OWNER)
    config_toml.chmod(MODE)
    agent.flags = ("--absent-settle-s", "0.1")
    is_one = node.containerd.startswith("1.")
    switched: set[bytes] = set()
    for cycle in range(1, CYCLES + 1):
        for registry in (mirror_a, mirror_b):
            agent.apply(document({"registry.test": host(mirror(registry))}))
            switched.add(_as_kept(config_toml))
        agent.forget_restarts()
        agent.withdraw()
        until(lambda: agent.status()["standing"] == "not-configured", what="the release")
        released = _as_kept(config_toml)
        assert released == LEGACY_TOML.encode() if is_one else switched
        assert len(starts) == (2 * cycle if is_one else 1)
        agent.forget_restarts()
        node.run("systemctl", "reset-failed", CONTAINERD)
    assert len(switched) == 1
    assert POINTS_AT_US.encode() in switched.pop()
    assert answers(node)
    backups = [*_folder(node).glob("config.toml.*")]
    assert len(backups) == (5 if is_one else 1)
    assert {(0o600, 0)} == {(each.stat().st_mode & 0o7777, each.stat().st_uid) for each in _folder(node).iterdir()}


def _as_kept(config_toml: Path) -> bytes:
    """Return the file's bytes if it still belongs to whom it did."""
    status = config_toml.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (*OWNER, MODE)
    return config_toml.read_bytes()


def _folder(node: Node) -> Path:
    return node.root / "var/lib/registry-agent/containerd"
