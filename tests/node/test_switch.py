"""config.toml is switched to registry.d and back, with the fewest restarts, on real nodes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node import pods
from tests.node.config_tomls import BAD_KEY, CRI, IMPORTING_TOML, LEGACY_TOML, POINTS_AT_US
from tests.node.cri import Cri
from tests.node.daemon import Daemon
from tests.node.desired import document, host, mirror
from tests.node.images import Image
from tests.node.node import CONFIG_TOML, Node
from tests.node.registry import Registry
from tests.node.starts import Absence, Starts, answers, drop_in, restart, run_with, trapped
from tests.node.waiting import until

pytestmark = [pytest.mark.timeout(90, func_only=True), pytest.mark.usefixtures("config_toml")]

DROP_IN = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".registry.configs."legacy.test".auth]
  username = "u"
  password = "p"
"""


def test_a_whole_cycle_takes_the_fewest_restarts_and_no_container(
    node: Node,
    agent: Daemon,
    starts: Starts,
    config_toml: Path,
    *,
    cri: Cri,
    mirror_a: Registry,
    mirror_b: Registry,
    stocked: Callable[..., Image],
    measured: list[str],
) -> None:
    """Legacy, switched, changed, deleted: two restarts on containerd 1 and the same bytes, one on 2."""
    run_with(node, starts, LEGACY_TOML)
    pods.prepare(node)
    pod = pods.start(node, "survivor")
    with Absence(node) as bare:
        restart(node)
    starts.forget()
    with Absence(node) as switch:
        agent.apply(document({"registry.test": host(mirror(mirror_a))}))
    assert len(starts) == 1
    assert POINTS_AT_US in config_toml.read_text()
    assert "endpoint" not in config_toml.read_text()
    _pull(cri, stocked(mirror_a), mirror_a)
    agent.apply(document({"registry.test": host(mirror(mirror_b))}))
    _pull(cri, stocked(mirror_b), mirror_b)
    assert len(starts) == 1
    agent.forget_restarts()
    agent.withdraw()
    until(lambda: not (node.root / "etc/containerd/registry.d/registry.test").exists(), what="the release")
    if node.containerd.startswith("1."):
        assert config_toml.read_text() == LEGACY_TOML
        assert len(starts) == 2
        assert "registry.test" in starts.hosts[1], "released before containerd was back to legacy"
    else:
        assert POINTS_AT_US in config_toml.read_text()
        assert len(starts) == 1
    until(lambda: agent.status()["standing"] == "not-configured", what="the report")
    assert pods.pid(node, pod.container) == pod.pid
    pods.remove(node, pod)
    away = f"CRI away {switch.longest_s:.2f} s in a switch, {bare.longest_s:.2f} s in a bare restart"
    measured.append(f"{node.containerd}: {away}; {len(starts)} restarts in a whole cycle")


