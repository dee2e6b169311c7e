"""The hook of the DaemonSet, run as kubelet would run it, beside the record that the agent really writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.disk.containerd import ContainerdFiles
from agent.switching import Goal, Phase, Record, UnderWay
from tests.packaging.manifests import container, overlay
from tests.support.nodes import STATE_DIR

UNDER_WAY = UnderWay(
    phase=Phase.RESTARTING,
    goal=Goal.REGISTRY_D,
    attempt="a",
    backup=1,
    wanted="w",
    section="s",
    directory="/etc/containerd/registry.d",
    start="boot:1",
    containers=(),
)


def hook(root: Path) -> subprocess.Popen[bytes]:
    """Start the hook on a node."""
    python, *arguments = container(overlay("vanilla"))["lifecycle"]["preStop"]["exec"]["command"]
    assert "python3" == python
    return subprocess.Popen((sys.executable, *arguments), env={**os.environ, "REGISTRY_AGENT_ROOT": str(root)})


def test_an_agent_without_a_switch_is_stopped_at_once(tmp_path: Path) -> None:
    """Without any record, and with one of a switch that has ended."""
    with hook(tmp_path) as waiting:
        assert 0 == waiting.wait(timeout=8)
    ContainerdFiles(tmp_path, STATE_DIR).write_record(Record().dump())
    with hook(tmp_path) as waiting:
        assert 0 == waiting.wait(timeout=8)


def test_an_agent_in_the_middle_of_a_switch_is_left_until_it_is_through(tmp_path: Path) -> None:
    """For as long as kubelet's patience lasts."""
    files = ContainerdFiles(tmp_path, STATE_DIR)
    files.write_record(Record(under_way=UNDER_WAY).dump())
    with hook(tmp_path) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
        files.write_record(Record().dump())
        assert 0 == waiting.wait(timeout=8)


def test_kubelets_patience_is_longer_than_a_restart_with_its_way_back() -> None:
    """Each may take restart_timeout_s."""
    from agent.settings import Settings  # noqa: PLC0415

    spec = overlay("vanilla")
    (pod,) = (each["spec"]["template"]["spec"] for each in spec if each["kind"] == "DaemonSet")
    assert pod["terminationGracePeriodSeconds"] > 2 * Settings().restart_timeout_s + 10
