"""How the real process ends: on a signal, in the middle of its work, killed, or not at all."""

import itertools
import json
import os
import random
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import configs, folders, reader
from tests.support.agents import COMMAND, REPOSITORY, Agent, agent_on, environment
from tests.support.waiting import until

KILLS = 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_at_once(agent: Agent, number: signal.Signals) -> None:
    """Exit code 0 within seconds, the socket is gone, what was written stays, and no traceback is left."""
    agent.want(configs.simple("v1"))
    agent.run()
    assert agent.end(number) == 0
    assert not agent.socket.exists()
    assert agent.has("v1")
    assert "Traceback" not in agent.log


def test_a_signal_before_the_first_pass_is_heard(agent: Agent) -> None:
    """From the line "started" on, a signal is not lost."""
    agent.start()
    until(lambda: "started" in agent.log, what="the start")
    assert agent.end() == 0


@pytest.mark.timeout(60)
def test_a_signal_in_the_middle_of_a_large_apply(agent: Agent) -> None:
    """The pass ends between two operations: every hosts.toml is whole, and the next start finishes."""
    agent.want(configs.simple("v1", hosts=300))
    agent.start()
    until((agent.node.registry / "r100.test").exists, what="the first hosts")
    assert agent.end() == 0
    hosts = [path.name for path in agent.node.registry.iterdir() if path.is_dir()]
    assert 0 < len(hosts) < 300, "the signal came too late to prove anything"
    assert reader.problems(agent.root, hosts) == []
    assert "Traceback" not in agent.log
    agent.start()
    until(lambda: "ready (InPlace)" in agent.log, what="the second start", timeout_s=40)
    agent.until_has("v1", hosts=300)


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("mirrors", "after_s"), [(28, 0.0), (4, 0.5)], ids=["largest", "large"])
def test_a_signal_in_the_first_pass_of_a_large_document(agent: Agent, mirrors: int, after_s: float) -> None:
    """Seconds of computing are not waited for. 2 s are promised; busy machines that measure coverage get 8."""
    hosts = {f"r{number}": [configs.mirror(f"m{index}") for index in range(mirrors)] for number in range(1000)}
    agent.want(json.dumps(json.loads(configs.config(hosts)), separators=(",", ":")).encode())
    agent.start()
    until(lambda: "started" in agent.log, what="the start")
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(timeout=after_s)
    assert agent.end(timeout_s=8.0) == 0
    assert "Traceback" not in agent.log
    written = [path.name for path in agent.node.registry.glob("r*")]
    assert len(written) < len(hosts), "the signal came too late to prove anything"
    assert reader.problems(agent.root, written) == []
    agent.start()
    until(lambda: "ready (InPlace)" in agent.log, what="the second start", timeout_s=60)
    assert sorted(hosts) == reader.state(agent.root)
    assert len(hosts) * mirrors == sum(len(reader.endpoints(agent.root, host)) for host in hosts)


def test_a_fifo_as_source_does_not_hold_up_the_agent(agent: Agent) -> None:
    """Nobody will ever write into it: it is said to be no file, and a signal is heard as always."""
    agent.source.parent.mkdir(parents=True)
    os.mkfifo(agent.source)
    agent.run()
    answer = agent.ask("/readyz")
    assert (503, "SourceUnreadable") == (answer.status, answer.json["reason"])
    assert "is not a file" in answer.json["message"]
    assert agent.end(timeout_s=4.0) == 0


