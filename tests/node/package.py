"""The agent as its Debian package installs it: under its unit, on one node."""

import subprocess
from pathlib import Path

from tests.apidouble.server import ApiDouble
from tests.node.daemon import REPOSITORY, Daemon
from tests.node.desired import document, host, mirror
from tests.node.node import Node
from tests.node.registry import Registry

UNIT = "registry-agent.service"
DROP_INS = f"etc/systemd/system/{UNIT}.d"
SETTINGS = "/etc/registry-agent/config.toml"
KUBECONFIG = "etc/kubernetes/kubelet.conf"
#: What a test cannot wait for is made short. The nodes share one network, so nobody listens there.
QUICK = """\
[Service]
Environment=REGISTRY_AGENT_HEALTH_LISTEN=
WatchdogSec=2
RestartSec=100ms
TimeoutAbortSec=1
"""


class Package:
    """The package and its unit on one node."""

    def __init__(self, node: Node, path: Path) -> None:
        """Nothing is installed yet."""
        self._node = node
        self._path = path
        self.agent = Daemon(node)

    def install(self, path: Path | None = None) -> None:
        """Install or upgrade, without any network."""
        (self._node.root / "root/agent.deb").write_bytes((path or self._path).read_bytes())
        self._node.run("unshare", "--net", "dpkg", "--install", "/root/agent.deb")

    def drop_in(self, name: str, content: str) -> None:
        """Change the unit as an administrator does."""
        path = self._node.root / DROP_INS / f"{name}.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self._node.run("systemctl", "daemon-reload")

    def apply(self, registry: Registry, **settings: str) -> None:
        """Configure the agent and start it anew; returns when the first pass is through."""
        self.configure(registry, **settings)
        self.restart()

    def restart(self) -> None:
        """Start the agent anew; returns when the first pass is through."""
        self._node.run("systemctl", "restart", UNIT)

    def configure(self, registry: Registry, **settings: str) -> None:
        """Write the settings and the desired config."""
        self.set(source="file", **settings)
        self.agent.publish(document({"registry.test": host(mirror(registry))}).text)

    def set(self, **settings: str) -> None:
        """Write the settings, for this node's containerd."""
        given = {"flavour": "stock", "containerd_version": self._node.containerd, **settings}
        lines = "".join(f'{name} = "{value}"\n' for name, value in given.items())
        (self._node.root / SETTINGS[1:]).write_text(lines)

    def join(self, double: ApiDouble, name: str) -> None:
        """Let the agent follow a cluster as the node `name`; returns when the first pass is through."""
        kubeconfig = self._node.root / KUBECONFIG
        kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        double.write_kubeconfig(kubeconfig)
        self.set(node_name=name, rollout_spread_s="0", absent_settle_s="0.5")
        self.restart()

    def shows(self, name: str) -> str:
        """Return a property of the unit."""
        return self._node.run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()

    def is_installed(self) -> bool:
        """Tell whether the program is there."""
        return (self._node.root / "usr/bin/registry-agent").exists()


def built() -> Path:
    """Return the package that `make deb` has built."""
    found = list((REPOSITORY / "dist").glob("registry-agent_*.deb"))
    assert len(found) == 1, "make deb has to be run before, and dist/ to hold its package only"
    return found[0]


def following(deb: Path, folder: Path) -> Path:
    """Make the same package with a higher version."""
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(folder / "root")], check=True)
    control = folder / "root/DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"{line}+next\n" if line.startswith("Version: ") else f"{line}\n" for line in lines))
    package = folder / "following.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--build", str(folder / "root"), str(package)], check=True)
    return package
