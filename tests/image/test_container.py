"""The image in a real containerd, as a DaemonSet's pod has it, and without any one of its rights."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.container import CAPABILITIES, Container, running
from tests.node import pods
from tests.node.node import Node
from tests.node.starts import restart
from tests.node.waiting import until
from tests.support import configs
from tests.support.foreign import SOMEBODY, configured, shape

pytestmark = pytest.mark.timeout(90, func_only=True)

SETTINGS = {
    "REGISTRY_AGENT_SOURCE": "file",
    "REGISTRY_AGENT_CONTAINERD": "leave",
    "REGISTRY_AGENT_ABSENT_SETTLE_S": "0.2",
}
MANAGING = {**SETTINGS, "REGISTRY_AGENT_CONTAINERD": "manage"}

STOP_S = 2.0
POINTS_AT_US = 'config_path = "/etc/containerd/registry.d"'


@pytest.fixture
def desired(node: Node) -> Path:
    """Return the file that holds the desired config."""
    path = node.root / "etc/registry-agent/desired.yaml"
    path.parent.mkdir()
    return path


@pytest.fixture
def foreign(node: Node) -> Path:
    """Return the directory of a registry that somebody has configured."""
    return configured(node.root)


def ctr(node: Node, image: str, *command: str) -> str:
    """Run a command in the image and return what it prints."""
    limits = ("--rm", "--read-only", "--net-host", "--cpu-shares", "0")
    return node.run("ctr", "--namespace", "k8s.io", "run", *limits, image, "image-test", *command)


def test_it_says_its_version(node: Node, image: str) -> None:
    version = image.rpartition(":")[2]
    assert ctr(node, image, "registry-agent", "version").startswith(f"registry-agent {version} ")


def test_nothing_is_compiled_at_start(node: Node, image: str) -> None:
    """Every pyc is there and is not stale: a root that is read-only could not keep a new one."""
    said = ctr(node, image, "sh", "-c", "python3 -v -c 'import agent.cli.main, agent.daemon' 2>&1").splitlines()
    loaded = [line for line in said if line.startswith("# code object from")]
    assert len(loaded) > 300
    assert [] == [line for line in loaded if not line.endswith(".pyc'")]


def test_it_manages_a_node_with_four_capabilities_and_a_read_only_root(
    node: Node, image: str, desired: Path, foreign: Path, *, measured: list[str]
) -> None:
    """A foreign directory is taken over, repaired after damage, and given back as it was."""
    before = shape(foreign)
    desired.write_bytes(configs.simple("v1"))
    started = time.monotonic()
    with running(node, image, environment=SETTINGS) as container:
        container.until_ready("v1")
        measured.append(f"ready after {time.monotonic() - started:.2f} s; {memory(container)}")
        check_limits(container)
        hosts_toml = foreign / "hosts.toml"
        status = hosts_toml.stat()
        assert (0, 0, 0o600) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        hosts_toml.unlink()
        until(lambda: hosts_toml.exists() and container.is_ready("v1"), what="the repair")
        desired.unlink()
        until(lambda: container.reason() == "NotConfigured", what="the release")
        stopping = time.monotonic()
        assert 0 == container.stop()
        took_s = time.monotonic() - stopping
        assert "Traceback" not in container.log
    assert before == shape(foreign)
    assert took_s < STOP_S
    measured.append(f"SIGTERM to the end {took_s:.2f} s")


def test_it_ends_at_once_also_when_it_is_stopped_while_it_starts(
    node: Node, image: str, desired: Path, *, measured: list[str]
) -> None:
    """Process 1 gets no SIGTERM that it has not asked for yet; kubelet would wait for all its patience."""
    desired.write_bytes(configs.simple("v1"))
    with running(node, image, environment=SETTINGS) as container:
        stopping = time.monotonic()
        assert container.stop() in {0, 128 + signal.SIGTERM}
        took_s = time.monotonic() - stopping
    assert took_s < STOP_S
    measured.append(f"SIGTERM at the start to the end {took_s:.2f} s")


@pytest.mark.parametrize("capability", ["CHOWN", "DAC_OVERRIDE", "FOWNER"])
def test_without_this_capability_what_is_not_roots_cannot_be_saved(
    node: Node, image: str, desired: Path, foreign: Path, *, capability: str
) -> None:
    before = shape(foreign)
    desired.write_bytes(configs.simple("v1"))
    with running(node, image, capabilities=without(capability), environment=SETTINGS) as container:
        until(lambda: container.reason() == "DiskFailed", what="the refusal")
    assert before == shape(foreign)


def test_without_fsetid_a_set_group_id_bit_is_lost(node: Node, image: str, desired: Path, foreign: Path) -> None:
    before = shape(foreign)
    desired.write_bytes(configs.simple("v1"))
    with running(node, image, capabilities=without("FSETID"), environment=SETTINGS) as container:
        container.until_ready("v1")
        desired.unlink()
        until(lambda: container.reason() == "NotConfigured", what="the release")
    after = shape(foreign)
    assert ("0o2750", "0o750") == (before["r0.test"][2], after["r0.test"][2])


def without(capability: str) -> tuple[str, ...]:
    """Return what is left."""
    return tuple(name for name in CAPABILITIES if name != capability)


def test_where_all_files_are_roots_it_needs_no_capability(node: Node, image: str, desired: Path) -> None:
    """A directory of root's is taken over and given back."""
    directory = node.root / "etc/containerd/registry.d/r0.test"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text("[host]\n")
    before = shape(directory)
    desired.write_bytes(configs.simple("v1"))
    with running(node, image, capabilities=(), environment=SETTINGS) as container:
        container.until_ready("v1")
        desired.unlink()
        until(lambda: container.reason() == "NotConfigured", what="the release")
    assert before == shape(directory)


