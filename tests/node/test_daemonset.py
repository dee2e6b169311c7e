"""The agent with exactly what the DaemonSet gives it: these mounts, these capabilities, a read-only root.

In a mount namespace of its own, as a container has one, on a node that is a folder.
"""

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import configs, systemd_double
from tests.support.agents import REPOSITORY, Agent, environment
from tests.support.foreign import configured, shape
from tests.support.waiting import until

DAEMONSET = yaml.safe_load((REPOSITORY / "packaging/kubernetes/base/daemonset.yaml").read_text())
POD: dict[str, Any] = DAEMONSET["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
CAPABILITIES = tuple(CONTAINER["securityContext"]["capabilities"]["add"])


class Pod(Agent):
    """The agent in a sandbox; `root` is the node."""

    def __init__(self, root: Path, capabilities: tuple[str, ...] = CAPABILITIES) -> None:
        super().__init__(root)
        self.capabilities = capabilities
        self._host = root.with_name("pod") / "host"
        self.source = root / "etc/containerd/desired.yaml"
        for volume in POD["volumes"]:
            path = volume["hostPath"]["path"].lstrip("/")
            (root / path).mkdir(parents=True, exist_ok=True)
            (self._host / path).mkdir(parents=True)

    def command(self, *command: str) -> tuple[str, ...]:
        """Return a command line that runs a command as in the container."""
        allowed = "".join(f",+{name.lower()}" for name in self.capabilities)
        limits = ("--no-new-privs", f"--bounding-set=-all{allowed}", "--inh-caps=-all", "--ambient-caps=-all")
        inside = ("setpriv", *limits, "--regid=0", "--clear-groups", "--", *command)
        script = " && ".join((*self._mounts(), "mount -o remount,bind,ro /", f"exec {shlex.join(inside)}"))
        return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)

    def start(self, *flags: str) -> None:
        settings = ("--root", str(self._host), "--health-listen", "", "--absent-settle-s", "0.2")
        source = ("--source", "file", "--source-file", "/etc/containerd/desired.yaml")
        command = self.command(sys.executable, "-m", "agent", "run", *settings, *source, *flags)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=log, stderr=log)

    def python(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Run a script in the sandbox; its first argument is where it finds the node's root."""
        command = self.command(sys.executable, "-c", script, str(self._host), *arguments)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def _mounts(self) -> Iterator[str]:
        volumes = {volume["name"]: volume["hostPath"]["path"] for volume in POD["volumes"]}
        for mount in CONTAINER["volumeMounts"]:
            path = volumes[mount["name"]].lstrip("/")
            target = shlex.quote(str(self._host / path))
            yield f"mount --bind {shlex.quote(str(self.root / path))} {target}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {target}"


def stop(pod: Pod) -> None:
    """End what still runs."""
    if pod._process is not None and pod._process.poll() is None:
        pod._process.kill()
        pod._process.wait()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return a node on which somebody has configured r0.test in a directory of their own."""
    root = tmp_path / "node"
    configured(root)
    return root


def take_over_and_give_back(pod: Pod) -> str:
    """Let an agent manage r0.test, repair it, and release it; return the reason that it ends with."""
    pod.want(configs.simple("v1"))
    try:
        pod.run()
        if not pod.has("v1"):
            return str(pod.ask("/readyz").json["reason"])
        (pod.node.registry / "r0.test/hosts.toml").unlink()
        pod.until_has("v1")
        pod.source.unlink()
        until(lambda: pod.ask("/readyz").json["reason"] in {"NotConfigured", "DiskFailed"}, what="the release")
        reason = str(pod.ask("/readyz").json["reason"])
        assert 0 == pod.end()
        return reason
    finally:
        stop(pod)


def test_the_agent_lives_on_what_the_daemonset_gives_it(node: Path) -> None:
    """A foreign directory is taken over, repaired after damage, and given back as it was, owner and mode included."""
    before = shape(node / "etc/containerd/registry.d/r0.test")
    pod = Pod(node)
    assert "NotConfigured" == take_over_and_give_back(pod), pod.log
    assert before == shape(node / "etc/containerd/registry.d/r0.test")
    assert "Traceback" not in pod.log


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_none_of_the_capabilities_is_spare(node: Path, capability: str) -> None:
    """Without any one of them the same fails, or what is given back is not what it was."""
    before = shape(node / "etc/containerd/registry.d/r0.test")
    reason = take_over_and_give_back(Pod(node, tuple(name for name in CAPABILITIES if name != capability)))
    assert reason == "DiskFailed" or before != shape(node / "etc/containerd/registry.d/r0.test")


_CONNECT = """
import socket, sys
for line in sys.stdin:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1] + "/run/containerd/containerd.sock")
    print(client.recv(100).decode(), flush=True)
"""


def test_a_containerd_that_was_restarted_is_found_again(node: Path) -> None:
    """Its socket is another one then. The directory is mounted, read-only at that, and has the new one."""
    pod = Pod(node)
    path = node / "run/containerd/containerd.sock"
    with pod.python(_CONNECT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for start in ("first", "second"):
            path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                descriptor = os.open(path.parent, os.O_RDONLY)
                listener.bind(f"/proc/self/fd/{descriptor}/{path.name}")
                os.close(descriptor)
                path.chmod(0o660)
                listener.listen()
                client.stdin.write("go\n")
                client.stdin.flush()
                accepted, _ = listener.accept()
                with accepted:
                    accepted.sendall(start.encode())
                    accepted.shutdown(socket.SHUT_WR)
                    assert f"{start}\n" == client.stdout.readline()
        client.stdin.close()
    assert 0 == client.returncode


_ASK = """
import asyncio, pathlib, sys
from agent.systemd import Systemd
async def main():
    async with Systemd(pathlib.Path(sys.argv[1], "run/dbus/bus")) as systemd:
        print((await systemd.unit("containerd.service")).active_state)
asyncio.run(main())
"""


async def test_the_nodes_systemd_answers_the_agent(node: Path) -> None:
    """A bus takes it for root, which it is, without any capability for that."""
    pod = Pod(node, ())
    folder = node / "run/dbus"
    async with systemd_double.private_bus(folder) as bus, systemd_double.serving(bus):
        asked = pod.python(_ASK)
        out, err = await asyncio.to_thread(asked.communicate, timeout=8)
    assert ("active\n", "") == (out, err)


def test_nothing_is_written_beside_the_mounts(node: Path) -> None:
    """The sandbox keeps what it promises: read-only is read-only, and what is not mounted is not there."""
    (node / "etc/shadow").write_text("x")
    script = """
import pathlib, sys
host = pathlib.Path(sys.argv[1])
for path in ("run/containerd/x", "run/dbus/x", "x", "../x"):
    try:
        (host / path).touch()
    except OSError as err:
        print(path, err.errno)
print((host / "etc/shadow").exists(), (host / "etc/containerd/registry.d/r0.test").exists())
"""
    with Pod(node).python(script) as ran:
        out, err = ran.communicate(timeout=8)
    assert ("run/containerd/x 30\nrun/dbus/x 30\nx 30\n../x 30\nFalse True\n", "") == (out, err)
