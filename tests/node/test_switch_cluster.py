"""The switch as a cluster has it: a Secret, reports on the Node, and a Lease for which nodes compete."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.legacy import LABEL
from agent.node_status import VERSION_ANNOTATION
from tests.apidouble.cluster import MERGE_PATCH, Change
from tests.apidouble.server import ApiDouble
from tests.node.config_tomls import LEGACY_TOML, POINTS_AT_US
from tests.node.daemon import Daemon, new_on
from tests.node.desired import Document, document, host, mirror
from tests.node.node import Node
from tests.node.registry import Registry
from tests.node.starts import CONTAINERD, Starts, answers, run_with, witnessed
from tests.node.waiting import until
from tests.support.kube import Served, served

pytestmark = [pytest.mark.timeout(90, func_only=True), pytest.mark.usefixtures("config_toml")]

ONE = pytest.mark.only("trixie")
NODE, NEIGHBOUR = "w0", "w1"
LEASE = "registry-agent-restart-0"
NAMESPACE = "d8-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A node that is in the cluster."""

    name: str
    node: Node
    agent: Daemon
    starts: Starts

    def outage(self) -> tuple[datetime, datetime]:
        """Return when containerd went down last, and when it was up again."""
        show = ("systemctl", "show", CONTAINERD, "--timestamp=us+utc", "--value", "--property")
        down, up = (self.node.run(*show, f"Active{edge}Timestamp") for edge in ("Exit", "Enter"))
        return _moment(down), _moment(up)


@pytest.fixture
def api() -> Iterator[Served]:
    """Serve a cluster with two Nodes."""
    with served(tls=True) as api:
        api.do(lambda double: double.cluster.add_node(NODE))
        api.do(lambda double: double.cluster.add_node(NEIGHBOUR))
        yield api


@pytest.fixture
def site(node: Node, agent: Daemon, starts: Starts, api: Served) -> Iterator[Site]:
    """Return the node with legacy configuration."""
    with _joined(Site(name=NODE, node=node, agent=agent, starts=starts), api) as site:
        yield site


@pytest.fixture
def other(neighbour: Node, api: Served) -> Iterator[Site]:
    """Return another node with legacy configuration."""
    with (
        new_on(neighbour) as agent,
        witnessed(neighbour) as starts,
        _joined(Site(name=NEIGHBOUR, node=neighbour, agent=agent, starts=starts), api) as site,
    ):
        yield site


@pytest.fixture
def wanted(mirror_a: Registry) -> Document:
    return document({"registry.test": host(mirror(mirror_a))})


def test_a_secret_that_is_deleted_brings_the_node_back_to_legacy_and_it_says_unknown(
    site: Site, config_toml: Path, api: Served, wanted: Document
) -> None:
    """One more restart and the same bytes on containerd 1; on 2 config_path stays, and there is none."""
    api.do(lambda double: double.cluster.put_secret(wanted.text.encode()))
    site.agent.start()
    until(lambda: _shown(api) == ("default", wanted.version), what="the version on the Node")
    switched = config_toml.read_text()
    assert POINTS_AT_US in switched
    assert len(site.starts) == 1
    site.agent.forget_restarts()
    api.do(lambda double: double.cluster.delete_secret())
    until(lambda: _shown(api) == ("default", "unknown"), what="the Node says unknown")
    is_one = site.node.containerd.startswith("1.")
    assert config_toml.read_text() == (LEGACY_TOML if is_one else switched)
    assert len(site.starts) == (2 if is_one else 1)
    assert answers(site.node)
    until(lambda: not _lease(api)["holderIdentity"], what="the Lease is given back")


@ONE
def test_nodes_that_wait_for_the_same_lease_restart_one_after_the_other(
    site: Site, other: Site, api: Served, wanted: Document
) -> None:
    """It belongs to one that is gone; both see it expire at the same time."""
    spec = {"holderIdentity": "gone", "leaseDurationSeconds": 3600}
    api.do(lambda double: double.cluster.create("leases", {"metadata": {"name": LEASE}, "spec": spec}, NAMESPACE))
    api.do(lambda double: double.cluster.put_secret(wanted.text.encode()))
    for each in (site, other):
        each.agent.start()
    _until_waiting(site, other)
    assert not site.starts
    assert not other.starts
    _expire(api)
    _until_switched(wanted, site, other)
    _check_turns(api, site, other)


