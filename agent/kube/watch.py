"""Follows one object of the API: list, then watch from there, again and again, as client-go does.

The newest state wins; nobody gets a queue. A broken watch goes on from the last version it has seen,
a version that is too old (410) begins with a new list. Nothing is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from agent.errors import AgentError, ApiFailed, CredentialsUnusable
from agent.kube.client import Listing, Object
from agent.kube.resources import Resource
from agent.policy import Backoff

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
#: A watch that keeps failing and coming back says so this often.
LOG_INTERVAL_S = 600.0

_GONE = 410
_REFUSED = frozenset({401, 403})


class Events(Protocol):
    """An open watch."""

    async def next(self, *, within_s: float) -> dict[str, Any] | None:
        """Return the next event, None at the end of the watch; raises ApiFailed."""


class Api(Protocol):
    """What a watch needs of the client; both raise ApiFailed and CredentialsUnusable."""

    async def list(self, resource: Resource) -> Listing:
        """Return the object, if it is there, and the version of its collection."""

    def watch(self, resource: Resource, version: str, *, timeout_s: int) -> AbstractAsyncContextManager[Events]:
        """Open a watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. Constants that interact; tests shorten them."""

    #: The server ends a watch after this, +-10 %. The longer, the fewer requests: two watches with 9
    #: minutes make 14 an hour. client-go asks for 5 to 10 minutes.
    watch_s: float = 540.0
    #: Above the minute in which bookmarks come (cacher: about every 60 s), or live watches would be cut.
    silence_s: float = 80.0
    #: A shorter watch without an event counts as a failure: the server must not be asked in a circle.
    brief_s: float = 1.0
    #: Failures that do not last longer than this are nobody's business: a rolling
    #: restart of the API servers must not make 5,000 nodes say that they have lost it.
    stale_s: float = 60.0
    #: The first pass waits this long for the first answer.
    first_word_s: float = 5.0
    backoff: Backoff = field(default=Backoff(base_s=1.0, cap_s=30.0))
    #: After 401 and 403: a person has to do something, and 5,000 nodes must not ask all the time.
    refused: Backoff = field(default=Backoff(base_s=1.0, cap_s=300.0))

    def delay_s(self, err: AgentError, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the last of this many failures in a row."""
        code, asked_s = (err.code, err.retry_after_s) if isinstance(err, ApiFailed) else (None, None)
        backoff = self.refused if code in _REFUSED else self.backoff
        return backoff.delay_s(failures, random=rng.random(), at_least_s=asked_s or 0.0)


