"""Events about the Node: in the shape that people look for, counted instead of repeated, and never a burden."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.kube.recorder import BURST, MAX_SERIES, MAX_WAITING, REFILL_S, EventRecorder
from agent.kube.watch import Timing
from agent.node_events import Event
from tests.apidouble.cluster import Cluster
from tests.apidouble.faults import Answer, Fault, Hang, Reset, too_many_requests
from tests.support.faketime import jumping, now
from tests.support.kube import NODE, running
from tests.support.memory_api import MemoryApi

TIMING = Timing()
HOUR_S = 3600.0
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
APPLIED = Event(reason="RegistryConfigApplied", message="mode Direct, version v1 is in place: a")
REFUSED = Event(reason="ConfigInvalid", message="desired config refused: mode: must not be empty", is_warning=True)


def _event(number: int) -> Event:
    return Event(reason="RegistryConfigApplied", message=f"version v{number}")


class Recorded:
    """A recorder that runs, and the cluster that it tells."""

    def __init__(self) -> None:
        self.api = MemoryApi(Cluster())
        self.cluster = self.api.cluster
        self.uid: str | None = "uid-1"
        self._began = now()
        self.recorder = EventRecorder(
            self.api, NODE, uid=lambda: self.uid, now=self.now, timing=TIMING, rng=random.Random(1)
        )

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=now() - self._began)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All Events, oldest first."""
        return sorted(self.cluster.events(), key=lambda event: int(event["metadata"]["resourceVersion"]))

    @property
    def told(self) -> list[tuple[str, int]]:
        """Message and count of all Events, oldest first."""
        return [(event["message"], event["count"]) for event in self.events]


@contextlib.asynccontextmanager
async def _recording() -> AsyncIterator[Recorded]:
    recorded = Recorded()
    async with running(recorded.recorder.run()):
        yield recorded


@jumping
async def test_an_event_has_the_shape_that_kubectl_describe_looks_for() -> None:
    """About the Node by name and uid, in namespace default, with component, times and count."""
    async with _recording() as recorded:
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        (event,) = recorded.events
    assert "default" == event["metadata"]["namespace"]
    assert event["metadata"]["name"].startswith(f"{NODE}.")
    assert {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "uid-1"} == event["involvedObject"]
    assert {"component": "registry-agent", "host": NODE} == event["source"]
    assert (APPLIED.reason, APPLIED.message, "Normal", 1) == tuple(
        event[key] for key in ("reason", "message", "type", "count")
    )
    assert ("2026-01-01T00:00:00Z",) * 2 == (event["firstTimestamp"], event["lastTimestamp"])


@jumping
async def test_a_warning_is_one() -> None:
    """What an operator has to look at."""
    async with _recording() as recorded:
        recorded.recorder.record(REFUSED)
        await asyncio.sleep(1)
        assert ["Warning"] == [event["type"] for event in recorded.events]


@jumping
async def test_what_happens_again_is_counted() -> None:
    """One Event with a count and the last time, not ten."""
    async with _recording() as recorded:
        for _ in range(10):
            recorded.recorder.record(REFUSED)
            await asyncio.sleep(60)
        (event,) = recorded.events
    assert (10, "2026-01-01T00:00:00Z", "2026-01-01T00:09:00Z") == (
        event["count"],
        event["firstTimestamp"],
        event["lastTimestamp"],
    )


@jumping
async def test_different_events_are_different() -> None:
    """By reason, message and kind, in their order."""
    async with _recording() as recorded:
        for event in (APPLIED, REFUSED, _event(2), APPLIED):
            recorded.recorder.record(event)
            await asyncio.sleep(1)
        assert [(REFUSED.message, 1), ("version v2", 1), (APPLIED.message, 2)] == recorded.told


@jumping
async def test_an_event_that_waits_already_is_not_queued_twice() -> None:
    """It has not been told yet."""
    async with _recording() as recorded:
        recorded.recorder.record(APPLIED)
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        assert [(APPLIED.message, 1)] == recorded.told
        assert 0 == recorded.recorder.dropped


@jumping
async def test_an_event_that_has_expired_is_created_anew() -> None:
    """The API server forgets Events after an hour: counting on finds nothing then."""
    async with _recording() as recorded:
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(HOUR_S)
        (event,) = recorded.events
        recorded.cluster.delete("events", event["metadata"]["name"], namespace="default")
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        assert [(APPLIED.message, 1)] == recorded.told
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        assert [(APPLIED.message, 2)] == recorded.told


@jumping
async def test_a_node_that_was_registered_anew_has_events_of_its_own() -> None:
    """The old ones are about an object that is gone."""
    async with _recording() as recorded:
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        recorded.uid = "uid-2"
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        assert ["uid-1", "uid-2"] == [event["involvedObject"]["uid"] for event in recorded.events]


@jumping
async def test_a_flapping_node_is_limited_and_still_heard() -> None:
    """A burst that a switch needs, then one a minute; what is left out is counted."""
    async with _recording() as recorded:
        for number in range(3600):
            recorded.recorder.record(_event(number))
            await asyncio.sleep(1)
        expected = BURST + int(HOUR_S / REFILL_S)
        assert expected - 1 <= len(recorded.events) <= expected
        assert 3600 == len(recorded.events) + recorded.recorder.dropped


