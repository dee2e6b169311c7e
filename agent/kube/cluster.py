"""The cluster side of one node, as one part: the desired config comes in, reports go out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from agent.approval import NoApproval, Waiting, hold
from agent.desired import Reading
from agent.errors import CredentialsUnusable
from agent.kube.bashible import BashibleApproval
from agent.kube.client import Client
from agent.kube.leases import LeaseApproval
from agent.kube.recorder import EventRecorder
from agent.kube.reporter import NodeReporter
from agent.kube.resources import Resource
from agent.kube.source import SecretSource
from agent.kube.watch import Timing
from agent.node_events import events
from agent.node_status import NodeStatus, is_outage, make_node_status
from agent.policy import rollout_delay_s
from agent.report import Report

logger = logging.getLogger(__name__)

#: A part that failed on a defect of the agent is started again after this.
DEFECT_PAUSE_S = 60.0

#: Above the longest pause between two attempts to reach the API: whatever is back is noticed within this.
OUTAGE_PATIENCE_S = 45.0


def _now() -> datetime:
    return datetime.now(UTC)


class Cluster:
    """Watches the Secret and the Node, patches the Node, sends Events. `run` does it all."""

    def __init__(
        self,
        client: Client,
        *,
        node: str,
        secret: Resource,
        key: str,
        spread_s: float,
        wake: Callable[[str], None],
        approval: str = "none",
        slots: int = 1,
        timing: Timing | None = None,
        rng: random.Random | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """`wake` asks for a pass and says why; changes are spread over `spread_s` seconds among nodes.

        `approval` is who allows restarts of containerd: lease (`slots` nodes at a time), bashible or none.
        """
        timing, rng = timing or Timing(), rng or random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._node = node
        self._wake = wake
        self._before: Report | None = None
        self._facts: tuple[str | None, ...] = (None, None)
        self._annotations: Mapping[str, str] | None = None
        self._held: NodeStatus | None = None
        self._holding: asyncio.TimerHandle | None = None
        self._source = SecretSource(
            client,
            secret,
            key=key,
            delay_s=rollout_delay_s(node, spread_s=spread_s),
            on_change=lambda: wake("news from the API"),
            timing=timing,
            rng=rng,
        )
        self._reporter = NodeReporter(client, node, on_change=self._node_changed, now=now, timing=timing, rng=rng)
        self.approval: LeaseApproval | BashibleApproval | NoApproval = NoApproval()
        if approval == "lease":
            self.approval = LeaseApproval(
                client,
                node=node,
                uid=self._uid,
                namespace=secret.namespace or "default",
                count=slots,
                on_change=lambda: wake("the restart may be allowed"),
                now=now,
                monotonic=asyncio.get_running_loop().time,
                timing=timing,
                rng=rng,
            )
        elif approval == "bashible":
            self.approval = BashibleApproval(
                client,
                node=node,
                annotations=lambda: self._annotations,
                on_change=lambda: wake("the restart may be allowed"),
            )
        self._recorder = EventRecorder(client, node, uid=self._uid, now=now, timing=timing, rng=rng)

    async def read(self, *, is_confirming: bool) -> Reading:
        """Return the desired config as the API has it; the first time once the Node is known, too, for its address."""
        await asyncio.gather(self._source.watch.first_word(), self._reporter.watch.first_word())
        return await self._source.read(is_confirming=is_confirming)

    def publish(self, report: Report) -> None:
        """Let the Node say what a report says, and send the Events that it is worth."""
        wanted = make_node_status(report)
        if is_outage(report):
            # Said at once, it would be the first thing that thousands of nodes say to an API that is
            # back, and the next thing that they take back.
            if wanted != self._held:
                self._reporter.publish(None)
                self._held = wanted
                self._release()
                self._hold()
        elif wanted is not None:
            self._held = None
            self._release()
            self._reporter.publish(wanted)
        for event in events(self._before, report):
            if self._before is not None or event.reason != self._shown_reason():
                self._recorder.record(event)
        self._before = report

    def hurry(self) -> None:
        """Look at once whether credentials that were missing are there now."""
        for watch in (self._source.watch, self._reporter.watch):
            if isinstance(watch.error, CredentialsUnusable):
                watch.hurry()

    async def drain(self, *, within_s: float) -> None:
        """Give the last report a moment to be sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._reporter.said()

    @property
    def node_address(self) -> str | None:
        """The Node's InternalIP."""
        live = self._reporter.watch.found
        return live.internal_ip if live else None

    @property
    def runtime_version(self) -> str | None:
        """The version of containerd that kubelet has put on the Node."""
        live = self._reporter.watch.found
        return live.runtime_version if live else None

    def hold(self) -> Waiting | None:
        """Return what keeps containerd from being restarted on this node."""
        if self._annotations is None:
            return Waiting(reason="the Node and its annotations are not known yet")
        return hold(self._annotations)

    def facts(self) -> dict[str, Any]:
        """Return the state of the cluster side for `/status`."""
        watch = self._source.watch
        silent_for_s, waits_s = watch.silent_for_s, self._source.waits_s
        return {
            "node": self._node,
            "problem": self._reporter.problem,
            "api_silent_for_s": None if silent_for_s is None else round(silent_for_s, 1),
            "api_error": str(watch.error) if watch.error else None,
            "change_waits_s": None if waits_s is None else round(waits_s, 1),
            "report_pending": self._reporter.is_pending,
            "events_dropped": self._recorder.dropped,
        }

    async def run(self) -> None:
        """Run all parts until cancelled."""
        try:
            await self._run()
        finally:
            self._release()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as parts:
            for name, part in (
                ("watch-secret", self._source.watch.run),
                ("watch-node", self._reporter.watch.run),
                ("report", self._reporter.run),
                ("events", self._recorder.run),
                ("approval", self.approval.run),
            ):
                parts.create_task(_guarded(name, part), name=name)

    def _hold(self) -> None:
        self._holding = asyncio.get_running_loop().call_later(OUTAGE_PATIENCE_S, self._unhold)

    def _unhold(self) -> None:
        """Say it after all, if the Node could be followed meanwhile: then it is the Secret that has a problem."""
        self._holding = None
        if self._reporter.watch.error is None:
            self._reporter.publish(self._held)
        else:
            self._hold()

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    def _shown_reason(self) -> str | None:
        """Return the reason that the Node shows: an agent that starts anew need not tell it again."""
        live = self._reporter.watch.found
        return live.condition.reason if live and live.condition else None

    def _uid(self) -> str | None:
        live = self._reporter.watch.found
        return live.uid if live else None

    def _node_changed(self) -> None:
        self._recorder.wake()
        facts = (self.node_address, self.runtime_version)
        if facts != self._facts:
            self._facts = facts
            self._wake("the Node's address or runtime changed")
        live = self._reporter.watch.found
        annotations = live.annotations if live else None
        if annotations != self._annotations:
            self._annotations = annotations
            if isinstance(self.approval, BashibleApproval):
                self.approval.on_node_changed()
            self._wake("the Node's annotations changed")


async def _guarded(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Keep a defect in one part from ending the others: what is on the node matters more."""
    while True:
        try:
            return await part()
        except Exception as err:  # noqa: BLE001 -- the outer edge of a task
            where = "".join(traceback.format_tb(err.__traceback__))
            logger.error("internal error %s in %s at\n%s", type(err).__name__, name, where)  # noqa: TRY400 -- no values
            await asyncio.sleep(DEFECT_PAUSE_S)
