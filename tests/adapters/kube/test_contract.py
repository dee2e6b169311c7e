"""What `agent.kube` relies on in its API: held by the real client on a real socket and by the fake in memory alike."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from agent.errors import ApiFailed
from agent.kube import client, resources
from agent.kube.client import Client
from agent.kube.resources import Patch
from tests.apidouble.cluster import SECRET, Cluster
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
    too_many_requests,
)
from tests.apidouble.server import ApiDouble
from tests.support.kube import NODE, client_of
from tests.support.memory_api import MemoryApi

SECRET_PLACE = resources.secret("d8-system", SECRET)
NODE_PLACE = resources.node(NODE)
STATUS_PLACE = resources.node_status(NODE)
CONDITION = {"type": "RegistryConfigReady", "status": "True", "reason": "InPlace", "message": ""}


@dataclass(kw_only=True)
class Side:
    """One implementation with the cluster behind it."""

    api: Client | MemoryApi
    server: ApiDouble | MemoryApi

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster

    @property
    def faults(self) -> Faults:
        return self.server.faults


@pytest.fixture(params=["real", "fake"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    """Return one implementation after the other, each with a Node and the Secret."""
    cluster = Cluster()
    cluster.add_node(NODE, uid="uid-1")
    cluster.put_secret(b"v1")
    if request.param == "fake":
        api = MemoryApi(cluster)
        yield Side(api=api, server=api)
        return
    async with ApiDouble(cluster) as double, client_of(double) as real:
        yield Side(api=real, server=double)


async def _failure(action: Any) -> ApiFailed:
    with pytest.raises(ApiFailed) as caught:
        await action
    return caught.value


async def _brought(side: Side, *, count: int, since: int) -> list[tuple[str, str | None]]:
    """Return type and annotation `n` of the next events of the Secret's watch."""
    found: list[tuple[str, str | None]] = []
    async with side.api.watch(SECRET_PLACE, str(since), timeout_s=30) as events:
        while len(found) < count:
            event = await events.next(within_s=5)
            assert event is not None
            annotations = event["object"]["metadata"].get("annotations") or {}
            found.append((event["type"], annotations.get("n")))
    return found


async def test_an_object_is_got(side: Side) -> None:
    """As etcd has it, with its kind."""
    found = await side.api.get(SECRET_PLACE)
    assert ("Secret", side.cluster.get("secrets", SECRET, "d8-system").copy()) == (found["kind"], found)


async def test_what_is_not_there_is_not_got(side: Side) -> None:
    """404 with a reason of its own."""
    err = await _failure(side.api.get(resources.secret("d8-system", "other")))
    assert ("ApiNotFound", 404) == (err.reason, err.code)


async def test_a_list_has_the_object_and_the_version_to_watch_from(side: Side) -> None:
    """The collection's version, not the object's."""
    side.cluster.add_node("w1")
    listing = await side.api.list(SECRET_PLACE)
    assert listing.found is not None
    assert (SECRET, str(side.cluster.revision)) == (listing.found["metadata"]["name"], listing.version)


async def test_a_list_of_what_is_not_there_has_a_version_all_the_same(side: Side) -> None:
    """Absence can be watched."""
    listing = await side.api.list(resources.secret("d8-system", "other"))
    assert (None, str(side.cluster.revision)) == (listing.found, listing.version)


async def test_a_strategic_patch_of_the_status_takes_labels_and_merges_conditions(side: Side) -> None:
    """The one patch that the reporter sends."""
    body = {"metadata": {"uid": "uid-1", "labels": {"a": "b"}}, "status": {"conditions": [CONDITION]}}
    found = await side.api.patch(STATUS_PLACE, body, Patch.STRATEGIC)
    types = [condition["type"] for condition in found["status"]["conditions"]]
    assert ("b", ["Ready", "RegistryConfigReady"]) == (found["metadata"]["labels"]["a"], types)
    assert side.cluster.node(NODE) == found


async def test_a_merge_patch_removes_what_is_null(side: Side) -> None:
    """RFC 7386."""
    await side.api.patch(NODE_PLACE, {"metadata": {"labels": {"a": "b", "c": "d"}}}, Patch.MERGE)
    found = await side.api.patch(NODE_PLACE, {"metadata": {"labels": {"a": None}}}, Patch.MERGE)
    assert (None, "d") == (found["metadata"]["labels"].get("a"), found["metadata"]["labels"]["c"])


