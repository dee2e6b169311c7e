"""A node as it is before its first Secret, for each generation of containerd, with a drop-in that is in the way."""

import json

from tests.node.accounts import PULLER
from tests.node.node import Node
from tests.node.registry import Registry
from tests.node.starts import CONFIG, answers, restart
from tests.node.waiting import until

CRI = 'plugins."io.containerd.grpc.v1.cri"'
CA = "/etc/ssl/old-registry.crt"
REGISTRY_D = "etc/containerd/registry.d"


class Unswitched:
    """What stands in containerd's own files."""

    def __init__(self, node: Node, old: Registry) -> None:
        """Write nothing yet."""
        self._node = node
        self._old = old
        self._is_v1 = node.containerd.startswith("1.")
        self._folder = "etc/containerd/conf.d" if self._is_v1 else "etc/containerd/conf2.d"

    @property
    def restarts_back(self) -> int:
        """How often containerd has to be restarted to come back here from registry.d; it is once to go there."""
        return 1 if self._is_v1 else 0

    def lay_out(self) -> None:
        """Write the files and let containerd run with them."""
        for path, content in self._files().items():
            (self._node.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self._node.root / path).write_text(content)
        restart(self._node)
        until(lambda: answers(self._node), what="containerd")

    def unblock(self) -> None:
        """Take the drop-in away."""
        (self._node.root / self._drop_in).unlink()

    def is_kept(self) -> bool:
        """Tell whether config.toml is what it was."""
        return (self._node.root / CONFIG).read_text() == self._files()[CONFIG]

    def is_back(self) -> bool:
        """Tell whether the files are what they were, the drop-in apart."""
        files = {path: content for path, content in self._files().items() if not path.startswith(self._folder)}
        return all((self._node.root / path).read_text() == content for path, content in files.items())

    def _files(self) -> dict[str, str]:
        return {CA[1:]: self._old.ca, **(self._of_v1() if self._is_v1 else self._of_v2())}

    def _of_v1(self) -> dict[str, str]:
        """Address, password and CA in config.toml; a drop-in replaces all of its CRI section, so it says the same."""
        section = (
            f'[{CRI}.registry.configs."{self._old.address}".auth]\n'
            f"  username = {json.dumps(PULLER.username)}\n"
            f"  password = {json.dumps(PULLER.password)}\n"
            f'[{CRI}.registry.configs."{self._old.address}".tls]\n'
            f'  ca_file = "{CA}"\n'
        )
        return {CONFIG: f"{self._head}{section}", self._drop_in: f"version = 2\n{section}"}

    def _of_v2(self) -> dict[str, str]:
        """registry.d from the start, and a directory of somebody else in it; a password in a drop-in."""
        url = f'host."https://{self._old.address}"'
        hosts_toml = (
            f'[{url}]\n  capabilities = ["pull", "resolve"]\n  ca = "{CA}"\n'
            f"[{url}.header]\n  Authorization = [{json.dumps(PULLER.basic)}]\n"
        )
        return {
            CONFIG: f'{self._head}[{CRI}.registry]\n  config_path = "/{REGISTRY_D}"\n',
            f"{REGISTRY_D}/{self._old.address}/hosts.toml": hosts_toml,
            self._drop_in: f'version = 2\n[{CRI}.registry.configs."legacy.test".auth]\n  username = "u"\n',
        }

    @property
    def _head(self) -> str:
        return f'version = 2\nimports = ["/{self._folder}/*.toml"]\n'

    @property
    def _drop_in(self) -> str:
        return f"{self._folder}/registry.toml"
