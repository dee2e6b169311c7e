"""Sends Events about the Node: deduplicated, rate-limited, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from agent.errors import AgentError, ApiFailed
from agent.kube.client import Object
from agent.kube.resources import EVENTS_NAMESPACE, Patch, Resource
from agent.kube.resources import event as event_place
from agent.kube.watch import Timing
from agent.node_events import Event
from agent.policy import TokenBucket

logger = logging.getLogger(__name__)

COMPONENT = "registry-agent"

#: More than a switch needs; after that one in a minute, so that a flapping node is still heard.
BURST = 15
REFILL_S = 60.0

#: Events that wait for the API, and series that are counted on.
MAX_WAITING = 20
MAX_SERIES = 50

#: With one of these, trying again is in vain: the Event is dropped.
_HOPELESS = frozenset({400, 403, 404, 413, 422})
_NOT_FOUND, _EXISTS = 404, 409

#: An object's name may have 253 characters; the rest is for what makes it unique.
MAX_NAME = 230


class EventApi(Protocol):
    """What is needed of the client; both raise ApiFailed and CredentialsUnusable."""

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create an object."""

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        """Change an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    place: Resource
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """An Event that is to be sent: as what, and when it happened."""

    event: Event
    place: Resource
    at: str


class EventRecorder:
    """One queue, one request at a time."""

    def __init__(
        self,
        api: EventApi,
        node: str,
        *,
        uid: Callable[[], str | None],
        now: Callable[[], datetime],
        timing: Timing,
        rng: random.Random,
    ) -> None:
        """`uid` is that of the Node, None as long as it is not known."""
        self._api = api
        self._node = node
        self._uid = uid
        self._now = now
        self._timing = timing
        self._rng = rng
        self._bucket = TokenBucket(burst=BURST, refill_s=REFILL_S)
        self._waiting: dict[Event, _Waiting] = {}
        self._series: OrderedDict[tuple[str, Event], _Series] = OrderedDict()
        self._due = asyncio.Event()
        self.dropped = 0

    def record(self, event: Event) -> None:
        """Queue an Event; too many in a short time, or too many that wait, are dropped and counted."""
        if event in self._waiting:
            return
        if not self._bucket.take(asyncio.get_running_loop().time()) or len(self._waiting) == MAX_WAITING:
            self.dropped += 1
            logger.debug("Event dropped: %s", event.reason)
            return
        name = f"{self._node[:MAX_NAME]}.{secrets.token_hex(8)}"
        self._waiting[event] = _Waiting(event=event, place=event_place(name), at=self._at())
        self._due.set()

    def wake(self) -> None:
        """Say that the Node may be known now."""
        self._due.set()

    async def run(self) -> None:
        """Send what waits, for ever."""
        failures = 0
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting and self._uid():
                try:
                    await self._send(waiting := next(iter(self._waiting.values())))
                except AgentError as err:
                    failures += 1
                    await self._pause(err, failures)
                    continue
                failures = 0
                del self._waiting[waiting.event]

    async def _send(self, waiting: _Waiting) -> None:
        uid = self._uid() or ""
        key = uid, waiting.event
        series = self._series.get(key)
        if series is not None:
            series = await self._count(series, waiting.at)
        if series is None:
            series = await self._create(waiting, uid)
        self._series[key] = series
        self._series.move_to_end(key)
        if len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)

    async def _count(self, series: _Series, at: str) -> _Series | None:
        """Count on; None when the API server has expired the Event, which it does after an hour."""
        counted = replace(series, count=series.count + 1)
        try:
            await self._api.patch(series.place, {"count": counted.count, "lastTimestamp": at}, Patch.MERGE)
        except ApiFailed as err:
            if err.code == _NOT_FOUND:
                return None
            raise
        return counted

    async def _create(self, waiting: _Waiting, uid: str) -> _Series:
        event, place, at = waiting.event, waiting.place, waiting.at
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": place.name, "namespace": EVENTS_NAMESPACE},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid},
            "reason": event.reason,
            "message": event.message,
            "type": "Warning" if event.is_warning else "Normal",
            "source": {"component": COMPONENT, "host": self._node},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        try:
            await self._api.create(place, body)
        except ApiFailed as err:
            if err.code != _EXISTS:  # else the answer to an earlier try was lost
                raise
        return _Series(place=place, count=1)

    async def _pause(self, err: AgentError, failures: int) -> None:
        if isinstance(err, ApiFailed) and err.code in _HOPELESS:
            event = next(iter(self._waiting))
            del self._waiting[event]
            logger.warning("Event %s dropped: %s", event.reason, err)
            self.dropped += 1
            return
        logger.debug("Event waits: %s", err)
        await asyncio.sleep(self._timing.delay_s(err, failures, self._rng))

    def _at(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
