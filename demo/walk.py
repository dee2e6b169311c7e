"""Walks a real agent through a registry switch in a folder: no root, no cluster, no containerd.

The folder demo/node stands for a node's /. The agent under test is the very command that runs on
nodes; the walk edits its source file, as a person or a controller would, and shows what follows.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NODE = HERE / "node"
REGISTRY_D = NODE / "etc/containerd/registry.d"
SOURCE = NODE / "etc/registry-agent/desired.yaml"
PATIENCE_S = 15.0

Status = dict[str, Any]


def main() -> int:
    """Run the walk; 0 when every step came out as announced."""
    shutil.rmtree(NODE, ignore_errors=True)
    SOURCE.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "agent", "run", "--root", str(NODE), "--health-listen", ""]
    title(f"$ registry-agent run --root {NODE.relative_to(HERE.parent)}")
    agent = subprocess.Popen(command, cwd=HERE.parent)  # noqa: S603 -- our own command
    try:
        wait_for(lambda status: status["reason"] == "NotConfigured")
        walk()
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(timeout=PATIENCE_S)
    title("Done. The node's files are in demo/node; run the agent on them yourself:")
    print("  .venv/bin/registry-agent run --root demo/node &\n  .venv/bin/registry-agent status --root demo/node")
    return agent.returncode


def walk() -> None:
    """Unmanaged, transition, Direct, a broken config, drift."""
    title("1. Unmanaged: images come from the old registry; the node gets its credentials")
    show(apply("unmanaged"))
    title("2. Transition: old and new registry side by side, so that no pull can fail")
    show(apply("transition"))
    title("3. Direct: only the new registry; the old host's directory is gone")
    show(apply("direct"))
    title("4. A broken config is refused as a whole; the node keeps the last good one")
    put(HERE / "broken.yaml")
    show(wait_for(lambda status: status["reason"] == "ConfigInvalid"))
    apply("direct")
    title("5. Drift: somebody empties hosts.toml and deletes the CA; the agent puts both back")
    number = drift()
    show(wait_for(lambda status: status["last_pass"]["number"] > number and status["ready"] and is_whole()))


def apply(name: str) -> Status:
    """Put demo/NAME.yaml in place as the desired config and wait until the node is so."""
    document = HERE / f"{name}.yaml"
    version = next(line.split()[1] for line in document.read_text().splitlines() if line.startswith("version:"))
    put(document)
    return wait_for(lambda status: status["ready"] and status["applied_version"] == version)


def put(document: Path) -> None:
    """Replace the source file at once, as an editor does."""
    print(f"$ cp {document.relative_to(HERE.parent)} {SOURCE.relative_to(HERE.parent)}", flush=True)
    temporary = SOURCE.with_suffix(".new")
    shutil.copyfile(document, temporary)
    temporary.rename(SOURCE)


def drift() -> int:
    """Damage the managed files; returns the number of the last pass before."""
    number = int(ask("/status")[1]["last_pass"]["number"])
    for path in sorted(REGISTRY_D.glob("*/*")):
        print(f"$ {'rm' if path.suffix == '.crt' else 'truncate -s 0'} {path.relative_to(HERE.parent)}", flush=True)
        path.unlink() if path.suffix == ".crt" else path.write_bytes(b"")
    return number


def is_whole() -> bool:
    """Tell whether no managed file is missing or empty."""
    files = {path.suffix: path.stat().st_size for path in REGISTRY_D.glob("*/*")}
    return bool(files.get(".crt")) and bool(files.get(".toml"))


def show(status: Status) -> None:
    """Print the tree, one hosts.toml with its secret masked, and /readyz."""
    for path in sorted(REGISTRY_D.rglob("*")):
        mode = oct(path.stat().st_mode & 0o777)
        print(f"  {mode}  {path.relative_to(NODE)}{'/' if path.is_dir() else ''}")
    for path in sorted(REGISTRY_D.glob("*/hosts.toml"))[:1]:
        print(f"\n  {path.relative_to(NODE)}:")
        for line in path.read_text().splitlines():
            shown = line.partition("Basic ")
            masked = 'Basic ***"]' if shown[1] else ""
            print(f"  | {shown[0]}{masked}")
    code, body = ask("/readyz")
    print(f"\n  GET /readyz -> {code} {body['reason']}: {body['message']}", flush=True)
    if status["errors"]:
        print(f"  still in place: version {body['applied_version'][:12]}...", flush=True)


def wait_for(condition: Callable[[Status], bool]) -> Status:
    """Ask the agent until it says so."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            status = ask("/status")[1]
            if "last_pass" in status and condition(status):
                return status
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)
    raise SystemExit("the agent did not get there; see its log above")


def ask(path: str) -> tuple[int, Status]:
    """GET from the agent's unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    # A unix socket's path may have only 107 bytes; a relative one is short wherever this checkout is.
    connection.sock.connect(os.path.relpath(NODE / "run/registry-agent/agent.sock"))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