@pytest.fixture
def config_toml(node: Node) -> Iterator[Path]:
    """Return a config.toml of somebody's, with which containerd does not read registry.d."""
    path = node.root / "etc/containerd/config.toml"
    path.write_text(pods.CONFIG_TOML.partition('[plugins."io.containerd.grpc.v1.cri".registry]')[0])
    os.chown(path, SOMEBODY, SOMEBODY)
    path.chmod(0o640)
    restart(node)
    until(lambda: "ok" in node.run("ctr", "plugins", "list", "id==cri"), what="containerd")
    yield path
    os.chown(path, 0, 0)
    path.write_text(pods.CONFIG_TOML)
    restart(node)
    until(lambda: "ok" in node.run("ctr", "plugins", "list", "id==cri"), what="containerd")


def test_it_survives_its_own_restart_of_the_containerd_that_it_runs_in(
    node: Node, image: str, desired: Path, config_toml: Path
) -> None:
    """Over the node's D-Bus, without a capability for that; config.toml keeps its owner and mode."""
    desired.write_bytes(configs.simple("v1"))
    main_pid = ("systemctl", "show", "--property=MainPID", "containerd")
    containerd = node.run(*main_pid)
    with running(node, image, environment=MANAGING) as container:
        agent = container.proc
        container.until_ready("v1")
        assert POINTS_AT_US in config_toml.read_text()
        assert node.run(*main_pid) != containerd
        assert container.proc == agent
        status = config_toml.stat()
        assert (SOMEBODY, SOMEBODY, 0o640) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        assert 0 == container.stop()


def check_limits(container: Container) -> None:
    """See that the kernel holds the agent to what the pod asked for."""
    status = proc(container)
    assert "1" == status["NoNewPrivs"]
    assert "2" == status["Seccomp"]
    granted = sum(1 << number for number in (0, 1, 3, 4))  # CHOWN, DAC_OVERRIDE, FOWNER, FSETID
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert granted == int(status[name], 16)
    mounts = [line.split() for line in (container.proc / "mounts").read_text().splitlines()]
    (options,) = (options for _, where, _, options, *_ in mounts if where == "/")
    assert "ro" in options.split(",")


def memory(container: Container) -> str:
    """Say how much memory the agent has."""
    rollup = (container.proc / "smaps_rollup").read_text()
    sizes = {line.split()[0].rstrip(":"): int(line.split()[1]) / 1024 for line in rollup.splitlines()[1:]}
    return f"RSS {sizes['Rss']:.0f} MB, PSS {sizes['Pss']:.0f} MB, anonymous {sizes['Anonymous']:.0f} MB"


def proc(container: Container) -> dict[str, str]:
    """Return what the kernel says of the agent's process."""
    lines = (container.proc / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
