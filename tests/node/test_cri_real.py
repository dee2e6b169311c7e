"""The CRI client and real containerd: facts, containers across a restart, a CRI plugin that is not loaded."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cri import Cri
from agent.errors import RuntimeUnavailable
from agent.systemd import Systemd
from agent.unit import Done
from tests.node import pods
from tests.node.node import CONFIG_TOML, Node

pytestmark = pytest.mark.timeout(60, func_only=True)

CONTAINERD = "containerd.service"
BROKEN_TOML = f"""\
{CONFIG_TOML}
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."registry.test"]
  endpoint = ["https://mirror.test"]
"""
"""What `config dump` accepts and the CRI plugin does not load with: mirrors beside config_path."""


@pytest.fixture
def runtime(node: Node) -> Cri:
    """The agent's client of the node's containerd."""
    return Cri(_socket(node))


@pytest.fixture
async def restore(node: Node) -> AsyncIterator[None]:
    """Give the node its own config and a containerd that runs, whatever the test did."""
    yield
    await _configure(node, CONFIG_TOML)


async def test_the_version_is_the_installed_one(runtime: Cri, node: Node) -> None:
    version = await runtime.version()
    assert version.name == "containerd"
    assert version.version.startswith(node.containerd)


async def test_the_status_tells_that_the_runtime_is_ready(runtime: Cri) -> None:
    """The test nodes have no CNI: that is another condition, and not ours."""
    status = await runtime.status()
    conditions = {condition.type: condition for condition in status.conditions}
    assert status.is_ready
    assert conditions["RuntimeReady"].is_true
    assert not conditions["NetworkReady"].is_true
    assert conditions["NetworkReady"].reason == "NetworkPluginNotReady"
    assert status.info == {}


async def test_a_verbose_status_shows_what_containerd_1_has_loaded(runtime: Cri, node: Node) -> None:
    """The best witness of what runs; containerd 2 keeps its registry section to itself."""
    status = await runtime.status(verbose=True)
    loaded = json.loads(status.info["config"])
    if node.containerd.startswith("1."):
        assert loaded["registry"]["configPath"] == "/etc/containerd/registry.d"
    else:
        assert "registry" not in loaded
    assert "registry.d" not in repr(status)


async def test_it_serves(runtime: Cri) -> None:
    assert await runtime.is_serving()


@pytest.mark.usefixtures("restore")
async def test_containers_survive_a_restart_through_the_bus(runtime: Cri, node: Node) -> None:
    """The same ids before and after, and the same process; containerd itself is another one."""
    await _configure(node, pods.CONFIG_TOML)
    pods.prepare(node)
    one, two = pods.start(node, "one"), pods.start(node, "two")
    pods.stop_container(node, two)
    before = await runtime.running_containers()
    assert before == {one.container}
    async with Systemd(node.root / "run/dbus/system_bus_socket") as systemd:
        old = await systemd.unit(CONTAINERD)
        outcome = await systemd.restart(CONTAINERD, timeout_s=20.0)
    assert isinstance(outcome, Done)
    assert outcome.unit.main_pid != old.main_pid
    assert await _once_it_answers(runtime) == before
    assert pods.pid(node, one.container) == one.pid
    for pod in (one, two):
        pods.remove(node, pod)
    assert await runtime.running_containers() == frozenset()


@pytest.mark.usefixtures("restore")
async def test_a_cri_plugin_that_is_not_loaded_is_unimplemented(runtime: Cri, node: Node) -> None:
    """systemd says active and health says SERVING: only a CRI call tells."""
    (node.root / "etc/containerd/config.toml").write_text(BROKEN_TOML)
    node.run("systemctl", "reset-failed", CONTAINERD)
    async with Systemd(node.root / "run/dbus/system_bus_socket") as systemd:
        outcome = await systemd.restart(CONTAINERD, timeout_s=20.0)
    assert isinstance(outcome, Done)
    assert outcome.unit.is_active
    assert await runtime.is_serving()
    for call in (runtime.version, runtime.status, runtime.running_containers):
        with pytest.raises(RuntimeUnavailable) as caught:
            await call()
        assert caught.value.code == "UNIMPLEMENTED"


@pytest.mark.usefixtures("restore")
async def test_calls_during_a_restart_are_answered_or_unavailable(runtime: Cri, node: Node) -> None:
    """Never anything else, never a hang: who waits for containerd can ask in a loop."""
    node.run("systemctl", "reset-failed", CONTAINERD)
    async with Systemd(node.root / "run/dbus/system_bus_socket") as systemd, asyncio.TaskGroup() as group:
        restart = group.create_task(systemd.restart(CONTAINERD, timeout_s=20.0))
        codes = set()
        while not restart.done() or "OK" not in codes:
            codes.add(await _code(runtime))
    assert isinstance(restart.result(), Done)
    assert await _code(runtime) == "OK"
    assert codes <= {"OK", "UNAVAILABLE"}


@pytest.mark.usefixtures("restore")
async def test_a_containerd_that_is_stopped_is_unavailable(runtime: Cri, node: Node) -> None:
    node.run("systemctl", "stop", CONTAINERD)
    with pytest.raises(RuntimeUnavailable) as caught:
        await runtime.version()
    assert caught.value.code == "UNAVAILABLE"


async def _configure(node: Node, config: str) -> None:
    """Restart containerd with this config and wait for its CRI plugin."""
    (node.root / "etc/containerd/config.toml").write_text(config)
    node.run("systemctl", "reset-failed", CONTAINERD)
    node.run("systemctl", "restart", CONTAINERD)
    await _once_it_answers(Cri(_socket(node)))


async def _once_it_answers(runtime: Cri) -> frozenset[str]:
    """Return the running containers; systemd may be told READY a little before the CRI plugin answers."""
    while await _code(runtime) != "OK":
        pass
    return await runtime.running_containers()


async def _code(runtime: Cri) -> str:
    try:
        await runtime.status()
    except RuntimeUnavailable as error:
        return error.code
    return "OK"


def _socket(node: Node) -> Path:
    return node.root / "run/containerd/containerd.sock"
