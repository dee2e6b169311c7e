"""What both acts need: a folder that stands for a node's /, the agent on it, and words on the screen."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
PATIENCE_S = 20.0
WIDTH = 118

Status = dict[str, Any]


class Node:
    """A folder, and on it the very command that runs on nodes."""

    def __init__(self, root: Path, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        """Give `flags` and `environment` to the agent."""
        self.root = root
        self.registry_d = root / "etc/containerd/registry.d"
        self._flags = flags
        self._environment = environment or {}
        self._agent: subprocess.Popen[bytes] | None = None

    def clear(self) -> None:
        """Begin with nothing."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)

    def start(self) -> None:
        """Start the agent. Its log goes to stderr as it is."""
        variables = "".join(f"{name}={value} " for name, value in self._environment.items())
        say(f"$ {variables}registry-agent run {' '.join(self._flags)} --root {self.root.relative_to(CHECKOUT)} &")
        # What is set around this demo must not decide about it: settings, or the pod that it may run in.
        own = {key: text for key, text in os.environ.items() if not key.startswith(("REGISTRY_AGENT_", "KUBERNETES_"))}
        command = [sys.executable, "-m", "agent", "run", *self._flags, "--root", str(self.root), "--health-listen", ""]
        self._agent = subprocess.Popen(command, cwd=CHECKOUT, env={**own, **self._environment})  # noqa: S603 -- ours

    def stop(self) -> int:
        """End the agent as systemd and kubelet do; returns its exit code."""
        if self._agent is None:
            return 0
        self._agent.send_signal(signal.SIGTERM)
        return self._agent.wait(timeout=PATIENCE_S)

    def ask(self, path: str) -> tuple[int, Status]:
        """GET from the agent's unix socket; raises OSError while it does not listen."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            # A unix socket's path may have only 107 bytes; a relative one is short wherever this checkout is.
            connection.sock.connect(os.path.relpath(self.root / "run/registry-agent/agent.sock"))
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def wait_for(self, condition: Callable[[Status], bool]) -> Status:
        """Ask the agent until it says so."""
        return until(self._status, lambda status: "last_pass" in status and condition(status))

    def _status(self) -> Status:
        return self.ask("/status")[1]

    def show_files(self) -> None:
        """Print the tree and one hosts.toml with its secret masked."""
        for path in sorted(self.registry_d.rglob("*")):
            mode = oct(path.stat().st_mode & 0o777)
            say(f"  {mode}  {path.relative_to(self.root)}{'/' if path.is_dir() else ''}")
        for path in sorted(self.registry_d.glob("*/hosts.toml"))[:1]:
            say(f"\n  {path.relative_to(self.root)}:")
            for line in path.read_text().splitlines():
                shown = line.partition("Basic ")
                masked = 'Basic ***"]' if shown[1] else ""
                say(f"  | {shown[0]}{masked}")

    def show_readiness(self) -> None:
        """Print what a readiness probe gets."""
        code, body = self.ask("/readyz")
        say(f"\n  GET /readyz -> {code} {body['reason']}: {body['message']}")
        desired = body["desired"]
        if desired["origin"]:
            say(f"  desired config: {desired['origin']}, last known to be so {desired['age_s']:.0f} s ago")


def until(get: Callable[[], Status], condition: Callable[[Status], bool]) -> Status:
    """Look again and again until it is so; ends the demo when it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = get()
            if condition(found):
                return found
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)
    raise SystemExit("the demo did not get there; see the agent's log above")


def version_of(document: Path) -> str:
    """Return the version that a document carries."""
    return next(line.split()[1] for line in document.read_text().splitlines() if line.startswith("version:"))


def title(text: str) -> None:
    """Print a heading."""
    say(f"\n{text}")


def say(text: str, *, indent: str = "") -> None:
    """Print a text, wrapped with an indent if one is given; in order with the agent's log."""
    print(textwrap.fill(text, WIDTH, subsequent_indent=indent) if indent else text, flush=True)
