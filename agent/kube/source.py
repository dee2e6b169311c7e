"""The desired config from the API: the Secret as a source, with the fleet's manners.

A change is adopted after a delay of this node's own, so that thousands of nodes do not act in one
second; what stood before stays in force meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.desired import Absent, Present, Reading, Unreadable
from agent.errors import AgentError, ApiFailed
from agent.kube.client import Object
from agent.kube.resources import Resource
from agent.kube.watch import Api, ObjectWatch, Timing
from agent.parse.secret import from_data

#: On the Secret: every node acts at once, whatever the value.
URGENT_ANNOTATION = "registry-agent.io/urgent"

#: A pass waits this long for a live reading: drift is not repaired meanwhile.
LIVE_READING_S = 10.0


class SecretApi(Api, Protocol):
    """What is needed of the client."""

    async def get(self, resource: Resource) -> Object:
        """Return the object as etcd has it; raises ApiFailed and CredentialsUnusable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretView:
    """What the agent needs of the Secret; the document is still base64."""

    encoded: Any = field(repr=False)
    is_urgent: bool


class SecretSource:
    """Answers from what the watch has brought; a deletion is confirmed by a live reading."""

    def __init__(
        self,
        api: SecretApi,
        resource: Resource,
        *,
        key: str,
        delay_s: float,
        on_change: Callable[[], None],
        timing: Timing,
        rng: random.Random,
    ) -> None:
        """`delay_s` is this node's delay for changes; `on_change` asks for a pass."""
        self._api = api
        self._resource = resource
        self._key = key
        self._delay_s = delay_s
        self._on_change = on_change
        self._adopted: SecretView | None = None
        self._has_adopted = False
        self._was_stale = True
        self._pending: asyncio.TimerHandle | None = None
        self.watch = ObjectWatch(api, resource, view=self._view, on_change=self._changed, timing=timing, rng=rng)

    @property
    def waits_s(self) -> float | None:
        """Seconds until a change that has been seen is adopted; None when there is none."""
        return self._pending.when() - asyncio.get_running_loop().time() if self._pending else None

    async def read(self, *, is_confirming: bool) -> Reading:
        """Return the adopted document; with `is_confirming` an absence is asked for anew."""
        await self.watch.first_word()
        if self.watch.is_stale:
            return Unreadable(error=self.watch.error or _no_word("list", self._resource))
        if self._adopted is None and is_confirming:
            return await self._read_live()
        return self._reading(self._adopted)

    async def _read_live(self) -> Reading:
        try:
            async with asyncio.timeout(LIVE_READING_S):
                found = await self._api.get(self._resource)
        except TimeoutError:
            return Unreadable(error=_no_word("get", self._resource))
        except AgentError as err:
            return Absent() if err.reason == "ApiNotFound" else Unreadable(error=err)
        self.watch.correct(found)
        self._adopt()  # it is about to be used
        return self._reading(self._adopted)

    def _reading(self, seen: SecretView | None) -> Reading:
        if seen is None:
            return Absent()
        try:
            return Present(document=from_data({self._key: seen.encoded}, key=self._key))
        except AgentError as err:
            return Unreadable(error=err)

    def _view(self, secret: Object) -> SecretView:
        data, metadata = _map(secret.get("data")), _map(secret.get("metadata"))
        is_urgent = URGENT_ANNOTATION in _map(metadata.get("annotations"))
        return SecretView(encoded=data.get(self._key), is_urgent=is_urgent)

    def _changed(self) -> None:
        seen = self.watch.found
        if not self.watch.is_known or (self._has_adopted and seen == self._adopted):
            self._cancel()
            self._on_change()  # the API was lost or has come back
        elif not self._has_adopted or self._delay_s <= 0 or (seen is not None and seen.is_urgent):
            self._adopt()
        elif self._pending is None:  # a later change does not prolong the delay
            self._pending = asyncio.get_running_loop().call_later(self._delay_s, self._adopt)
        elif self.watch.is_stale is not self._was_stale:  # a change waits, and the API is lost or has come back
            self._on_change()
        self._was_stale = self.watch.is_stale

    def _adopt(self) -> None:
        self._cancel()
        self._adopted, self._has_adopted = self.watch.found, True
        self._on_change()

    def _cancel(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _no_word(verb: str, resource: Resource) -> ApiFailed:
    return ApiFailed("ApiUnreachable", f"{verb} {resource}: no answer yet", remedy="the agent keeps trying")