@pytest.mark.timeout(60)
def test_kills_at_any_moment_leave_whole_files(tmp_path: Path) -> None:
    """Killed 20 times while the source changes all the time: readers never find a broken file."""
    rng = random.Random(20)  # the moments are arbitrary, but the same for everybody
    versions = (f"v{number}" for number in itertools.count())
    with agent_on(tmp_path / "one") as one, agent_on(tmp_path / "two") as two:
        for _ in range(KILLS // 2):
            for agent in (one, two):  # a start takes most of the time, so two start side by side
                agent.want(configs.simple(next(versions), hosts=rng.choice((5, 20, 40))))
                agent.start()
            for agent in (one, two):
                _kill(agent, configs.simple(next(versions), hosts=rng.choice((5, 20, 40))), rng.uniform(0.0, 0.15))
        for agent in (one, two):
            agent.want(configs.simple("end", hosts=3))
            agent.run()
            agent.until_has("end", hosts=3)
            agent.until_idle()
            expected = sorted(["r0.test", "r1.test", "r2.test", reader.STATE_FILE])
            assert expected == sorted(path.name for path in agent.node.registry.iterdir())
            assert not list(agent.node.state_dir.rglob(".registry-agent-*"))


def _kill(agent: Agent, document: bytes, after_s: float) -> None:
    """Change the config of an agent that has started and kill it a moment later; check what a reader finds."""
    starts = agent.starts
    until(lambda: agent.log.count("started") == starts, what="the start")
    agent.want(document)
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(timeout=after_s)
    agent.process.kill()
    agent.process.wait()
    hosts = [path.name for path in agent.node.registry.glob("r*") if path.is_dir()]
    assert reader.problems(agent.root, hosts) == []


def test_a_second_agent_on_the_same_root_gives_up(agent: Agent) -> None:
    """It exits with code 2 and names the process that is in its way, which goes on undisturbed."""
    agent.want(configs.simple("v1"))
    agent.run()
    second = _run("--root", str(agent.root), "--health-listen", "")
    assert (2, True) == (second.returncode, f"pid {agent.process.pid}" in second.stderr)
    assert "Traceback" not in second.stderr
    assert agent.ask("/healthz").status == 200


def test_a_second_agent_with_another_run_directory_gives_up(agent: Agent) -> None:
    """The state directory has a lock too: two records of who owns what would contradict each other."""
    agent.want(configs.simple("v1"))
    agent.run()
    second = _run("--root", str(agent.root), "--health-listen", "", "--run-dir", "/run/other")
    assert (2, True) == (second.returncode, f"pid {agent.process.pid}" in second.stderr)
    assert "Traceback" not in second.stderr
    assert agent.ask("/healthz").status == 200


def test_an_observer_may_run_beside_the_agent(agent: Agent) -> None:
    """In mode observe with a run directory of its own it takes no lock that a managing agent needs."""
    agent.want(configs.simple("v1"))
    agent.run()
    with agent_on(agent.root) as observer:
        observer.socket = agent.root / "run/observer/agent.sock"
        observer.log_file = agent.root / "observer.log"
        observer.run("--mode", "observe", "--run-dir", "/run/observer")
        answers = [one.ask("/status").json for one in (agent, observer)]
        assert [("manage", "InPlace"), ("observe", "InPlace")] == [(one["mode"], one["reason"]) for one in answers]
        assert (0, 0) == (agent.end(), observer.end())


def test_a_killed_agent_does_not_block_the_next(agent: Agent) -> None:
    """Lock and socket of a dead process are no obstacle."""
    agent.want(configs.simple("v1"))
    agent.run()
    agent.process.kill()
    agent.process.wait()
    assert agent.socket.exists()
    agent.run()
    assert agent.ask("/readyz").status == 200


def test_the_lock_is_no_symlink_trap(agent: Agent, tmp_path: Path) -> None:
    """A symlink planted for the lock is not written through."""
    target = tmp_path / "victim"
    target.write_text("precious")
    agent.socket.parent.mkdir(parents=True)
    (agent.socket.parent / "agent.lock").symlink_to(target)
    ended = _run("--root", str(agent.root), "--health-listen", "")
    assert (1, "precious") == (ended.returncode, target.read_text())
    assert "agent.lock" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said_clearly(agent: Agent) -> None:
    """The agent ends with a message that names the address and the setting, and leaves no socket behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = _run("--root", str(agent.root), "--health-listen", address)
    assert (1, True, True) == (ended.returncode, address in ended.stderr, "health_listen" in ended.stderr)
    assert "Traceback" not in ended.stderr
    assert not agent.socket.exists()


def test_a_root_that_does_not_exist_is_said_clearly(tmp_path: Path) -> None:
    """No root is made up: a typing error must not look like a fresh node."""
    ended = _run("--root", str(tmp_path / "none"), "--health-listen", "")
    assert (1, True) == (ended.returncode, str(tmp_path / "none") in ended.stderr)
    assert not (tmp_path / "none").exists()


def test_a_deep_root_is_no_trouble(tmp_path: Path) -> None:
    """A unix socket's path may have 107 bytes; the agent and `status` work below longer ones."""
    root = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    root.mkdir(parents=True)
    agent = Agent(root)
    agent.want(configs.simple("v1"))
    agent.run()
    try:
        assert len(os.fsencode(agent.socket)) > 107
        command = [*COMMAND, "status", "--root", str(root)]
        asked = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
        assert (0, "node       ready (InPlace)") == (asked.returncode, asked.stdout.splitlines()[0])
    finally:
        assert agent.end() == 0


def test_observe_needs_only_its_run_directory(agent: Agent) -> None:
    """The real process in mode observe, with drift and a new config, writes nothing below /etc and /var."""
    agent.want(configs.simple("v1"))
    agent.run()
    agent.until_has("v1")
    assert agent.end() == 0
    agent.want(configs.simple("v2"))
    before = [folders.identities(agent.root / name) for name in ("etc", "var")]
    agent.run("--mode", "observe")
    assert agent.ask("/readyz").json["reason"] == "WouldChange"
    agent.until_idle()
    assert agent.end() == 0
    assert before == [folders.identities(agent.root / name) for name in ("etc", "var")]


def test_the_socket_is_for_root_only(agent: Agent) -> None:
    """Mode 0600; the run directory holds the socket and the lock and nothing else."""
    agent.run()
    assert stat.S_IMODE(agent.socket.stat().st_mode) == 0o600
    assert sorted(path.name for path in agent.socket.parent.iterdir()) == ["agent.lock", "agent.sock"]


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "run", *flags]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=8, check=False
    )
