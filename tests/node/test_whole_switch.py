"""The whole switch of a node, from legacy to Direct and back, while it never stops pulling new images.

No pull may fail, but for those that are under way when containerd is restarted: that is announced, when the Secret
first appears, and for containerd 1 when it is deleted. The same image is then tried again as a kubelet does, and must
come. Each step of the walk is proved by the registries' access logs, see `walking`.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.node import images, registry
from tests.node import starts as starts_of
from tests.node.accounts import PULLER
from tests.node.conftest import NAMES
from tests.node.images import Image
from tests.node.node import Machine, Node
from tests.node.package import QUICK, Package
from tests.node.pulling import FreshPuller
from tests.node.registry import Registry
from tests.node.roots import Root
from tests.node.starts import Starts, drop_in
from tests.node.unswitched import Unswitched
from tests.node.waiting import until
from tests.node.walking import NODE, Controller, Upstreams, Walk
from tests.support.kube import Served, served

_numbers = itertools.count(1)

#: A start of containerd waits for ever, unless the node was booted meanwhile.
HOLD = """\
[Service]
ExecStartPre=-/bin/sh -c 'echo >>/run/containerd-starts; test ! -e /run/hold || read x </run/hold'
TimeoutStartSec=infinity
"""

Fresh = Callable[[], Image]

pytestmark = [pytest.mark.timeout(120, func_only=True)]


@pytest.fixture
def api() -> Iterator[Served]:
    """Serve a cluster with one Node."""
    with served(tls=True) as api:
        api.do(lambda double: double.cluster.add_node(NODE))
        yield api


@pytest.fixture
def upstreams(mirror_a: Registry, private_ca: trustme.CA, tmp_path: Path) -> Iterator[Upstreams]:
    """Run two more registries with the images of `mirror_a`."""
    with ExitStack() as first, ExitStack() as second:
        b = registry.serving("mirror-b.test", tmp_path / "first", private_ca, account=PULLER, behind=mirror_a)
        c = registry.serving("mirror-c.test", tmp_path / "second", private_ca, account=PULLER, behind=mirror_a)
        yield Upstreams(
            old=mirror_a, first=first.enter_context(b), second=second.enter_context(c), stop_first=first.close
        )


@pytest.fixture
def fresh(mirror_a: Registry, tmp_path: Path) -> Iterator[Fresh]:
    """Return a function that makes a new image and stores it where all upstreams find it."""
    with registry.serving("plain.test", tmp_path / "door", None, behind=mirror_a) as door:

        def make() -> Image:
            number = next(_numbers)
            image = images.write(tmp_path / f"fresh-{number}", repository=f"system/deckhouse/fresh-{number}")
            images.upload(image, door.port)
            return image

        yield make


@pytest.fixture
def unswitched(node: Node, config_toml: Path, upstreams: Upstreams) -> Iterator[Unswitched]:
    """Let the node be as before its first Secret."""
    assert config_toml.exists()
    unswitched = Unswitched(node, upstreams.old)
    unswitched.lay_out()
    yield unswitched
    node.run("rm", "-rf", "/etc/containerd/conf2.d", "/etc/kubernetes")


@pytest.fixture
def walk(
    node: Node,
    api: Served,
    package: Package,
    *,
    unswitched: Unswitched,
    upstreams: Upstreams,
    fresh: Fresh,
) -> Iterator[Walk]:
    """Pull, and let the installed agent follow the cluster."""
    assert unswitched.is_back()
    with FreshPuller(node, fresh) as puller:
        package.join(api.double, NODE)
        yield Walk(Controller(api), puller, upstreams)
        assert puller.failures == []


def test_a_walk_from_legacy_to_direct_and_back_fails_no_pull(
    node: Node, walk: Walk, package: Package, unswitched: Unswitched, *, starts: Starts, measured: list[str]
) -> None:
    """containerd is restarted once when it may be switched, as it has read the drop-in; back, only on 1.x."""
    began = time.monotonic()
    starts.forget()
    walk.begin()
    walk.be_blocked()
    assert unswitched.is_kept()
    assert not starts
    walk.switch(unswitched.unblock)
    assert len(starts) == 1
    walk.enter()
    walk.be_direct()
    walk.add_upstream()
    walk.rotate()
    walk.lose_first()
    walk.drop_first()
    walk.go_back()
    assert len(starts) == 1
    package.agent.forget_restarts()
    walk.end()
    assert len(starts) == 1 + unswitched.restarts_back
    assert unswitched.is_back()
    walked = f"{walk.puller.told()} in a walk of {time.monotonic() - began:.0f} s"
    measured.append(f"{node.containerd}: {walked}; {len(starts)} restarts")


@pytest.mark.only("bookworm")
def test_a_walk_under_an_api_that_is_away_in_the_middle_fails_no_pull(
    walk: Walk, api: Served, package: Package, unswitched: Unswitched, *, starts: Starts
) -> None:
    """Away when containerd has to be restarted, so nobody may; and for long, in which a mirror and the agent end.

    What the cluster has written meanwhile comes as soon as the API is back.
    """
    starts.forget()
    walk.begin()
    walk.be_blocked()
    api.down()
    unswitched.unblock()
    until(lambda: package.agent.says("ApiUnreachable"), what="the switch wants to go on")
    walk.pulls_old()
    assert not starts
    walk.switch(api.up)
    walk.enter()
    walk.be_direct()
    walk.add_upstream()
    api.down()
    walk.pulls_first()
    walk.lose_first()
    package.restart()
    walk.pulls_second()
    walk.publish_without_first()
    walk.pulls_second()
    assert not walk.controller.is_applied
    api.up()
    walk.controller.wait()
    walk.pulls_second()
    walk.go_back()
    package.agent.forget_restarts()
    walk.end()
    assert len(starts) == 2


@pytest.mark.only("trixie")
def test_an_upgrade_of_the_agent_in_the_middle_fails_no_pull(
    node: Node, walk: Walk, package: Package, unswitched: Unswitched, *, following: Path, starts: Starts
) -> None:
    """While containerd comes up again, which takes a while here."""

    def upgrade() -> None:
        unswitched.unblock()
        until(lambda: len(starts) == 1, what="containerd is started")
        package.install(following)

    walk.begin()
    walk.be_blocked()
    starts.forget()
    with drop_in(node, "x-slow", "ExecStartPre=/bin/sleep 1"):
        walk.switch(upgrade)
    walk.enter()
    walk.be_direct()
    assert len(starts) == 1


@pytest.mark.only("trixie", "sid")
@pytest.mark.timeout(180, func_only=True)
def test_a_reboot_and_a_power_cut_in_the_middle_fail_no_pull(
    root: Root, public_ca: trustme.CA, api: Served, deb: Path, upstreams: Upstreams, *, fresh: Fresh, tmp_path: Path
) -> None:
    """The node goes down while containerd is restarted for the switch, and again while a config is taken.

    A node that is down pulls nothing: failures count from when containerd's socket is back. The boot is the restart.
    """
    trusted = public_ca.cert_pem.bytes()
    with ExitStack() as stack:
        name = f"ra-reboot-{os.getpid()}"
        machine = stack.enter_context(Machine(root, tmp_path / "node", name=name, names=NAMES, trusted=trusted))
        package, unswitched = Package(machine.node, deb), Unswitched(machine.node, upstreams.old)
        package.drop_in("quick", QUICK)
        package.install()
        unswitched.lay_out()
        puller = stack.enter_context(FreshPuller(machine.node, fresh))
        package.join(api.double, NODE)
        walk = Walk(Controller(api), puller, upstreams)
        walk.begin()
        walk.be_blocked()
        walk.switch(lambda: _reboot_in_a_restart(machine, unswitched, puller))
        assert _starts(machine) == 1
        walk.enter()
        walk.pulls_first()
        walk.publish_direct()
        with puller.announced():
            machine.cut_power()
            puller.move(machine.node)
        walk.controller.wait()
        walk.pulls_first()
        assert _starts(machine) == 1
        assert puller.failures == []


def _reboot_in_a_restart(machine: Machine, unswitched: Unswitched, puller: FreshPuller) -> None:
    """Reboot while containerd starts with registry.d."""
    node = machine.node
    folder = node.root / starts_of.DROP_INS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hold.conf").write_text(HOLD)
    node.run("systemctl", "daemon-reload")
    node.run("mkfifo", "/run/hold")
    unswitched.unblock()
    until((node.root / starts_of.WITNESS).exists, what="containerd is started")
    machine.reboot()
    puller.move(machine.node)


def _starts(machine: Machine) -> int:
    """Count the starts of containerd since the last boot, and with it."""
    return (machine.node.root / starts_of.WITNESS).read_text().count("\n")
