"""A test node: a pristine root under an overlay, booted by systemd-nspawn."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.node.cri import Cri
from tests.node.roots import Root

BOOT_S = 60.0
STOP_S = 45.0

CONFIG_TOML = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/registry.d"
"""

# The mounts live in a namespace of the node's own, so that they go with its last process,
# however that ends. /var/lib/containerd cannot be an overlay: it holds overlays itself. The last two
# options let the node run containers.
BOOT = """\
mount -t overlay node -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
exec systemd-nspawn --quiet --boot --directory="$2/merged" --machine="$3" \\
  --register=no --keep-unit --notify-ready=yes --console=pipe --resolv-conf=off \\
  --tmpfs=/var/lib/containerd --capability=all --system-call-filter="@keyring bpf"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running node, seen from outside as a DaemonSet's pod sees it through hostPath mounts."""

    leader: int
    containerd: str
    cri: Cri

    @property
    def root(self) -> Path:
        """The node's own view of its files, tmpfs and sockets included."""
        return Path(f"/proc/{self.leader}/root")

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.root / "run/containerd/containerd.sock"

    def run(self, *command: str) -> str:
        """Run a command inside the node and return what it prints."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-p", "--"]
        return subprocess.run([*enter, *command], check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def booted(root: Root, folder: Path, *, name: str, names: Sequence[str], trusted: bytes) -> Iterator[Node]:
    """Boot a node which resolves `names` to this machine and trusts the CA `trusted`."""
    _lay_out(root, folder, names=names, trusted=trusted)
    with _running(root, folder, name=name) as node:
        yield node


class Machine:
    """A node that can be booted again: its disk stays as it is, but for /var/lib/containerd, which lies in memory."""

    def __init__(self, root: Root, folder: Path, *, name: str, names: Sequence[str], trusted: bytes) -> None:
        """Like `booted`; entering the context boots it."""
        _lay_out(root, folder, names=names, trusted=trusted)
        self._root, self._folder, self._name = root, folder, name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._boot()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reboot(self) -> None:
        """Shut down in order and boot; `node` is another one then."""
        self._stack.close()
        self._boot()

    def cut_power(self) -> None:
        """End everything at once and boot; `node` is another one then."""
        os.kill(self.node.leader, signal.SIGKILL)
        self.reboot()

    def _boot(self) -> None:
        self.node = self._stack.enter_context(_running(self._root, self._folder, name=self._name))


@contextmanager
def _running(root: Root, folder: Path, *, name: str) -> Iterator[Node]:
    with ExitStack() as stack:
        with _ready_socket(folder / "notify") as ready:
            stack.enter_context(_machine(root, folder, name=name))
            leader = _leader(ready, folder / "console.log")
        # Nobody reads there any more: a full queue would block the node's systemd (from 257 on).
        (folder / "notify").unlink()
        cri = Cri(Path(f"/proc/{leader}/root/run/containerd/containerd.sock"))
        stack.enter_context(closing(cri))
        yield Node(leader=leader, containerd=root.containerd, cri=cri)


def _lay_out(root: Root, folder: Path, *, names: Sequence[str], trusted: bytes) -> None:
    """Put what differs from the pristine root where the overlay will look first."""
    upper = folder / "upper"
    bundle = "etc/ssl/certs/ca-certificates.crt"
    files = {
        "etc/hosts": f"127.0.0.1 localhost {' '.join(names)}\n".encode(),
        "etc/resolv.conf": b"",
        "etc/containerd/config.toml": CONFIG_TOML.encode(),
        bundle: (root.path / bundle).read_bytes() + trusted,
    }
    for path, content in files.items():
        (upper / path).parent.mkdir(parents=True, exist_ok=True)
        (upper / path).write_bytes(content)
    (folder / "merged").mkdir()


@contextmanager
def _ready_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.settimeout(BOOT_S)
        ready.bind(str(path))
        yield ready


@contextmanager
def _machine(root: Root, folder: Path, *, name: str) -> Iterator[None]:
    """Boot the machine and power it off in the end."""
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(folder / "notify"),
        # systemd from 257 on no longer boots on the hybrid hierarchy that nspawn would offer.
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }
    (folder / "work").mkdir()
    command = ["unshare", "--mount", "sh", "-euc", BOOT, "sh", str(root.path), str(folder), name]
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # The second one ends the machine at once; killed, nspawn would leave it running.
            process.terminate()
            process.wait(STOP_S)
            raise
        finally:
            shutil.rmtree(folder / "work")


def _leader(ready: socket.socket, console: Path) -> int:
    """Return the pid of the node's own init once that says that it is up."""
    said: dict[str, str] = {}
    try:
        while said.get("READY") != "1":
            words = ready.recv(4096).decode().splitlines()
            said |= {key: value for key, _, value in (word.partition("=") for word in words)}
    except TimeoutError as error:
        raise RuntimeError(f"no boot in {BOOT_S:g} s:\n{console.read_text()[-4000:]}") from error
    return int(said["X_NSPAWN_LEADER_PID"])
