"""Nodes that want to restart containerd, and Deckhouse, which approves restarts in its own way."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.approval import APPROVED, CHECKSUM, TTL_S, WAITING, Granted
from agent.errors import AgentError
from agent.kube.leases import LeaseApi, LeaseApproval
from agent.kube.watch import Timing
from tests.apidouble.cluster import MERGE_PATCH, Cluster
from tests.support.kube import FAST, Bell

NAMESPACE = "d8-system"
GROUP = "node.deckhouse.io/group"
PREFIX = "update.node.deckhouse.io/"


class Prompt(random.Random):
    """Chance for a node that never hesitates."""

    def random(self) -> float:
        return 0.0


class Rival:
    """One node that wants a Lease, with clocks of its own."""

    def __init__(
        self,
        api: LeaseApi,
        node: str,
        *,
        count: int = 1,
        ttl_s: int = TTL_S,
        skew: timedelta = timedelta(),
        timing: Timing = FAST,
        rng: random.Random | None = None,
    ) -> None:
        """`skew` is how wrong the node's idea of the date is."""
        self.node = node
        self.bell = Bell()
        self.passed_s = 0.0
        self.approval = LeaseApproval(
            api,
            node=node,
            uid=lambda: f"uid-{node}",
            namespace=NAMESPACE,
            count=count,
            on_change=self.bell.ring,
            now=lambda: datetime.now(UTC) + skew,
            monotonic=lambda: asyncio.get_running_loop().time() + self.passed_s,
            timing=timing,
            rng=rng or Prompt(),
            ttl_s=ttl_s,
        )

    def pass_time(self, seconds: float) -> None:
        """Let the node's monotonic clock go on."""
        self.passed_s += seconds

    async def is_granted(self) -> bool:
        """Ask."""
        return isinstance(await self.approval.ask(), Granted)

    async def granted(self) -> None:
        """Ask, and ask again whenever that makes sense or something failed, until it is granted."""
        while True:
            rings = self.bell.rings
            try:
                if await self.is_granted():
                    return
            except AgentError:
                await asyncio.sleep(1.0)
                continue
            await self.bell.until(lambda seen=rings: self.bell.rings > seen, timeout_s=1e9)  # type: ignore[misc]


class Deckhouse:
    """The hook and bashible of one NodeGroup, as contract.md section 4 tells; each acts when a test says so."""

    def __init__(self, cluster: Cluster, *, checksum: str, max_concurrent: int = 1) -> None:
        """`checksum` is the NodeGroup's."""
        self.cluster = cluster
        self.checksum = checksum
        self.max_concurrent = max_concurrent

    def annotations(self, node: str) -> dict[str, str]:
        """Return a Node's annotations of the protocol."""
        found = self.cluster.node(node)["metadata"].get("annotations", {})
        return {key: value for key, value in found.items() if key == CHECKSUM or key.startswith(PREFIX)}

    def run_hook(self) -> None:
        """Clear the approvals of nodes that are up to date; if there were none, approve nodes that wait."""
        nodes = [node["metadata"]["name"] for node in map(_copy, self.cluster.select("nodes"))]
        done = [node for node in nodes if self._is_done(node)]
        for node in done:
            self._annotate(node, {APPROVED: None, WAITING: None})
        if done:
            return
        approved = sum(APPROVED in self.annotations(node) for node in nodes)
        waiting = [node for node in nodes if WAITING in self.annotations(node)]
        for node in waiting[: max(self.max_concurrent - approved, 0)]:
            self.approve(node)

    def approve(self, node: str) -> None:
        """Approve a node."""
        self._annotate(node, {APPROVED: "", WAITING: None})

    def run_bashible(self, node: str) -> None:
        """Find everything up to date, which bashible does every minute."""
        self._annotate(node, {CHECKSUM: self.checksum})

    def update(self, node: str) -> None:
        """Let bashible begin to apply a new configuration."""
        if not self.annotations(node).keys() & {APPROVED, WAITING}:
            self._annotate(node, {WAITING: "", CHECKSUM: None})

    def _is_done(self, node: str) -> bool:
        found = self.annotations(node)
        return APPROVED in found and found.get(CHECKSUM) == self.checksum

    def _annotate(self, node: str, annotations: dict[str, str | None]) -> None:
        self.cluster.patch("nodes", node, {"metadata": {"annotations": annotations}}, MERGE_PATCH)


def once(action: Callable[[], object]) -> Callable[[Any], bool]:
    """Return a condition for a fault that never comes true, and does something the first time it is asked."""
    todo = [action]

    def ask(_: Any) -> bool:
        while todo:
            todo.pop()()
        return False

    return ask


def _copy(stored: Any) -> dict[str, Any]:
    return stored.copy()  # type: ignore[no-any-return]
