"""The Kubernetes API in memory: the fake of the ports that `agent.kube` declares, for fake time.

It works on the same cluster and knows the same faults as the double that speaks HTTP;
`tests/adapters/kube/test_contract.py` holds it against the real client.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.errors import ApiFailed
from agent.kube import client
from agent.kube.client import Listing, Object
from agent.kube.resources import Patch, Resource, Verb
from tests.apidouble import refusal
from tests.apidouble.cluster import MERGE_PATCH, STRATEGIC_PATCH, Change, Cluster, Watch
from tests.apidouble.faults import (
    Answer,
    Cut,
    Drip,
    End,
    ErrorEvent,
    Fault,
    Faults,
    Freeze,
    Garbage,
    Hang,
    Line,
    Reset,
    Strike,
    Truncated,
)
from tests.apidouble.refusal import Refused
from tests.apidouble.resources import Call, Term

_T = TypeVar("_T")

_REASONS = {401: "ApiUnauthorized", 403: "ApiForbidden", 404: "ApiNotFound", 409: "ApiConflict", 429: "ApiThrottled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, recorded when it was made."""

    at: float
    verb: str
    resource: str
    version: str = ""


class MemoryApi:
    """What `agent.kube` needs of a client, without HTTP: one cluster, its faults, and the loop's time."""

    def __init__(self, cluster: Cluster, *, latency_s: float = 0.0) -> None:
        """`latency_s` passes before each answer."""
        self.cluster = cluster
        self.latency_s = latency_s
        self.faults = Faults(lambda: self._streams)
        self.is_down = False
        self.expires_in_stream = True
        self.bookmark_interval_s = 60.0
        self.requests: list[Asked] = []
        self._streams: dict[Watch, None] = {}

    def count(self, verb: str, resource: str | None = None) -> int:
        """Count requests, of one resource (``nodes/status``) or all."""
        return sum(each.verb == verb and resource in {None, each.resource} for each in self.requests)

    def watching(self) -> int:
        """Count the watches that are open."""
        return len(self._streams)

    def go_down(self) -> None:
        """End everything that runs, and answer no more."""
        self.is_down = True
        self.faults.strike(Reset())

    def come_up(self) -> None:
        """Answer again."""
        self.is_down = False

    async def get(self, resource: Resource) -> Object:
        return await self._answer(
            Verb.GET,
            resource,
            lambda: self.cluster.get(resource.plural, resource.name, resource.namespace or "").copy(),
        )

    async def list(self, resource: Resource) -> Listing:
        def answer() -> Listing:
            found = self.cluster.find(resource.plural, resource.name, resource.namespace or "")
            return Listing(found=found.copy() if found else None, version=str(self.cluster.revision))

        return await self._answer(Verb.LIST, resource, answer)

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        media_type = STRATEGIC_PATCH if kind is Patch.STRATEGIC else MERGE_PATCH

        def answer() -> Object:
            return self.cluster.patch(
                resource.plural,
                resource.name,
                json.loads(json.dumps(body)),
                media_type,
                namespace=resource.namespace or "",
                subresource=resource.subresource,
            ).copy()

        return await self._answer(Verb.PATCH, resource, answer)

    async def create(self, resource: Resource, body: Object) -> Object:
        sent = json.loads(json.dumps(body))
        return await self._answer(
            Verb.CREATE, resource, lambda: self.cluster.create(resource.plural, sent, resource.namespace or "").copy()
        )

    async def update(self, resource: Resource, body: Object) -> Object:
        sent = json.loads(json.dumps(body))
        return await self._answer(
            Verb.UPDATE,
            resource,
            lambda: self.cluster.update(
                resource.plural, resource.name, sent, namespace=resource.namespace or ""
            ).copy(),
        )

    @contextlib.asynccontextmanager
    async def watch(self, resource: Resource, version: str, *, timeout_s: int) -> AsyncIterator["MemoryEvents"]:
        fault = await self._begin(Verb.WATCH, resource, version)
        terms = (Term("metadata.name", resource.name, is_equal=True),)
        try:
            watch = self.cluster.watch(
                resource.plural, namespace=resource.namespace or "", terms=terms, since=int(version)
            )
        except Refused as err:
            if not self.expires_in_stream:
                raise _refused(Verb.WATCH, resource, err) from None
            watch = self.cluster.watch(resource.plural, namespace=resource.namespace or "", since=self.cluster.revision)
            watch.queue.put_nowait(ErrorEvent(code=err.code))
        if isinstance(fault, Strike):
            watch.queue.put_nowait(fault)
        self._streams[watch] = None
        try:
            yield MemoryEvents(self, resource, watch, ends_at=_now() + timeout_s)
        finally:
            self.cluster.unwatch(watch)
            del self._streams[watch]

    async def _answer(self, verb: Verb, resource: Resource, answer: Callable[[], _T]) -> _T:
        fault = await self._begin(verb, resource)
        try:
            found = answer()
        except Refused as err:
            raise _refused(verb, resource, err) from None
        if isinstance(fault, Truncated):
            raise _failed("ApiGarbled", verb, resource)
        return found

    async def _begin(self, verb: Verb, resource: Resource, version: str = "") -> Fault | None:
        """Record a request and let its fault befall it; return one that comes later."""
        self.requests.append(Asked(at=_now(), verb=verb.value, resource=resource.kind, version=version))
        await asyncio.sleep(self.latency_s)
        if self.is_down:
            raise _failed("ApiUnreachable", verb, resource)
        call = Call(verb.value, resource.plural, resource.name, resource.namespace or "", resource.subresource)
        fault = self.faults.take(call)
        match fault:
            case Hang():
                await asyncio.sleep(client.REQUEST_TIMEOUT_S)
                raise _failed("ApiUnreachable", verb, resource)
            case Reset():
                raise _failed("ApiUnreachable", verb, resource)
            case Garbage():
                raise _failed("ApiGarbled", verb, resource)
            case Answer(code=code, headers=headers):
                asked_s = headers.get("Retry-After")
                raise _refused(verb, resource, refusal.of_code(code), float(asked_s) if asked_s else None)
            case _:
                return fault


