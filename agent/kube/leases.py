"""At most N nodes restart containerd at a time: a node needs one of N Leases, which it gives back.

A holder that dies is replaced after its TTL. Asking never waits for a Lease. An idle node makes no
request; one that waits has watches open, and polls nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from agent import approval
from agent.approval import Granted, Sighting, Slot, Waiting
from agent.errors import AgentError, ApiFailed, ApprovalLost
from agent.kube.client import Object
from agent.kube.resources import Resource, lease
from agent.kube.watch import Api, ObjectWatch, Timing

#: Who waits asks after a random share of this when a Lease is free, if it still is: thousands wait.
SPREAD_S = 2.0

#: A pass has other things to do. Below the client's own limit for a request.
ASK_S = 10.0

_NOT_FOUND, _CONFLICT = 404, 409


class LeaseApi(Api, Protocol):
    """What is needed of the client; all raise ApiFailed and CredentialsUnusable."""

    async def get(self, resource: Resource) -> Object:
        """Return the object as etcd has it."""

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create an object."""

    async def update(self, resource: Resource, body: Object) -> Object:
        """Replace an object of the same resourceVersion."""


class LeaseApproval:
    """An Approval. `run` must be running for `on_change` to be called."""

    def __init__(
        self,
        api: LeaseApi,
        *,
        node: str,
        uid: Callable[[], str | None],
        namespace: str,
        count: int,
        on_change: Callable[[], None],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        timing: Timing,
        rng: random.Random,
        ttl_s: int = approval.TTL_S,
    ) -> None:
        """`uid` is that of the Node, None as long as it is not known; `count` nodes restart at a time."""
        self._api = api
        self._node = node
        self._uid = uid
        self._on_change = on_change
        self._now = now
        self._monotonic = monotonic
        self._timing = timing
        self._rng = rng
        self._ttl_s = ttl_s
        names = [f"registry-agent-restart-{slot}" for slot in approval.slots(node, count=count)]
        self._places = [lease(namespace, name) for name in names]
        self._seen = {place: Sighting(slot=Slot(), since_s=0) for place in self._places}
        self._watches: list[ObjectWatch[Slot]] = []
        #: A Lease that is the node's, as read last; one that an agent of before has left is found by reading all.
        self._held: Resource | None = None
        self._has_looked = False
        self._renewed_s = 0.0
        self._waits = asyncio.Event()
        self._news = asyncio.Event()

    async def ask(self) -> Granted | Waiting:
        """Take a Lease if one is to be had, or renew the one that is held."""
        try:
            async with asyncio.timeout(ASK_S):
                is_held = not self._is_vain() and await self._acquire()
        except TimeoutError:
            raise ApiFailed("ApiUnreachable", f"get {self._places[0]}: no answer within {ASK_S:.0f} s") from None
        if is_held:
            self._rest()
            return Granted()
        self._waits.set()
        return approval.waiting_for(self._seen.values())

    async def keep(self) -> None:
        """Renew the Lease; raises ApprovalLost when another node has it, or can have it by now."""
        try:
            own = await self._own()
            if own is not None:
                await self._write(*own)
        except AgentError:
            if self._monotonic() < self._renewed_s + self._ttl_s:
                raise
            own = None
        if own is None:
            raise ApprovalLost("the Lease was lost: another node may restart containerd at the same time")

    async def release(self) -> None:
        """Give the Lease back, or the wish for one up. After a failure the Lease counts as held."""
        self._rest()
        own = await self._own()
        if own is not None:
            await self._api.update(own[0], approval.freed(own[1], now=self._now()))
        self._held = None

    async def run(self) -> None:
        """Watch the Leases as long as the node waits for one, for ever."""
        while True:
            await self._waits.wait()
            self._watches = [self._watch(place) for place in self._places]
            try:
                async with asyncio.TaskGroup() as parts:
                    watching = [parts.create_task(watch.run(), name="watch-lease") for watch in self._watches]
                    await self._follow()
                    for task in watching:
                        task.cancel()
            finally:
                self._watches = []

    async def _acquire(self) -> bool:
        leases = await self._look()
        chosen = self._chosen()
        if chosen is None:
            return False
        try:
            await self._write(self._places[chosen], leases[chosen])
        except ApiFailed as err:
            if err.code != _CONFLICT:
                raise
            return False  # somebody else was faster
        return True

    async def _own(self) -> tuple[Resource, Object] | None:
        """Return the Lease that is held, as it is now; None when it is the node's no more."""
        if not self._has_looked:
            await self._look()
        place = self._held
        found = await self._read(place) if place else None
        is_own = approval.read_slot(found).holder == self._node
        return (place, found) if is_own and place and found else None

    async def _look(self) -> list[Object | None]:
        leases = [await self._read(place) for place in self._places]
        self._has_looked = True
        return leases

    async def _read(self, place: Resource) -> Object | None:
        try:
            found = await self._api.get(place)
        except ApiFailed as err:
            if err.code != _NOT_FOUND:
                raise
            found = None
        slot = approval.read_slot(found)
        self._sight(place, slot)
        if slot.holder == self._node:
            self._held = place
        return found

    async def _write(self, place: Resource, found: Object | None) -> None:
        asked_s = self._monotonic()
        new = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": place.name}}
        body = approval.taken(found or new, node=self._node, uid=self._uid(), ttl_s=self._ttl_s, now=self._now())
        await (self._api.create(place, body) if found is None else self._api.update(place, body))
        # From before the request: those who wait count from after it, so the holder never counts more.
        self._held, self._renewed_s = place, asked_s

    def _rest(self) -> None:
        self._waits.clear()
        self._news.set()

    def _watch(self, place: Resource) -> ObjectWatch[Slot]:
        watch: ObjectWatch[Slot] = ObjectWatch(
            self._api,
            place,
            view=approval.read_slot,
            on_change=lambda: self._sight(place, watch.found or Slot()),
            timing=self._timing,
            rng=self._rng,
        )
        return watch

    def _sight(self, place: Resource, slot: Slot) -> None:
        before = self._seen[place]
        self._seen[place] = approval.sight(before, slot, now_s=self._monotonic())
        if self._seen[place] is not before:
            self._news.set()

    def _chosen(self) -> int | None:
        return approval.choose(list(self._seen.values()), node=self._node, now_s=self._monotonic())

    def _is_vain(self) -> bool:
        """Whether the watches say already that there is nothing to be had."""
        is_known = bool(self._watches) and all(watch.is_known and not watch.error for watch in self._watches)
        return is_known and self._chosen() is None

    async def _follow(self) -> None:
        """Say when a Lease is to be had, until the node waits no more."""
        while self._waits.is_set():
            self._news.clear()
            if self._chosen() is None:
                dies_s = min(each.dies_s for each in self._seen.values())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(dies_s - self._monotonic()):
                        await self._news.wait()
                continue
            await asyncio.sleep(SPREAD_S * self._rng.random())
            if self._waits.is_set() and self._chosen() is not None:
                self._news.clear()
                self._on_change()
                await self._news.wait()
