"""The agent as a real process on a folder, and questions to its health endpoint."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import reader
from tests.support.nodes import Node
from tests.support.waiting import until

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "agent")
SOURCE = "etc/registry-agent/desired.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of the health endpoint."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        return dict(json.loads(self.body))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(5)
            self.sock.connect(f"/proc/self/fd/{descriptor}/{self._path.name}")
        finally:
            os.close(descriptor)


class Agent:
    """One root, on which the agent is started, asked, stopped and killed."""

    def __init__(self, root: Path) -> None:
        """`root` exists; the process is started by `start`."""
        self.root = root
        self.node = Node(root)
        self.source = root / SOURCE
        self.socket = root / "run/registry-agent/agent.sock"
        self.log_file = root / "agent.log"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "the agent was not started"
        return self._process

    @property
    def log(self) -> str:
        """Everything that the agent has written to stderr and stdout."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def start(self, *flags: str) -> None:
        """Start the process; does not wait for anything."""
        settings = ["--root", str(self.root), "--health-listen", "", "--absent-settle-s", "0.2"]
        command = [*COMMAND, "run", *settings, *(() if "--source" in flags else ("--source", "file")), *flags]
        self.starts += 1
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=log, stderr=log)

    def run(self, *flags: str) -> None:
        """Start the process and wait until its first pass has ended."""
        self.start(*flags)
        until(lambda: self._passes() > 0, what="the first pass")

    def want(self, document: bytes) -> None:
        """Replace the desired config as a careful writer does."""
        self.source.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.source.with_name("new")
        temporary.write_bytes(document)
        temporary.rename(self.source)

    def has(self, version: str, *, hosts: int = 1) -> bool:
        """Tell whether the hosts of ``configs.simple(version)`` are in place and whole."""
        names = [f"r{index}.test" for index in range(hosts)]
        try:
            is_there = all(reader.endpoints(self.root, name) == [f"https://{version}.test:5000"] for name in names)
            return is_there and not reader.problems(self.root, names) and sorted(names) == reader.state(self.root)
        except (OSError, ValueError):  # seen while somebody drifts it
            return False

    def until_has(self, version: str, *, hosts: int = 1, timeout_s: float = 8.0) -> float:
        """Wait until a version is in place; return how many seconds it took."""
        return until(
            lambda: self.has(version, hosts=hosts), what=f"version {version}; log:\n{self.log}", timeout_s=timeout_s
        )

    def until_idle(self) -> int:
        """Wait until the agent has no more to do; return the number of its last pass."""
        seen = [-1]

        def is_idle() -> bool:
            before, seen[0] = seen[0], self._passes()
            time.sleep(0.25)  # longer than the hold between passes: idle is the absence of an event
            return before == seen[0] == self._passes()

        until(is_idle, what="no more passes")
        return seen[0]

    def ask(self, path: str, method: str = "GET") -> Answer:
        """Ask the health endpoint on the unix socket."""
        return ask(_UnixConnection(self.socket), path, method)

    def end(self, number: int = signal.SIGTERM, *, timeout_s: float = 5.0) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=timeout_s)

    def _passes(self) -> int:
        assert self.process.poll() is None, f"the agent has ended:\n{self.log}"
        try:
            return int(self.ask("/status").json.get("last_pass", {}).get("number", 0))
        except OSError:
            return 0


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET") -> Answer:
    """Ask once and close."""
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return Answer(status=answer.status, body=answer.read(), headers=dict(answer.getheaders()))


@contextlib.contextmanager
def agent_on(root: Path) -> Iterator[Agent]:
    """Yield an agent that is not running any more when the test ends, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    agent = Agent(root)
    try:
        yield agent
    finally:
        if agent._process is not None and agent._process.poll() is None:
            agent._process.kill()
            agent._process.wait()


def environment() -> dict[str, str]:
    """Return an environment without settings of the agent in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_AGENT_")}
