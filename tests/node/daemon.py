"""The agent as a user runs it: a process, a desired.yaml, and what its socket answers."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.node.desired import Document
from tests.node.node import Node
from tests.node.waiting import until

REPOSITORY = Path(__file__).parents[2]
STOP_S = 15.0
WORK_S = 30.0


class Daemon:
    """The agent of one node."""

    def __init__(self, node: Node) -> None:
        """Prepare, but start nothing: the first `apply` does."""
        self.flags: tuple[str, ...] = ("--absent-settle-s", "0.5")
        self.program: tuple[str, ...] = ("agent",)
        self.source: tuple[str, ...] = ("--source", "file")
        #: What the agent is told; "auto" lets it find out.
        self.version = node.containerd
        self._node = node
        self._desired = node.root / "etc/registry-agent/desired.yaml"
        self._socket = node.root / "run/registry-agent/agent.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def apply(self, document: Document) -> None:
        """Publish the document and return when the agent says that it is fully applied."""
        self.publish(document.text)
        self.start()
        until(lambda: self.has_applied(document.version), what=f"the agent applies {document.version}")

    def publish(self, text: str) -> None:
        """Replace desired.yaml as an editor would: whole."""
        self._desired.parent.mkdir(parents=True, exist_ok=True)
        draft = self._desired.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self._desired)

    def withdraw(self) -> None:
        """Delete desired.yaml."""
        self._desired.unlink()

    def start(self) -> None:
        """Start the agent unless it runs."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", *self.program, "run", "--root", str(self._node.root)]
        command += [*self.source, "--flavour", "stock", "--containerd-version", self.version]
        command += ["--health-listen", "", *self.flags]
        # What it writes goes where the test's own output goes: pytest shows it with a failure.
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)

    def release(self) -> str:
        """Take the node back by hand, and return what that prints."""
        command = [sys.executable, "-m", "agent", "release", "--root", str(self._node.root)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def stop(self) -> None:
        """Ask the agent to end, and see that it does so cleanly."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None
        assert code == 0, f"the agent ended with {code}"

    def kill(self) -> None:
        """End the agent as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_for_death(self) -> None:
        """Return when the agent was killed by itself."""
        assert self._process is not None, "the agent runs"
        code = self._process.wait(WORK_S)
        self._process = None
        assert code == -signal.SIGKILL, f"the agent ended with {code}"

    def forget_restarts(self) -> None:
        """Let the restarts that the agent remembers be long ago, for its budget; it must be idle."""
        path = self._node.root / "var/lib/registry-agent/containerd/record.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "restarts": []}))

    def says(self, reason: str) -> bool:
        """Tell whether /status gives this reason, for the node or for containerd."""
        try:
            status = self.status()
        except OSError:  # not listening yet
            return False
        if "errors" not in status:  # before the first pass has ended
            return False
        reasons = {error["reason"] for error in status["errors"]}
        return reason in {status["reason"], status["containerd"]["reason"], *reasons}

    def is_ready(self) -> bool:
        """Tell what /readyz says."""
        return self._get("/readyz")[0] == http.HTTPStatus.OK

    def status(self) -> dict[str, Any]:
        """Return what /status says."""
        answer: dict[str, Any] = json.loads(self._get("/status")[1])
        return answer

    def has_applied(self, version: str) -> bool:
        """Tell whether all of this version is in place; RuntimeError when the agent has ended."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the agent does not run")
        try:
            return self.is_ready() and self.status()["applied_version"] == version
        except OSError:  # not listening yet
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        """Ask the agent's unix socket."""
        connection = http.client.HTTPConnection("localhost", timeout=5.0)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(5.0)
            stream.connect(str(self._socket))
            connection.sock = stream
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextmanager
def new_on(node: Node) -> Iterator[Daemon]:
    """Yield an agent that has never run on this node; afterwards none has."""
    daemon = Daemon(node)
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()
        node.run("rm", "-rf", "/etc/containerd/registry.d", "/etc/registry-agent")
        node.run("rm", "-rf", "/var/lib/registry-agent", "/run/registry-agent")
