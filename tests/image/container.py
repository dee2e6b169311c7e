"""The agent as kubelet starts it: a container of the image, by CRI, with what a DaemonSet may give it."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent import protobuf
from tests.node import pods
from tests.node.cri import field
from tests.node.daemon import REPOSITORY
from tests.node.node import Node
from tests.node.waiting import until

_POD = yaml.safe_load((REPOSITORY / "packaging/kubernetes/base/daemonset.yaml").read_text())["spec"]["template"]["spec"]
_CONTAINER = _POD["containers"][0]

CAPABILITIES: tuple[str, ...] = tuple(_CONTAINER["securityContext"]["capabilities"]["add"])
"""Each is needed: packaging/image/README.md says for what, and test_container.py tries without."""

_READ_ONLY = {mount["name"]: mount.get("readOnly", False) for mount in _CONTAINER["volumeMounts"]}
MOUNTS = {volume["hostPath"]["path"]: not _READ_ONLY[volume["name"]] for volume in _POD["volumes"]} | {
    "/etc/registry-agent": False  # here the desired config is a file, which needs no cluster
}
"""The node's directories below /host, and which of them are writable."""

LOGS = "/run/image-test"
GRACE_S = 10
EXITED = 2  # ContainerState.CONTAINER_EXITED

_TRUE = b"\x01"
_NAMESPACES = b"\x08\x02\x10\x01"  # NamespaceOption: network = NODE, pid = CONTAINER, as kubelet has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A running container, and how to ask the agent in it."""

    node: Node
    id: str
    port: int

    @property
    def proc(self) -> Path:
        """What the kernel tells of the agent's process, the one child of process 1."""
        (child,) = self._children()
        return self.node.root / "proc" / child

    def has_started(self) -> bool:
        """Tell whether Python has been started, which does not mean that it is through."""
        return any(b"python" in (self.node.root / "proc" / each / "cmdline").read_bytes() for each in self._children())

    @property
    def log(self) -> str:
        """What the agent has said."""
        return (self.node.root / LOGS.lstrip("/") / "agent.log").read_text()

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Ask where kubelet's probes ask; (0, {}) while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(json.loads(answer.read()))
        except OSError:
            return 0, {}
        finally:
            connection.close()

    def until_ready(self, version: str) -> None:
        """Return when this version is in place."""
        until(lambda: self.is_ready(version), what=f"{version} in place")

    def is_ready(self, version: str) -> bool:
        """Tell whether this version is in place."""
        status, _ = self.ask("/readyz")
        return status == http.HTTPStatus.OK and self.ask("/status")[1]["applied_version"] == version

    def reason(self) -> str:
        """Return why the agent is ready or is not; "" before its first pass."""
        return str(self.ask("/readyz")[1].get("reason", ""))

    def stop(self) -> int:
        """Send SIGTERM as kubelet does, and return the exit code; SIGKILL comes after GRACE_S."""
        self.node.cri.call("RuntimeService/StopContainer", field(1, self.id.encode()) + b"\x10" + bytes([GRACE_S]))
        (status,) = protobuf.every(self._status(), 1)
        assert protobuf.number(status, 3) == EXITED
        return protobuf.number(status, 7)

    def _children(self) -> list[str]:
        first = pods.pid(self.node, self.id)
        return (self.node.root / f"proc/{first}/task/{first}/children").read_text().split()

    def _status(self) -> bytes:
        return self.node.cri.call("RuntimeService/ContainerStatus", field(1, self.id.encode()))


@contextmanager
def running(
    node: Node, image: str, *, capabilities: tuple[str, ...] = CAPABILITIES, environment: Mapping[str, str]
) -> Iterator[Container]:
    """Run the image's own command in a pod on the node's network, from Python's first moment to the pod's removal."""
    port = _free_port()
    variables = {"REGISTRY_AGENT_HEALTH_LISTEN": f"127.0.0.1:{port}", **environment}
    security = field(2, field(1, _NAMESPACES))
    metadata = field(1, b"agent") + field(2, b"agent") + field(3, b"image-test")
    pod = field(1, metadata) + field(3, LOGS.encode()) + field(8, security)
    for path in (LOGS, *MOUNTS):
        (node.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    sandbox = node.cri.call_for_id("RuntimeService/RunPodSandbox", field(1, pod))
    try:
        request = field(1, sandbox.encode()) + field(2, _config(image, capabilities, variables)) + field(3, pod)
        created = node.cri.call_for_id("RuntimeService/CreateContainer", request)
        node.cri.call("RuntimeService/StartContainer", field(1, created.encode()))
        container = Container(node=node, id=created, port=port)
        until(container.has_started, what="Python")
        yield container
    finally:
        node.cri.call("RuntimeService/StopPodSandbox", field(1, sandbox.encode()))
        node.cri.call("RuntimeService/RemovePodSandbox", field(1, sandbox.encode()))
        (node.root / LOGS.lstrip("/") / "agent.log").unlink(missing_ok=True)


def _config(image: str, capabilities: tuple[str, ...], variables: Mapping[str, str]) -> bytes:
    """Encode a ContainerConfig."""
    config = field(1, field(1, b"agent")) + field(2, field(1, image.encode())) + field(11, b"agent.log")
    for name, value in variables.items():
        config += field(6, field(1, name.encode()) + field(2, value.encode()))
    for path, is_writable in MOUNTS.items():
        mount = field(1, f"/host{path}".encode()) + field(2, path.encode())
        config += field(7, mount + (b"" if is_writable else b"\x18" + _TRUE))
    return config + field(15, field(2, _security(capabilities)))


def _security(capabilities: tuple[str, ...]) -> bytes:
    """Encode a LinuxContainerSecurityContext: a read-only root, no new privileges, the runtime's seccomp profile."""
    allowed = b"".join(field(1, name.encode()) for name in capabilities)
    is_limited = b"\x38" + _TRUE + b"\x58" + _TRUE  # readonly_rootfs, no_new_privs
    return field(1, allowed + field(2, b"ALL")) + field(3, _NAMESPACES) + is_limited + field(15, b"\x08\x00")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