async def test_a_patch_for_another_incarnation_is_refused(side: Side) -> None:
    """The Node was deleted and registered anew: its uid cannot be changed (422)."""
    err = await _failure(side.api.patch(STATUS_PLACE, {"metadata": {"uid": "of-old"}}, Patch.STRATEGIC))
    assert ("ApiFailed", 422) == (err.reason, err.code)


async def test_a_patch_of_what_is_not_there_is_refused(side: Side) -> None:
    """404."""
    err = await _failure(side.api.patch(resources.node_status("w9"), {}, Patch.STRATEGIC))
    assert 404 == err.code


async def test_an_object_is_created_once(side: Side) -> None:
    """The second time is a conflict."""
    place = resources.lease("d8-system", "restart-0")
    body = {"metadata": {"name": place.name}, "spec": {"holderIdentity": NODE}}
    created = await side.api.create(place, body)
    err = await _failure(side.api.create(place, body))
    assert (NODE, "ApiConflict", 409) == (created["spec"]["holderIdentity"], err.reason, err.code)


async def test_an_update_needs_the_present_version(side: Side) -> None:
    """Optimistic locking: the slower of two is refused."""
    place = resources.lease("d8-system", "restart-0")
    created = await side.api.create(place, {"metadata": {"name": place.name}, "spec": {"holderIdentity": "a"}})
    updated = await side.api.update(place, {**created, "spec": {"holderIdentity": "b"}})
    err = await _failure(side.api.update(place, {**created, "spec": {"holderIdentity": "c"}}))
    assert ("b", 409) == (updated["spec"]["holderIdentity"], err.code)


async def test_a_watch_brings_what_happens_after_its_version(side: Side) -> None:
    """In order, this object only, deletion and new creation included; what happened before it was opened as well."""
    since = side.cluster.revision
    side.cluster.put_secret(b"v2", annotations={"n": "2"})
    side.cluster.put_secret(b"of another name", name="other")
    side.cluster.delete_secret()
    side.cluster.put_secret(b"v3", annotations={"n": "3"})
    assert [("MODIFIED", "2"), ("DELETED", "2"), ("ADDED", "3")] == await _brought(side, count=3, since=since)


async def test_a_watch_brings_what_happens_while_it_is_open(side: Side) -> None:
    """Without any delay but the network's."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        for number in ("2", "3"):
            side.cluster.put_secret(b"v", annotations={"n": number})
            event = await events.next(within_s=5)
            assert event is not None
            assert number == event["object"]["metadata"]["annotations"]["n"]


async def test_a_watch_brings_bookmarks(side: Side) -> None:
    """With the version of the whole cluster and no object."""
    side.server.bookmark_interval_s = 0.05
    since = side.cluster.revision
    async with side.api.watch(SECRET_PLACE, str(since), timeout_s=30) as events:
        side.cluster.add_node("w1")
        event = await events.next(within_s=5)
    assert event is not None
    assert ("BOOKMARK", {"resourceVersion": str(since + 1)}) == (event["type"], event["object"]["metadata"])


async def test_a_watch_ends_when_its_time_is_up(side: Side) -> None:
    """Normally, which is no failure."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=1) as events:
        assert await events.next(within_s=5) is None


@pytest.mark.parametrize(
    ("strike", "reason"),
    [(Cut(), "ApiUnreachable"), (Reset(), "ApiUnreachable"), (Line(), "ApiGarbled"), (Freeze(), "ApiUnreachable")],
)
async def test_a_watch_that_breaks_is_a_failure(side: Side, strike: Strike, reason: str) -> None:
    """Whatever befalls it, after what it had still to say; half-open means silence."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        side.cluster.put_secret(b"v2")
        side.faults.strike(strike)
        event = await events.next(within_s=5)
        assert event is not None
        assert "MODIFIED" == event["type"]
        err = await _failure(events.next(within_s=0.2))
    assert (reason, None) == (err.reason, err.code)


async def test_a_watch_that_is_ended_ends(side: Side) -> None:
    """The server shuts down in good order."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        side.faults.strike(End())
        assert await events.next(within_s=5) is None