class MemoryEvents:
    """One open watch of a MemoryApi."""

    def __init__(self, api: MemoryApi, resource: Resource, watch: Watch, *, ends_at: float) -> None:
        self._api = api
        self._resource = resource
        self._watch = watch
        self._ends_at = ends_at
        self._bookmark_at = _now() + api.bookmark_interval_s
        self._is_frozen = False

    async def next(self, *, within_s: float) -> dict[str, Any] | None:
        silent_at = _now() + within_s
        while True:
            own = () if self._is_frozen else (self._ends_at, self._bookmark_at)
            queued = await self._queued(min((silent_at, *own)))
            if self._is_frozen or isinstance(queued, Freeze):
                self._is_frozen = True
            elif queued is not None and not isinstance(queued, Drip):
                return self._brought(queued)
            elif _now() >= self._ends_at:
                return None
            elif _now() >= self._bookmark_at:
                self._bookmark_at = _now() + self._api.bookmark_interval_s
                return self._bookmark()
            if _now() >= silent_at:
                raise _failed("ApiUnreachable", Verb.WATCH, self._resource)

    async def _queued(self, until: float) -> Any:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await self._watch.queue.get()
        return None

    def _brought(self, queued: Any) -> dict[str, Any] | None:
        match queued:
            case Change():
                return dict(json.loads(queued.line))
            case ErrorEvent(code=code):
                return {"type": "ERROR", "object": refusal.of_code(code).status}
            case End():
                return None
            case Line():
                raise _failed("ApiGarbled", Verb.WATCH, self._resource)
            case Cut() | Reset():
                raise _failed("ApiUnreachable", Verb.WATCH, self._resource)
            case _:
                raise AssertionError(f"a watch cannot be befallen by {queued}")

    def _bookmark(self) -> dict[str, Any]:
        kind = self._watch.resource.kind
        metadata = {"resourceVersion": str(self._api.cluster.revision)}
        return {"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": "v1", "metadata": metadata}}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failed(reason: str, verb: Verb, resource: Resource) -> ApiFailed:
    return ApiFailed(reason, f"{verb.value} {resource}: the API in memory was told so")


def _refused(verb: Verb, resource: Resource, err: Refused, asked_s: float | None = None) -> ApiFailed:
    is_of_another = err.code == 404 and (err.details or {}).get("name") != resource.name
    return ApiFailed(
        "ApiFailed" if is_of_another else _REASONS.get(err.code, "ApiFailed"),
        f"{verb.value} {resource}: HTTP {err.code}, {err.message}",
        code=err.code,
        retry_after_s=asked_s,
    )