@jumping
async def test_the_burst_is_there_again_after_a_quiet_time() -> None:
    """Never more than the burst, however long it was quiet."""
    async with _recording() as recorded:
        for round_ in range(2):
            for number in range(2 * BURST):
                recorded.recorder.record(_event(1000 * round_ + number))
                await asyncio.sleep(1e-3)
            assert (round_ + 1) * BURST == len(recorded.events)
            await asyncio.sleep(24 * HOUR_S)


@jumping
async def test_events_wait_for_the_node_to_be_known() -> None:
    """Without its uid nobody would find them."""
    async with _recording() as recorded:
        recorded.uid = None
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(HOUR_S)
        assert [] == recorded.api.requests
        recorded.uid = "uid-1"
        recorded.recorder.wake()
        await asyncio.sleep(1)
        assert [(APPLIED.message, 1)] == recorded.told


@jumping
async def test_the_queue_is_bounded() -> None:
    """Hours without an API leave a handful of Events, the oldest ones, and no memory full of them."""
    async with _recording() as recorded:
        recorded.api.go_down()
        for number in range(40):
            recorded.recorder.record(_event(number))
            await asyncio.sleep(HOUR_S / 6)
        assert MAX_WAITING == len(recorded.recorder._waiting)
        assert 40 - MAX_WAITING == recorded.recorder.dropped
        recorded.api.come_up()
        await asyncio.sleep(TIMING.backoff.cap_s + 1)
        assert [(f"version v{number}", 1) for number in range(MAX_WAITING)] == recorded.told


@jumping
async def test_the_series_that_are_counted_on_are_bounded() -> None:
    """The least recent one is forgotten and begins anew."""
    async with _recording() as recorded:
        for number in range(10 * MAX_SERIES):
            recorded.recorder.record(_event(number))
            await asyncio.sleep(REFILL_S)
        assert MAX_SERIES == len(recorded.recorder._series)
        recorded.recorder.record(_event(0))
        await asyncio.sleep(1)
        assert ("version v0", 1) == recorded.told[-1]


@pytest.mark.parametrize("code", [400, 403, 404, 413, 422])
@jumping
async def test_an_event_that_is_refused_for_good_is_dropped(code: int) -> None:
    """Trying again is in vain; the next one is tried once, too."""
    async with _recording() as recorded:
        fault = recorded.api.faults.add(Answer(code=code), verb="create")
        recorded.recorder.record(_event(1))
        recorded.recorder.record(_event(2))
        await asyncio.sleep(HOUR_S)
        assert (2, 2) == (recorded.api.count("create"), recorded.recorder.dropped)
        recorded.api.faults.remove(fault)
        recorded.recorder.record(_event(3))
        await asyncio.sleep(1e-3)
        assert [("version v3", 1)] == recorded.told


@pytest.mark.parametrize("fault", [Answer(code=500), Answer(code=401), too_many_requests(2), Reset(), Hang()], ids=str)
@jumping
async def test_an_event_that_could_not_be_sent_is_sent_later(fault: Fault) -> None:
    """In its order, each once."""
    async with _recording() as recorded:
        recorded.api.faults.add(fault, times=3)
        for number in range(3):
            recorded.recorder.record(_event(number))
        await asyncio.sleep(5 * TIMING.backoff.cap_s)
        assert [("version v0", 1), ("version v1", 1), ("version v2", 1)] == recorded.told
        assert 0 == recorded.recorder.dropped


@jumping
async def test_an_event_whose_creation_was_not_answered_is_there_once() -> None:
    """The second attempt has the same name, and finds it taken by the first."""
    async with _recording() as recorded:
        recorded.api.faults.add(Answer(code=409), verb="create", times=1)
        recorded.recorder.record(_event(0))
        recorded.recorder.record(_event(1))
        await asyncio.sleep(5 * TIMING.backoff.cap_s)
        assert [("version v1", 1)] == recorded.told


@jumping
async def test_counting_on_that_could_not_be_sent_is_sent_later() -> None:
    """A patch that fails is no reason for a second Event."""
    async with _recording() as recorded:
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(1)
        recorded.api.faults.add(Answer(code=500), verb="patch", times=3)
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(5 * TIMING.backoff.cap_s)
        assert [(APPLIED.message, 2)] == recorded.told


@jumping
async def test_an_api_that_is_down_is_no_hot_loop() -> None:
    """One Event waits for a day."""
    async with _recording() as recorded:
        recorded.api.go_down()
        recorded.recorder.record(APPLIED)
        await asyncio.sleep(24 * HOUR_S)
        assert recorded.api.count("create") < 1.1 * 24 * HOUR_S / (TIMING.backoff.cap_s / 2)


@jumping
async def test_a_long_text_is_taken() -> None:
    """As long as the agent ever makes one, in characters of several bytes."""
    event = Event(reason="ConfigInvalid", message="ü" * 500, is_warning=True)
    async with _recording() as recorded:
        recorded.recorder.record(event)
        await asyncio.sleep(1)
        assert [(event.message, 1)] == recorded.told