def test_a_legacy_drop_in_blocks_the_switch_until_it_is_gone(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    drop_in_file = node.root / "etc/containerd/conf.d/auth.toml"
    drop_in_file.parent.mkdir()
    drop_in_file.write_text(DROP_IN)
    run_with(node, starts, IMPORTING_TOML)
    wanted = document({"registry.test": host(mirror(mirror_a))})
    agent.publish(wanted.text)
    agent.start()
    until(lambda: agent.says("LegacyRegistryConfig"), what="the reason")
    assert (node.root / "etc/containerd/registry.d/registry.test/hosts.toml").exists()
    assert config_toml.read_text() == IMPORTING_TOML
    assert not agent.is_ready()
    assert not starts
    drop_in_file.unlink()
    agent.apply(wanted)
    assert POINTS_AT_US in config_toml.read_text()
    assert len(starts) == 1


@pytest.mark.parametrize("is_known", [False, True])
def test_what_containerd_has_loaded_from_a_drop_in_goes_with_it(
    node: Node,
    agent: Daemon,
    starts: Starts,
    config_toml: Path,
    *,
    cri: Cri,
    mirror_a: Registry,
    stocked: Callable[..., Image],
    is_known: bool,
) -> None:
    """With mirrors in it, containerd 1 does not read registry.d, and 2.1 has no CRI, though config.toml is right."""
    drop_in_file = node.root / "etc/containerd/conf.d/mirrors.toml"
    drop_in_file.parent.mkdir()
    run_with(node, starts, f"{IMPORTING_TOML}[{CRI[1:-1]}.registry]\n  {POINTS_AT_US}\n")
    wanted = document({"registry.test": host(mirror(mirror_a))})
    if is_known:
        agent.apply(wanted)
        _pull(cri, stocked(mirror_a), mirror_a)
    drop_in_file.write_text(f'version = 2\n[{CRI[1:-1]}.registry.mirrors."legacy.test"]\n  endpoint = ["https://m"]\n')
    restart(node)
    starts.forget()
    agent.publish(wanted.text)
    agent.start()
    until(lambda: agent.says("LegacyRegistryConfig"), what="the reason")
    drop_in_file.unlink()
    agent.apply(wanted)
    _pull(cri, stocked(mirror_a), mirror_a)
    assert len(starts) == 1
    assert config_toml.exists()


def test_a_config_with_which_cri_does_not_load_is_rolled_back_and_its_correction_is_tried(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    """An import turns bad at that very start; `config dump` has seen the good one and would take either."""
    agent.flags += ("--restart-timeout-s", "1")
    wanted = document({"registry.test": host(mirror(mirror_a))})
    with trapped(node):
        run_with(node, starts, IMPORTING_TOML)
        agent.publish(wanted.text)
        agent.start()
        until(lambda: agent.says("RolledBack"), what="the way back")
        assert config_toml.read_text() == IMPORTING_TOML
        assert answers(node)
        assert len(starts) == 2
        message = agent.status()["message"]
        assert "stream_idle_timeout" in message or "stream idle timeout" in message, message
        agent.forget_restarts()
    config_toml.write_text(f"{IMPORTING_TOML}# mended\n")
    agent.apply(wanted)
    assert len(starts) == 3


def test_an_old_config_that_is_bad_as_well_is_said_and_its_correction_is_tried(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    """Somebody left a mistake that waits for the next restart: ours finds it, and must not loop."""
    run_with(node, starts, LEGACY_TOML)
    mistaken = LEGACY_TOML.replace(CRI, BAD_KEY.strip())
    config_toml.write_text(mistaken)
    usual = agent.flags
    agent.flags += ("--restart-timeout-s", "1")
    wanted = document({"registry.test": host(mirror(mirror_a))})
    agent.publish(wanted.text)
    agent.start()
    until(lambda: agent.says("RestartFailed"), what="the failure")
    assert config_toml.read_text() == mistaken
    assert len(starts) == 2
    agent.stop()
    agent.forget_restarts()
    agent.flags = usual
    agent.start()
    until(lambda: agent.says("RestartFailed"), what="the memory")
    assert "with the old config.toml it is not well either" in agent.status()["message"]
    assert len(starts) == 2
    config_toml.write_text(LEGACY_TOML)
    agent.apply(wanted)
    assert len(starts) == 3
    assert answers(node)


@pytest.mark.parametrize("is_touched", [False, True], ids=["as-started", "touched-since"])
def test_a_node_that_reads_registry_d_already_is_not_restarted(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry, *, is_touched: bool
) -> None:
    """A younger file says nothing about what was loaded: containerd 1 tells, with 2 nobody knows."""
    run_with(node, starts, CONFIG_TOML)
    if is_touched:
        config_toml.touch()
    agent.apply(document({"registry.test": host(mirror(mirror_a))}))
    is_unknown = is_touched and not node.containerd.startswith("1.")
    assert len(starts) == (1 if is_unknown else 0)
    assert config_toml.read_text() == CONFIG_TOML


def test_observing_says_what_would_change_and_writes_nothing(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    run_with(node, starts, LEGACY_TOML)
    agent.flags += ("--mode", "observe")
    agent.publish(document({"registry.test": host(mirror(mirror_a))}).text)
    agent.start()
    until(lambda: agent.says("WouldChange"), what="the reason")
    assert config_toml.read_text() == LEGACY_TOML
    assert not (node.root / "etc/containerd/registry.d").exists()
    assert not (node.root / "var/lib/registry-agent").exists()
    assert not starts


def _pull(cri: Cri, image: Image, registry: Registry) -> None:
    """Pull by the name that only registry.d leads anywhere."""
    reference = f"registry.test/{image.name}"
    cri.pull(reference)
    assert registry.served(image)
    cri.remove(reference)


def test_an_agent_that_is_stopped_in_the_middle_of_a_restart_sees_it_through(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    """Its successor may not come up where containerd is not well. This is why the DaemonSet has no preStop hook."""
    run_with(node, starts, LEGACY_TOML)
    agent.publish(document({"registry.test": host(mirror(mirror_a))}).text)
    with drop_in(node, "x-slow", "ExecStartPre=/bin/sleep 3"):
        agent.start()
        until(lambda: len(starts) == 1, what="the restart")
        agent.stop()
    record = json.loads((node.root / "var/lib/registry-agent/containerd/record.json").read_text())
    assert record["under_way"] is None
    assert answers(node)
    assert len(starts) == 1
    assert "config_path" in config_toml.read_text()


def test_a_node_is_taken_back_by_hand(
    node: Node, agent: Daemon, starts: Starts, config_toml: Path, mirror_a: Registry
) -> None:
    """By `registry-agent release`; the agent has found out by itself which containerd this is."""
    run_with(node, starts, LEGACY_TOML)
    agent.version = "auto"
    agent.apply(document({"registry.test": host(mirror(mirror_a))}))
    until(lambda: agent.status()["containerd"]["version"] is not None, what="the version")
    version = agent.status()["containerd"]["version"]
    assert node.containerd.startswith(version)
    agent.stop()
    agent.forget_restarts()
    said = agent.release()
    assert said.endswith("released: the agent has nothing on this node\n")
    assert not (node.root / "etc/containerd/registry.d/registry.test").exists()
    is_one = node.containerd.startswith("1.")
    assert (config_toml.read_text() == LEGACY_TOML) is is_one
    assert len(starts) == (2 if is_one else 1)
    assert answers(node)
