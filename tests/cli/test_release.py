"""`registry-agent release`: a node goes back to what it was, by hand."""

from pathlib import Path

from agent.disk.node import exclusive
from agent.settings import Settings
from tests.cli.conftest import Command
from tests.support import configs, folders
from tests.support.agents import agent_on


def test_a_node_gets_back_what_it_had(command: Command, tmp_path: Path) -> None:
    """What the agent wrote is gone, a directory that it had taken over is what it was."""
    theirs = tmp_path / "etc/containerd/registry.d/r0.test"
    theirs.mkdir(parents=True)
    (theirs / "hosts.toml").write_text('server = "https://theirs.test"\n')
    before = folders.read(tmp_path / "etc/containerd")
    with agent_on(tmp_path) as agent:
        agent.want(configs.simple("v1", hosts=2))
        agent.run()
        agent.until_idle()
    assert "v1.test" in (theirs / "hosts.toml").read_text()
    ended = command("release", "--root", tmp_path)
    assert (0, "") == (ended.code, ended.err)
    assert "registry.d/r1.test/hosts.toml released\n" in ended.out
    assert ended.out.endswith("released: the agent has nothing on this node\n")
    (tmp_path / "etc/containerd/registry.d/deckhouse_hosts_state.json").unlink()
    assert before == folders.read(tmp_path / "etc/containerd")
    again = command("release", "--root", tmp_path)
    assert (0, "released: the agent has nothing on this node\n") == (again.code, again.out)


def test_a_running_agent_is_not_worked_against(command: Command, tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    with exclusive(tmp_path, (settings.run_dir,)):
        ended = command("release", "--root", tmp_path)
    assert ended.code == 2
    assert "already works on" in ended.err


def test_a_node_that_somebody_else_manages_is_left_alone(command: Command, tmp_path: Path) -> None:
    """It is said who that is."""
    with agent_on(tmp_path) as agent:
        agent.want(configs.simple("v1"))
        agent.run()
        agent.until_idle()
    (tmp_path / "var/lib/rancher/k3s/agent/etc/containerd").mkdir(parents=True)
    (tmp_path / "var/lib/rancher/k3s/agent/etc/containerd/config.toml").touch()
    ended = command("release", "--root", tmp_path)
    assert ended.code == 1
    assert "k3s manages its containerd" in ended.out
    assert (tmp_path / "etc/containerd/registry.d/r0.test/hosts.toml").exists()