class ObjectWatch(Generic[_T]):
    """Knows one object as it was last seen. `run` follows it until it is cancelled."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        *,
        view: Callable[[Object], _T],
        on_change: Callable[[], None],
        timing: Timing,
        rng: random.Random,
    ) -> None:
        """`view` takes from the object what is of interest; `on_change` is called when that changes."""
        self._api = api
        self._resource = resource
        self._view = view
        self._on_change = on_change
        self._timing = timing
        self._rng = rng
        self._version: str | None = None
        self._failures = 0
        self._newest = 0
        self._settled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._has_waited = False
        self._is_doubted = False
        self._logged = ""
        self._logged_at = -LOG_INTERVAL_S
        self._heard_at: float | None = None
        self._failing_since: float | None = None
        self._was_stale = True
        self.found: _T | None = None
        self.error: AgentError | None = None

    @property
    def is_known(self) -> bool:
        """Whether the server has ever said what there is."""
        return self._heard_at is not None

    @property
    def silent_for_s(self) -> float | None:
        """Seconds since the server last said something about the object; None when it never did."""
        return None if self._heard_at is None else self._now() - self._heard_at

    @property
    def is_stale(self) -> bool:
        """Whether what is known may be out of date: the server fails, and has for some time."""
        return self._heard_at is None or (
            self._failing_since is not None and self._now() - self._failing_since > self._timing.stale_s
        )

    def hurry(self) -> None:
        """End the wait after a failure: what failed may be in order now."""
        self._hurry.set()

    async def first_word(self) -> None:
        """Wait for the first answer or failure, once and not for long: the last good copy is there."""
        if not self._has_waited:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.first_word_s):
                    await self._settled.wait()
            self._has_waited = True

    async def run(self) -> None:
        """Follow the object for ever."""
        while True:
            self._hurry.clear()
            try:
                if self._version is None:
                    await self._list()
                else:
                    await self._follow(self._version)
            except AgentError as err:
                await self._pause(err)

    def accept(self, found: Object) -> None:
        """Take over the object as a request has just returned it, before the watch brings it."""
        if self._is_news(found):
            self._learn(self._view(found))

    def correct(self, found: Object) -> None:
        """Believe a live reading that the watch contradicts, and have the list asked for again."""
        self._newest, self._is_doubted = _number(_version(found)), True
        self.found = self._view(found)

    async def _list(self) -> None:
        listing = await self._api.list(self._resource)
        self._version, self._newest, self._is_doubted = listing.version, _number(listing.version), False
        self._learn(None if listing.found is None else self._view(listing.found))

    async def _follow(self, version: str) -> None:
        """Watch from `version` until the watch ends."""
        timeout_s = self._timing.watch_s * (0.9 + 0.2 * self._rng.random())
        opened_at = self._now()
        try:
            async with self._api.watch(self._resource, version, timeout_s=int(timeout_s)) as events:
                self._heard()
                while (event := await events.next(within_s=self._timing.silence_s)) is not None:
                    self._take(event.get("type"), event["object"])
        finally:
            if self._now() - opened_at > self._timing.backoff.cap_s:
                self._failures = 0
        if self._version == version and self._now() - opened_at < self._timing.brief_s:
            raise ApiFailed("ApiUnreachable", f"watch {self._resource}: ended as soon as it had begun")

    def _take(self, kind: object, found: Object) -> None:
        if kind == "ERROR":
            self._version = None
            raise _error(self._resource, found)
        version = _version(found)
        if not version:
            raise ApiFailed("ApiGarbled", f"watch {self._resource}: an event without a resourceVersion")
        if self._is_doubted or 0 < _number(version) < _number(self._version or ""):
            self._version = None
            raise ApiFailed("ApiGarbled", f"watch {self._resource}: it contradicts what was read; listing again")
        self._version, self._failures = version, 0
        is_ours = found["metadata"].get("name") == self._resource.name
        if kind == "BOOKMARK" or not is_ours or not self._is_news(found):
            self._heard()
        elif kind == "DELETED":
            self._learn(None)
        else:
            self._learn(self._view(found))

    def _is_news(self, found: Object) -> bool:
        """Tell whether an object is no older than what is known; answers and the watch overtake each other."""
        number = _number(_version(found))
        if 0 < number < self._newest:
            return False
        self._newest = max(self._newest, number)
        return True

    def _learn(self, found: _T | None) -> None:
        is_changed = found != self.found or not self.is_known
        self.found = found
        self._heard(is_changed=is_changed)

    def _heard(self, *, is_changed: bool = False) -> None:
        if self._logged:
            logger.info("%s: the API server answers again", self._resource)
            self._logged = ""
        self.error, self._failing_since, self._heard_at = None, None, self._now()
        self._tell(is_changed=is_changed)

    async def _pause(self, err: AgentError) -> None:
        """Note a failure and wait, longer each time."""
        if isinstance(err, ApiFailed) and err.code == _GONE:
            self._version = None
        self._log(err)
        self._failures += 1
        self.error = err
        self._failing_since = self._failing_since or self._now()
        self._tell(is_changed=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.delay_s(err, self._failures, self._rng)):
                await self._hurry.wait()

    def _log(self, err: AgentError) -> None:
        """Say the first of several failures, and what has never worked louder; not the same all the time."""
        level = logging.INFO if self.is_known else logging.WARNING
        is_due = self._now() - self._logged_at > LOG_INTERVAL_S
        # What every watch lacks, and nothing works without, is in the report.
        is_reported = isinstance(err, CredentialsUnusable) and not self.is_known
        if self.error is not None or not is_due or is_reported:
            level = logging.DEBUG
        else:
            self._logged, self._logged_at = str(err), self._now()
        logger.log(level, "%s", err)

    def _tell(self, *, is_changed: bool) -> None:
        is_stale = self.is_stale
        is_news = is_changed or is_stale != self._was_stale
        self._was_stale = is_stale
        self._settled.set()
        if is_news:
            self._on_change()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _version(found: Object) -> str:
    metadata = found.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""


def _number(version: str) -> int:
    """Versions can be compared as numbers (KEP-5504); 0 for one that cannot."""
    return int(version) if version.isdecimal() else 0


def _error(resource: Resource, status: Object) -> ApiFailed:
    """Make an error of the Status in an ERROR event."""
    code = status.get("code")
    reason = "ApiVersionTooOld" if code == _GONE else "ApiFailed"
    return ApiFailed(
        reason,
        f"watch {resource}: the server ended it with an error, code {code if isinstance(code, int) else '?'}",
        remedy="the agent lists again by itself",
        code=code if isinstance(code, int) else None,
    )