@ONE
def test_a_node_whose_agent_dies_with_the_lease_is_passed_and_waits_for_its_next_turn(
    site: Site, other: Site, api: Served, wanted: Document
) -> None:
    """The Lease says itself when its holder counts as dead; the test cuts that short."""
    api.do(lambda double: double.cluster.put_secret(wanted.text.encode()))
    site.agent.program = ("tests.node.dying", "before 1 restart")
    site.agent.start()
    site.agent.wait_for_death()
    assert _lease(api)["holderIdentity"] == site.name
    other.agent.start()
    _until_waiting(other)
    assert not other.starts
    _expire(api)
    until(lambda: len(other.starts) == 1, what="the other one restarts")
    site.agent.program = ("agent",)
    site.agent.start()
    _until_switched(wanted, site, other)
    _check_turns(api, other, site)


def _until_waiting(*sites: Site) -> None:
    until(lambda: all(site.agent.says("WaitingForApproval") for site in sites), what="the nodes wait")


def _until_switched(wanted: Document, *sites: Site) -> None:
    until(lambda: all(site.agent.has_applied(wanted.version) for site in sites), what="the nodes are switched")


def _check_turns(api: Served, *sites: Site) -> None:
    """Each has restarted once, and only while the Lease was its own."""
    turns = _turns(api)
    for site in sites:
        assert len(site.starts) == 1
        assert answers(site.node)
        taken, given = turns[site.name]
        down, up = site.outage()
        assert taken < down < up < given


def _turns(api: Served) -> dict[str, tuple[datetime, datetime]]:
    """Return from when to when each had the Lease the last time; it can be only one's at any time."""
    specs = [change.stored.copy()["spec"] for change in api.do(_history)]
    return {
        spec["holderIdentity"]: (_moment(spec["acquireTime"]), _moment(following["renewTime"]))
        for spec, following in itertools.pairwise(specs)
        if spec["holderIdentity"] not in {"", "gone", following["holderIdentity"]}
    }


def _history(double: ApiDouble) -> list[Change]:
    watch = double.cluster.watch("leases", namespace=NAMESPACE, since=1)
    double.cluster.unwatch(watch)
    return [watch.queue.get_nowait() for _ in range(watch.queue.qsize())]


def _expire(api: Served) -> None:
    """Let the Lease be over in a second."""
    patch = {"spec": {"leaseDurationSeconds": 1}}
    api.do(lambda double: double.cluster.patch("leases", LEASE, patch, MERGE_PATCH, namespace=NAMESPACE))


def _lease(api: Served) -> dict[str, Any]:
    found = api.do(lambda double: double.cluster.lease(LEASE))
    assert found is not None
    return dict(found["spec"])


def _shown(api: Served) -> tuple[str | None, str | None]:
    """Return label and version on the Node."""
    metadata = api.do(lambda double: double.cluster.node(NODE))["metadata"]
    return metadata["labels"].get(LABEL), metadata.get("annotations", {}).get(VERSION_ANNOTATION)


def _moment(text: str) -> datetime:
    """Read the time of a Lease or of systemd."""
    if text.endswith("Z"):
        return datetime.fromisoformat(text)
    return datetime.strptime(text.strip(), "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC)


@contextmanager
def _joined(site: Site, api: Served) -> Iterator[Site]:
    """Give the node credentials; its containerd runs with legacy configuration."""
    run_with(site.node, site.starts, LEGACY_TOML)
    kubeconfig = site.node.root / "etc/kubernetes/kubelet.conf"
    kubeconfig.parent.mkdir()
    try:
        api.double.write_kubeconfig(kubeconfig)
        site.agent.source = ("--source", "kubernetes", "--node-name", site.name, "--rollout-spread-s", "0")
        yield site
        site.agent.stop()
    finally:
        shutil.rmtree(kubeconfig.parent)
