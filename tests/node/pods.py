"""Containers as the kubelet starts them, from an image that is made of the node's own /bin/sleep."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.node.cri import field
from tests.node.node import Node

PAUSE = "pause.test/pause:v1"

CONFIG_TOML = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "/usr/local/bin/runc-without-shares"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/registry.d"
"""
"""A node's config.toml with which pods run; containerd must be restarted after it was put there."""

# A test node may have no cpu controller, and a sandbox always asks for CPU shares.
_RUNC = """\
#!/bin/sh
for word; do
  case $previous in --bundle) sed -i 's/"shares":[0-9]*/"shares":0/' "$word/config.json" ;; esac
  previous=$word
done
exec runc "$@"
"""

_PROGRAM = ("/bin/sleep", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2")
_IMAGE = "application/vnd.oci.image"
_ON_NODE_NETWORK = b"\x08\x02"  # NamespaceOption.network = NODE: the test nodes have no CNI


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A running pod with one container, by the runtime's ids, and the container's pid on the node."""

    sandbox: str
    container: str
    pid: int


def prepare(node: Node) -> None:
    """Put on the node what pods need beside the config; its containerd must run."""
    runc = node.root / "usr/local/bin/runc-without-shares"
    runc.write_text(_RUNC)
    runc.chmod(0o755)
    (node.root / "run/pause.tar").write_bytes(_archive(node.root))
    node.run("ctr", "--namespace", "k8s.io", "images", "import", "/run/pause.tar")


def start(node: Node, name: str) -> Pod:
    """Run a pod whose container sleeps for ever."""
    security = field(2, field(1, _ON_NODE_NETWORK))
    metadata = field(1, name.encode()) + field(2, name.encode()) + field(3, b"test")
    sandbox_config = field(1, metadata) + field(8, security)
    sandbox = node.cri.call_for_id("RuntimeService/RunPodSandbox", field(1, sandbox_config))
    config = field(1, field(1, name.encode())) + field(2, field(1, PAUSE.encode()))
    request = field(1, sandbox.encode()) + field(2, config) + field(3, sandbox_config)
    container = node.cri.call_for_id("RuntimeService/CreateContainer", request)
    node.cri.call("RuntimeService/StartContainer", field(1, container.encode()))
    return Pod(sandbox=sandbox, container=container, pid=pid(node, container))


def pid(node: Node, container: str) -> int:
    """Return the pid of a container's process on the node; LookupError when it does not run."""
    tasks = node.run("ctr", "--namespace", "k8s.io", "tasks", "list").splitlines()
    words = (line.split() for line in tasks)
    found = [int(word[1]) for word in words if word[0] == container and word[2] == "RUNNING"]
    if not found:
        raise LookupError(f"no running task of {container}")
    return found[0]


def stop_container(node: Node, pod: Pod) -> None:
    """Kill a pod's container; the pod stays."""
    node.cri.call("RuntimeService/StopContainer", field(1, pod.container.encode()))


def remove(node: Node, pod: Pod) -> None:
    """Stop and remove a pod with its container."""
    node.cri.call("RuntimeService/StopPodSandbox", field(1, pod.sandbox.encode()))
    node.cri.call("RuntimeService/RemovePodSandbox", field(1, pod.sandbox.encode()))


def _archive(root: Path) -> bytes:
    """Return an OCI layout as a tar, with one image of one layer."""
    layer = _tar({name: _on_node(root, name).read_bytes() for name in _PROGRAM})
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/bin/sleep", "infinity"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE}.manifest.v1+json",
            "config": _descriptor(config, f"{_IMAGE}.config.v1+json"),
            "layers": [_descriptor(layer, f"{_IMAGE}.layer.v1.tar")],
        }
    )
    entry = _descriptor(manifest, f"{_IMAGE}.manifest.v1+json") | {"annotations": {"io.containerd.image.name": PAUSE}}
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
    }
    blobs = {f"blobs/{_digest(blob).replace(':', '/')}": blob for blob in (layer, config, manifest)}
    return _tar(files | blobs)


def _on_node(root: Path, name: str) -> Path:
    """Return a node's file as we see it: we must not follow an absolute symlink of its own."""
    path = root / name.lstrip("/")
    if path.is_symlink() and path.readlink().is_absolute():
        return root / path.readlink().relative_to("/")
    return path


def _descriptor(blob: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()
