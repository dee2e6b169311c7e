"""Keeps the Node object saying what the newest report says: one patch per change, none without."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from agent.errors import AgentError, ApiFailed
from agent.kube.client import Object
from agent.kube.resources import Patch, Resource, node, node_status
from agent.kube.watch import Api, ObjectWatch, Timing
from agent.node_status import NodeStatus, make_patch, view
from agent.policy import Backoff

logger = logging.getLogger(__name__)

#: Between two patches: a node whose state flaps must not occupy the API server.
MIN_SPACING_S = 0.5

#: A person may take a label away; who does it again and again is another program.
SUSPICIOUS_REVERTS = 3
FIGHT = Backoff(base_s=1.0, cap_s=300.0)

#: What a patch is answered with when the Node was deleted, and perhaps registered anew: a uid cannot be changed.
_ANOTHER_NODE = frozenset({404, 409, 422})


class NodeApi(Api, Protocol):
    """What is needed of the client."""

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        """Change an object and return it; raises ApiFailed and CredentialsUnusable."""


class NodeReporter:
    """Follows the Node and patches it. A report that cannot be sent is sent later, the newest only."""

    def __init__(
        self,
        api: NodeApi,
        name: str,
        *,
        on_change: Callable[[], None],
        now: Callable[[], datetime],
        timing: Timing,
        rng: random.Random,
    ) -> None:
        """`on_change` is called when the Node was changed, by whomever."""
        self._api = api
        self._name = name
        self._on_change = on_change
        self._now = now
        self._timing = timing
        self._rng = rng
        self._wanted: NodeStatus | None = None
        self._due = asyncio.Event()
        self._sent = asyncio.Event()
        self._fresh = asyncio.Event()
        self._failures = 0
        self._was_missing = False
        self._said: NodeStatus | None = None
        self._reverts = 0
        self.error: AgentError | None = None
        self.watch = ObjectWatch(api, node(name), view=view, on_change=self._changed, timing=timing, rng=rng)

    @property
    def is_pending(self) -> bool:
        """Whether the Node does not say yet what it has to say."""
        return self._body() is not None or (self._wanted is not None and self.watch.found is None)

    @property
    def problem(self) -> str | None:
        """What keeps the Node from showing the report, in words; None when nothing does."""
        if self.watch.is_known and self.watch.found is None:
            return f"there is no Node {self._name}: set NODE_NAME or node_name if that is wrong; it may still register"
        error = self.error or (self.watch.error if self.watch.is_stale else None)
        if error is None and self._reverts >= SUSPICIOUS_REVERTS:
            return f"somebody else keeps changing on Node {self._name} what the agent writes: is there a second agent?"
        return f"the Node does not show this report: {error}" if error else None

    def publish(self, wanted: NodeStatus | None) -> None:
        """Replace what the Node has to say; None leaves it as it is."""
        if wanted != self._wanted:
            self._reverts = 0
            self._fresh.set()
        self._wanted = wanted
        self._due.set()

    async def said(self) -> None:
        """Wait until the Node says what it has to say."""
        while self._body() is not None:
            self._sent.clear()
            await self._sent.wait()

    async def run(self) -> None:
        """Patch whenever there is something to say, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                is_sent = await self._send()
            except AgentError as err:
                await self._pause(err)
                continue
            self.error, self._failures = None, 0
            if is_sent:
                await asyncio.sleep(MIN_SPACING_S)
                await self._yield_to_others()

    async def _send(self) -> bool:
        body, wanted = self._body(), self._wanted
        if body is None:
            return False
        self._reverts = self._reverts + 1 if self._said == wanted else 0
        self._fresh.clear()
        patched = await self._api.patch(node_status(self._name), body, Patch.STRATEGIC)
        self.error, self._said = None, wanted
        self.watch.accept(patched)
        self._sent.set()
        return True

    def _body(self) -> Object | None:
        live = self.watch.found
        return None if live is None or self._wanted is None else make_patch(self._wanted, live, now=self._now())

    async def _pause(self, err: AgentError) -> None:
        """Note a failure, wait, and have it tried again with what is wanted and true by then."""
        is_gone = isinstance(err, ApiFailed) and err.code in _ANOTHER_NODE
        level = logging.DEBUG if self.error or is_gone else logging.WARNING
        logger.log(level, "cannot report on the Node: %s", err)
        self.error = err
        self._failures += 1
        await asyncio.sleep(self._timing.delay_s(err, self._failures, self._rng))
        self._due.set()

    async def _yield_to_others(self) -> None:
        """Wait, longer each time, when what was said is taken back by somebody; not with anything new to say."""
        if self._reverts < SUSPICIOUS_REVERTS:
            return
        if self._reverts == SUSPICIOUS_REVERTS:
            logger.warning("%s", self.problem)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIGHT.delay_s(self._reverts, random=self._rng.random())):
                await self._fresh.wait()

    def _changed(self) -> None:
        self._due.set()
        is_missing = self.watch.is_known and self.watch.found is None
        if is_missing and not self._was_missing:
            logger.error("%s", self.problem)
        self._was_missing = is_missing
        self._on_change()