async def test_a_watch_brings_an_error_as_an_event(side: Side) -> None:
    """The Status is its object."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        side.faults.strike(ErrorEvent(code=500))
        event = await events.next(within_s=5)
    assert event is not None
    assert ("ERROR", 500) == (event["type"], event["object"]["code"])


async def test_slow_events_are_brought_whole(side: Side) -> None:
    """In chunks of 7 bytes."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        side.faults.strike(Drip(chunk_bytes=7))
        side.cluster.put_secret(b"v2", annotations={"n": "2"})
        event = await events.next(within_s=5)
    assert event is not None
    assert "2" == event["object"]["metadata"]["annotations"]["n"]


async def test_a_version_of_the_forgotten_past_is_an_error_event(side: Side) -> None:
    """As today's servers do it."""
    since = side.cluster.revision
    side.cluster.put_secret(b"v2")
    side.cluster.compact()
    async with side.api.watch(SECRET_PLACE, str(since), timeout_s=30) as events:
        event = await events.next(within_s=5)
    assert event is not None
    assert ("ERROR", 410) == (event["type"], event["object"]["code"])


async def test_a_version_of_the_forgotten_past_may_be_an_answer(side: Side) -> None:
    """As older servers did it."""
    side.server.expires_in_stream = False
    since = side.cluster.revision
    side.cluster.put_secret(b"v2")
    side.cluster.compact()
    with pytest.raises(ApiFailed) as caught:
        async with side.api.watch(SECRET_PLACE, str(since), timeout_s=30):
            pass
    assert 410 == caught.value.code


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Answer(code=401), ("ApiUnauthorized", 401, None)),
        (Answer(code=403), ("ApiForbidden", 403, None)),
        (Answer(code=404), ("ApiFailed", 404, None)),
        (Answer(code=409), ("ApiConflict", 409, None)),
        (too_many_requests(7), ("ApiThrottled", 429, 7.0)),
        (Answer(code=500), ("ApiFailed", 500, None)),
        (Answer(code=503, headers={"Retry-After": "3"}), ("ApiFailed", 503, 3.0)),
        (Reset(), ("ApiUnreachable", None, None)),
        (Hang(), ("ApiUnreachable", None, None)),
        (Garbage(), ("ApiGarbled", None, None)),
        (Truncated(), ("ApiGarbled", None, None)),
    ],
)
async def test_a_request_that_fails_says_how(
    side: Side, fault: Fault, expected: tuple[str, int | None, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same reasons, codes and waits, whatever the verb."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.2)
    side.faults.add(fault)
    for action in (
        side.api.get(SECRET_PLACE),
        side.api.list(SECRET_PLACE),
        side.api.patch(NODE_PLACE, {"metadata": {"labels": {"a": "b"}}}, Patch.MERGE),
        side.api.create(resources.event("e"), {"metadata": {"name": "e"}}),
        side.api.update(NODE_PLACE, {"metadata": {"name": NODE}}),
    ):
        err = await _failure(action)
        assert expected == (err.reason, err.code, err.retry_after_s)


async def test_a_server_that_is_down_is_unreachable(side: Side) -> None:
    """And reachable again when it is up."""
    if isinstance(side.server, ApiDouble):
        await side.server.down()
    else:
        side.server.go_down()
    err = await _failure(side.api.list(SECRET_PLACE))
    assert ("ApiUnreachable", None) == (err.reason, err.code)
    if isinstance(side.server, ApiDouble):
        await side.server.up()
    else:
        side.server.come_up()
    assert (await side.api.list(SECRET_PLACE)).found is not None


async def test_a_watch_is_cut_when_the_server_goes_down(side: Side) -> None:
    """All that were open."""
    async with side.api.watch(SECRET_PLACE, str(side.cluster.revision), timeout_s=30) as events:
        reading = asyncio.create_task(_failure(events.next(within_s=5)))
        await asyncio.sleep(0)
        if isinstance(side.server, ApiDouble):
            await side.server.down()
        else:
            side.server.go_down()
        assert "ApiUnreachable" == (await reading).reason
