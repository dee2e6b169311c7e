"""One watch on the wire: events as lines, bookmarks, the timeout's normal end, and strikes."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from aiohttp import web

from tests.apidouble import connections, refusal
from tests.apidouble.cluster import Change, Watch
from tests.apidouble.faults import Cut, Drip, End, ErrorEvent, Freeze, Line, Reset, Strike
from tests.apidouble.resources import Resource

#: The last bookmark comes this long before the timeout.
LAST_BOOKMARK_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When a watch ends by itself, and how often it says its revision; None for no bookmarks."""

    timeout_s: float
    bookmark_interval_s: float | None


def bookmark(resource: Resource, revision: int, *, ends_initial_events: bool = False) -> bytes:
    """Return a BOOKMARK event as a line."""
    metadata: dict[str, Any] = {"resourceVersion": str(revision)}
    if ends_initial_events:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    shell = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return _line("BOOKMARK", shell)


def error(refused: refusal.Refused) -> bytes:
    """Return an ERROR event as a line."""
    return _line("ERROR", refused.status)


def _line(kind: str, content: Any) -> bytes:
    return json.dumps({"type": kind, "object": content}, separators=(",", ":")).encode() + b"\n"


class Stream:
    """Sends one watch into one response."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, watch: Watch) -> None:
        """The response's headers are sent already."""
        self._request = request
        self._response = response
        self._watch = watch
        self._drip: Drip | None = None

    async def run(self, pace: Pace, revision: Callable[[], int]) -> None:
        """Send until the watch ends."""
        now = asyncio.get_running_loop().time
        deadline = now() + pace.timeout_s
        interval_s = pace.bookmark_interval_s or pace.timeout_s
        next_bookmark = now() + interval_s
        while now() < deadline:
            if now() < deadline - LAST_BOOKMARK_S < next_bookmark:
                next_bookmark = deadline - LAST_BOOKMARK_S
            queued = await self._next(min(next_bookmark, deadline))
            if queued is not None:
                if not await self._send(queued):
                    return
            elif pace.bookmark_interval_s is not None and now() < deadline:
                await self._write(bookmark(self._watch.resource, revision()))
                next_bookmark = now() + interval_s

    async def _next(self, until: float) -> Change | Strike | None:
        if not self._watch.queue.empty():
            return self._watch.queue.get_nowait()  # type: ignore[no-any-return]
        try:
            async with asyncio.timeout_at(until):
                return await self._watch.queue.get()  # type: ignore[no-any-return]
        except TimeoutError:
            return None

    async def _send(self, queued: Change | Strike) -> bool:
        """Send one thing; return whether the watch goes on."""
        match queued:
            case Change():
                await self._write(queued.line)
            case Line():
                await self._write(queued.body)
            case Drip():
                self._drip = queued
            case _:
                await self._end(queued)
                return False
        return True

    async def _end(self, strike: Cut | End | Freeze | ErrorEvent | Reset) -> None:
        match strike:
            case End():
                pass
            case Cut():
                await self._write(b'{"type":"MODIFIED","object":{"kind":"' + self._watch.resource.kind.encode()[:3])
                connections.close(self._request)
            case Reset():
                connections.reset(self._request)
            case Freeze():
                await connections.gone()
            case ErrorEvent():
                await self._write(error(refusal.of_code(strike.code)))
            case _:
                assert_never(strike)

    async def _write(self, line: bytes) -> None:
        if self._drip is None:
            await self._response.write(line)
            return
        for start in range(0, len(line), self._drip.chunk_bytes):
            await self._response.write(line[start : start + self._drip.chunk_bytes])
            await asyncio.sleep(self._drip.pause_s)
