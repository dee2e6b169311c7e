"""A cluster's controller that walks a node through a whole switch by nothing but the Secret, under pulls without end.

It waits for what a real one waits for: the node's label, and the version in its annotation. A step ends when so many
images that began after it were pulled, each of them served by the one registry that the step is about: containerd
falls back in silence, so only the registries' access logs tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.legacy import CUSTOM, DEFAULT, LABEL
from agent.node_status import CONDITION, VERSION_ANNOTATION
from agent.report import UNKNOWN_VERSION
from tests.node.accounts import PULLER, Account
from tests.node.desired import document, host, mirror
from tests.node.pulling import FreshPuller
from tests.node.registry import Registry
from tests.support.kube import Served

NODE = "w0"
PLATFORM = "registry.d8-system.svc:5001"
ROTATED = Account(username="robot", password="rotated")
PULLS = 4
REPORT_S = 45.0

Hosts = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstreams:
    """Three doors to the same images; only their logs tell which one was used."""

    old: Registry
    """What the node knows from before: with a private CA, and a password."""
    first: Registry
    """The upstream of mode Direct."""
    second: Registry
    """The upstream that takes its place."""
    stop_first: Callable[[], None]


class Controller:
    """The cluster's side: one Secret, and what the Node says."""

    def __init__(self, api: Served) -> None:
        """Nothing is published."""
        self.api = api
        self.version = UNKNOWN_VERSION

    def put(self, hosts: Hosts, mode: str = "Direct") -> None:
        """Publish a config."""
        wanted = document(hosts, mode=mode)
        self.version = wanted.version
        self.api.do(lambda double: double.cluster.put_secret(wanted.text.encode()))

    def delete(self) -> None:
        """Delete the Secret."""
        self.version = UNKNOWN_VERSION
        self.api.do(lambda double: double.cluster.delete_secret())

    def wait(self, label: str = DEFAULT) -> None:
        """Return once the Node says that what is published is applied."""
        self.until(lambda: self.label == label and self.is_applied)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Return once the Node says something."""
        self.api.wait(self.api.double.until(is_so, timeout_s=REPORT_S), timeout_s=REPORT_S + 5)

    @property
    def is_applied(self) -> bool:
        """Whether the Node bears the published version."""
        return bool(self._node["metadata"]["annotations"].get(VERSION_ANNOTATION) == self.version)

    @property
    def label(self) -> object:
        """What the Node's label says about legacy configuration."""
        return self._node["metadata"]["labels"].get(LABEL)

    @property
    def reason(self) -> object:
        """The reason in the Node's condition."""
        return {each["type"]: each.get("reason") for each in self._node["status"]["conditions"]}.get(CONDITION)

    @property
    def _node(self) -> Any:
        return self.api.double.cluster.node(NODE)


class Walk:
    """The steps, in the order of the methods; each leaves the node at rest, with proof of who serves it."""

    def __init__(self, controller: Controller, puller: FreshPuller, upstreams: Upstreams) -> None:
        """Begin with nothing published."""
        self.controller = controller
        self.puller = puller
        self.upstreams = upstreams

    def begin(self) -> None:
        """No Secret, and legacy configuration in a drop-in, which keeps containerd from registry.d."""
        self.controller.wait(CUSTOM)
        self.pulls_old()

    def be_blocked(self) -> None:
        """The Secret is there; the node prepares, says why it waits, and goes on as before."""
        self.controller.put(self._unmanaged, "Unmanaged")
        self.controller.until(lambda: self.controller.reason == "LegacyRegistryConfig")
        self.pulls_old()
        assert not self.controller.is_applied

    def switch(self, unblock: Callable[[], None]) -> None:
        """Somebody takes the drop-in away; the one announced restart."""
        with self.puller.announced():
            unblock()
            self.controller.wait()
        self.pulls_old()

    def enter(self) -> None:
        """Transition to Direct: the old name and the new one, side by side."""
        self._to({**self._unmanaged, PLATFORM: host(self._first)})
        up = self.upstreams
        self.pulls({up.old.address: up.old, PLATFORM: up.first})

    def be_direct(self) -> None:
        """The platform has switched to the new name; then the old one goes."""
        self.pulls_first()
        self.publish_direct()
        self.controller.wait()
        self.pulls_first()

    def add_upstream(self) -> None:
        """A new upstream: old and new mirror in one host, the old one first."""
        self._to({PLATFORM: host(self._first, mirror(self.upstreams.second))})
        self.pulls_first()

    def rotate(self) -> None:
        """New credentials: the registry takes both, then only the new ones."""
        first = self.upstreams.first
        first.admit(PULLER, ROTATED)
        self._to({PLATFORM: host(mirror(first, ROTATED), mirror(self.upstreams.second))})
        self.pulls_first()
        first.admit(ROTATED)
        self.pulls_first()

    def lose_first(self) -> None:
        """The first mirror ends, and the second one serves without a word of the cluster."""
        self.upstreams.stop_first()
        self.pulls_second()

    def drop_first(self) -> None:
        """The new upstream alone."""
        self.publish_without_first()
        self.controller.wait()
        self.pulls_second()

    def go_back(self) -> None:
        """Transition back to Unmanaged, and the config without the platform's name."""
        up = self.upstreams
        self._to({**self._unmanaged, PLATFORM: host(mirror(up.second))})
        self.pulls({up.old.address: up.old, PLATFORM: up.second})
        self.pulls_old()
        self._to(self._unmanaged, "Unmanaged")
        self.pulls_old()

    def end(self) -> None:
        """The Secret is deleted: back to legacy, with the other announced restart."""
        with self.puller.announced():
            self.controller.delete()
            self.controller.wait()
        self.pulls_old()

    def pulls(self, expected: Mapping[str, Registry]) -> None:
        """Let the node pull by these names, and each image come from this one registry."""
        self.puller.use(*expected)
        up = self.upstreams
        for pull in self.puller.seen(PULLS):
            served = [each.host for each in (up.old, up.first, up.second) if each.served(pull.image)]
            assert served == [expected[pull.name].host]

    def publish_direct(self) -> None:
        """The config of mode Direct."""
        self.controller.put({PLATFORM: host(self._first)})

    def publish_without_first(self) -> None:
        """The config with the new upstream only."""
        self.controller.put({PLATFORM: host(mirror(self.upstreams.second))})

    def pulls_old(self) -> None:
        """Let the old registry serve its own name."""
        self.pulls({self.upstreams.old.address: self.upstreams.old})

    def pulls_first(self) -> None:
        """Let the first upstream serve the platform's name."""
        self.pulls({PLATFORM: self.upstreams.first})

    def pulls_second(self) -> None:
        """Let the second upstream serve the platform's name."""
        self.pulls({PLATFORM: self.upstreams.second})

    def _to(self, hosts: Hosts, mode: str = "Direct") -> None:
        self.controller.put(hosts, mode)
        self.controller.wait()

    @property
    def _unmanaged(self) -> Hosts:
        return {self.upstreams.old.address: host(mirror(self.upstreams.old))}

    @property
    def _first(self) -> dict[str, object]:
        return mirror(self.upstreams.first)
