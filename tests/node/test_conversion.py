"""A node with legacy configuration pulls, and after its conversion pulls the same from the same registries."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from tests.node.accounts import PULLER
from tests.node.cri import PullFailed
from tests.node.daemon import REPOSITORY
from tests.node.images import Image
from tests.node.node import CONFIG_TOML, Node
from tests.node.registry import Registry
from tests.node.waiting import until
from tests.support.conversions import SCHEMA_2, toml

# Booting nodes and building roots have limits of their own.
pytestmark = pytest.mark.timeout(180, func_only=True)

Stocked = Callable[..., Image]
Section = dict[str, dict[str, dict[str, object]]]
PLATFORM = "registry.d8-system.svc:5001"
CERTIFICATES = "etc/containerd/legacy"
#: What a registry was asked: path, the registry that was meant, status.
Asked = dict[str, set[tuple[str, str, int]]]


class Switched:
    """A node whose containerd is configured in one way and then in another."""

    def __init__(self, node: Node) -> None:
        """Remember what there was."""
        self.node = node
        self._config = node.root / "etc/containerd/config.toml"
        self._registry = node.root / "etc/containerd/registry.d"
        self._trusted = node.root / "etc/ssl/certs/ca-certificates.crt"
        self._before = (self._config.read_text(), self._trusted.read_text())

    @property
    def release(self) -> tuple[int, ...]:
        """The containerd version in a form that compares."""
        return tuple(int(part) for part in self.node.containerd.split("."))

    def legacy(self, registry: Section, trusted: Registry) -> None:
        """Configure registries in config.toml; containerd 2 reads no `tls` there, so the node has to trust."""
        if self.release >= (2,):
            self._trusted.write_text(self._before[1] + trusted.ca)
        self.restart(f"version = 2\n{toml(registry)}")

    def converted(self, out: Path) -> str:
        """Convert what is there, put it in place, and return what was said."""
        command = [sys.executable, "-m", "agent", "legacy", "--root", str(self.node.root), "--convert", str(out)]
        command += ["--flavour", "stock", "--containerd-version", self.node.containerd]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        shutil.copytree(out, self._registry)
        self.node.run("rm", "-rf", f"/{CERTIFICATES}")
        self._trusted.write_text(self._before[1])
        self.restart(CONFIG_TOML)
        return done.stderr

    def restart(self, text: str) -> None:
        """Start containerd with another config.toml."""
        self._config.write_text(text)
        self.node.run("systemctl", "reset-failed", "containerd.service")  # systemd counts restarts
        self.node.run("systemctl", "restart", "containerd.service")
        until(self._answers, what="containerd answers again")

    def restore(self) -> None:
        """Leave the node as it was."""
        self.node.run("rm", "-rf", "/etc/containerd/registry.d", f"/{CERTIFICATES}")
        self._trusted.write_text(self._before[1])
        self.restart(self._before[0])

    def keep(self, name: str, pem: bytes | str) -> str:
        """Write a certificate file and return its path as the node sees it."""
        path = self.node.root / CERTIFICATES / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pem if isinstance(pem, bytes) else pem.encode())
        return f"/{CERTIFICATES}/{name}"

    def _answers(self) -> bool:
        try:
            self.node.cri.version()
        except grpc.RpcError:
            return False
        return True


@pytest.fixture
def switched(node: Node) -> Iterator[Switched]:
    """Return the node, and leave it as it was."""
    found = Switched(node)
    yield found
    found.restore()


def pull(node: Node, reference: str, image: Image, registries: tuple[Registry, ...]) -> Asked:
    """Pull, remove, and return what each registry was asked about the manifest, credentials apart."""
    marks = [len(registry.requests(image)) for registry in registries]
    node.cri.pull(reference)
    node.cri.remove(reference)
    news = [registry.requests(image)[mark:] for registry, mark in zip(registries, marks, strict=True)]
    return {
        registry.host: {(r.path, r.namespace, r.status) for r in new if r.path.endswith("/v1") and r.status != 401}
        for registry, new in zip(registries, news, strict=True)
    }


def test_a_converted_node_pulls_the_same_from_the_same_registries(
    *,
    switched: Switched,
    mirror_a: Registry,
    mirror_b: Registry,
    plain: Registry,
    clients: Registry,
    upstream: Registry,
    down: Registry,
    private_ca: trustme.CA,
    stocked: Stocked,
    tmp_path: Path,
) -> None:
    """Order, credentials, CA, client certificate, path, plain HTTP, no verification, `*`, and hosts without mirrors."""
    account = {"username": PULLER.username, "password": PULLER.password}
    mine = private_ca.issue_cert("node.test")
    ca = switched.keep("ca.crt", mirror_a.ca)
    client = {
        "ca_file": ca,
        "cert_file": switched.keep("client.crt", mine.cert_chain_pems[0].bytes()),
        "key_file": switched.keep("client.key", mine.private_key_pem.bytes()),
    }
    registry: Section = {
        "mirrors": {
            "registry.test": {"endpoint": [f"https://{mirror_a.address}", mirror_b.address]},
            PLATFORM: {"endpoint": [f"https://{mirror_a.address}/v2/proxy/"]},
            "tokens.test": {"endpoint": [f"http://{plain.address}"]},
            "bearer.test": {"endpoint": [f"https://{down.address}", f"https://{clients.address}"]},
            "*": {"endpoint": [f"https://{mirror_b.address}"]},
        },
        "configs": {
            mirror_a.address: {"auth": account, "tls": {"ca_file": ca}},
            mirror_b.address: {"auth": {"auth": PULLER.basic.split()[1]}, "tls": {"insecure_skip_verify": True}},
            plain.address: {"auth": account},
            clients.address: {"tls": client},
        },
    }
    only_a, only_b, path = stocked(mirror_a), stocked(mirror_b), stocked(mirror_a, under="proxy/team")
    public = stocked(upstream)
    pulls: tuple[tuple[str, Image], ...] = (
        (f"registry.test/{only_b.name}", only_b),
        (f"{PLATFORM}/{path.name.removeprefix('proxy/')}", path),
        (f"tokens.test/{only_a.name}", only_a),
        (f"bearer.test/{only_a.name}", only_a),
        (f"elsewhere.test/{only_b.name}", only_b),
        (mirror_a.reference(only_a), only_a),
        (upstream.reference(public), public),
    )
    if switched.release >= (2,):  # no `tls`, no client certificate
        pulls = tuple(each for each in pulls if not each[0].startswith("bearer.test"))
    registries = (mirror_a, mirror_b, plain, clients, upstream)
    switched.legacy(registry, mirror_a)
    before = {reference: pull(switched.node, reference, image, registries) for reference, image in pulls}
    said = switched.converted(tmp_path / "out")
    after = {reference: pull(switched.node, reference, image, registries) for reference, image in pulls}
    assert before == after
    assert said.count("becomes a header") == (3 if switched.release < (2, 1) else 0)
    assert said.count("is not read by containerd 2.0.0") == (3 if switched.release >= (2,) else 0)
    assert len(said.splitlines()) == 3
    # The comparison is worth something: each was served where it should be, and by nobody else.
    served = {
        reference.partition("/")[0]: [host for host, asked in found.items() if any(each[2] == 200 for each in asked)]
        for reference, found in before.items()
    }
    assert served.pop("bearer.test", ["clients.test"]) == ["clients.test"]
    assert served == {
        "registry.test": ["mirror-b.test"],
        PLATFORM: ["mirror-a.test"],
        "tokens.test": ["plain.test"],
        "elsewhere.test": ["mirror-b.test"],
        mirror_a.address: ["mirror-a.test"],
        upstream.address: ["upstream.test"],
    }


def test_an_endpoint_of_a_slash_is_asked_without_v2(
    switched: Switched, mirror_a: Registry, stocked: Stocked, tmp_path: Path
) -> None:
    """The legacy pitfall, kept by the conversion and named in its warning; the next endpoint serves."""
    image = stocked(mirror_a)
    settings: dict[str, object] = {
        "auth": {"username": PULLER.username, "password": PULLER.password},
        "tls": {"ca_file": switched.keep("ca.crt", mirror_a.ca)},
    }
    endpoints = [f"https://{mirror_a.address}/", f"https://{mirror_a.address}"]
    registry: Section = {
        "mirrors": {"registry.test": {"endpoint": endpoints}},
        "configs": {mirror_a.address: settings},
    }
    switched.legacy(registry, mirror_a)
    for round_ in (1, 2):
        asked = pull(switched.node, f"registry.test/{image.name}", image, (mirror_a,))
        assert {status for *_, status in asked["mirror-a.test"]} == {200}
        log = (mirror_a.folder / "access.log").read_text()
        assert log.count(f'"HEAD /{image.repository}/manifests/{image.tag}?') == round_
        if round_ == 1:
            assert "number 1 ends in a slash" in switched.converted(tmp_path / "out")


def test_credentials_for_a_token_server_stay_in_config_toml_before_containerd_2_1(
    switched: Switched, bearer: Registry, stocked: Stocked, tmp_path: Path
) -> None:
    """As the warning says: before, the header does not reach the token server, and `configs` still does."""
    image = stocked(bearer)
    reference = f"registry.test/{image.name}"
    account: dict[str, object] = {"username": PULLER.username, "password": PULLER.password}
    settings: dict[str, object] = {"auth": account, "tls": {"ca_file": switched.keep("ca.crt", bearer.ca)}}
    registry: Section = {
        "mirrors": {"registry.test": {"endpoint": [f"https://{bearer.address}"]}},
        "configs": {bearer.address: settings},
    }
    switched.legacy(registry, bearer)
    before = pull(switched.node, reference, image, (bearer,))
    said = switched.converted(tmp_path / "out")
    if switched.release < (2, 1):
        assert "if the registry has one, keep it, beside config_path" in said
        with pytest.raises(PullFailed, match="failed to fetch anonymous token"):
            switched.node.cri.pull(reference)
        beside = toml({"configs": {bearer.address: {"auth": account}}}).removeprefix(f"[{SCHEMA_2}]\n")
        switched.restart(f"{CONFIG_TOML}{beside}")
    assert before == pull(switched.node, reference, image, (bearer,))
    assert {status for *_, status in before["bearer.test"]} == {200}
