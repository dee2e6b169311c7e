"""The Secret as a source: when a change counts, when an absence does, and what is no document."""

import asyncio
import base64
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.desired import Absent, Present, Reading, Unreadable
from agent.errors import ApiFailed, ConfigInvalid, CredentialsUnusable
from agent.kube import resources
from agent.kube.client import Listing, Object
from agent.kube.resources import Resource
from agent.kube.source import URGENT_ANNOTATION, SecretSource
from agent.kube.watch import Timing
from tests.apidouble.cluster import SECRET, Cluster
from tests.apidouble.faults import Answer, ErrorEvent, Hang
from tests.apidouble.server import ApiDouble
from tests.support.faketime import jumping, now
from tests.support.kube import FAST, Bell, client_of, running
from tests.support.kubeconfigs import CANARY
from tests.support.memory_api import MemoryApi

PLACE = resources.secret("d8-system", SECRET)
DELAY_S = 7.0
TIMING = Timing()
URGENT = {URGENT_ANNOTATION: ""}


class Watched:
    """A source that runs, with its cluster and the wishes for a pass."""

    def __init__(self, api: MemoryApi, *, delay_s: float) -> None:
        self.api = api
        self.cluster = api.cluster
        self.bell = Bell()
        self.source = SecretSource(
            api,
            PLACE,
            key="config",
            delay_s=delay_s,
            on_change=self.bell.ring,
            timing=TIMING,
            rng=random.Random(1),
        )

    async def says(self, document: bytes | None) -> None:
        """Check what is read now, without any time passing; None for absent."""
        expected: Reading = Absent() if document is None else Present(document=document)
        before = now()
        assert expected == await self.source.read(is_confirming=False)
        assert before == now()

    async def fails(self) -> Any:
        """Return the error of a source that cannot be read."""
        reading = await self.source.read(is_confirming=False)
        assert isinstance(reading, Unreadable)
        return reading.error


@contextlib.asynccontextmanager
async def _source(*documents: bytes, delay_s: float = DELAY_S, api: MemoryApi | None = None) -> AsyncIterator[Watched]:
    """Run a source over a cluster whose Secret has this document, if any, until the first word is there."""
    api = api or MemoryApi(Cluster())
    for document in documents:
        api.cluster.put_secret(document)
    watched = Watched(api, delay_s=delay_s)
    async with running(watched.source.watch.run()):
        await asyncio.sleep(1e-3)
        yield watched


# When a change counts.


@jumping
async def test_the_first_word_counts_at_once() -> None:
    """A node that starts has nothing to wait for."""
    async with _source(b"v1") as watched:
        await watched.says(b"v1")
        assert (1, None) == (watched.bell.rings, watched.source.waits_s)


@jumping
async def test_that_there_is_nothing_counts_at_once_as_the_first_word() -> None:
    """A cluster without the Secret."""
    async with _source() as watched:
        await watched.says(None)
        assert (1, None) == (watched.bell.rings, watched.source.waits_s)


@jumping
async def test_a_change_counts_after_the_nodes_own_delay() -> None:
    """What stood before stays in force meanwhile, and the wait can be seen."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(2)
        await watched.says(b"v1")
        assert DELAY_S - 2 == pytest.approx(watched.source.waits_s)
        await asyncio.sleep(DELAY_S - 2 - 0.01)
        assert 1 == watched.bell.rings
        await watched.says(b"v1")
        await asyncio.sleep(0.02)
        await watched.says(b"v2")
        assert (2, None) == (watched.bell.rings, watched.source.waits_s)


@jumping
async def test_a_later_change_does_not_prolong_the_wait() -> None:
    """A Secret that somebody edits all the time is followed all the same; the newest content counts."""
    async with _source(b"v0") as watched:
        for number in range(1, 30):
            watched.cluster.put_secret(b"v%d" % number)
            await asyncio.sleep(1)
        assert 1 + 28 // DELAY_S == watched.bell.rings
        await watched.says(b"v28")


@jumping
async def test_a_change_that_is_taken_back_was_none() -> None:
    """Nothing is adopted, and the next change waits its whole time."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(DELAY_S - 1)
        watched.cluster.put_secret(b"v1")
        await asyncio.sleep(1e-3)
        assert watched.source.waits_s is None
        watched.cluster.put_secret(b"v3")
        await asyncio.sleep(DELAY_S - 1)
        await watched.says(b"v1")
        await asyncio.sleep(1.1)
        await watched.says(b"v3")


@jumping
async def test_an_urgent_change_counts_at_once() -> None:
    """Whatever the annotation's value."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v2", annotations=URGENT)
        await asyncio.sleep(1e-3)
        await watched.says(b"v2")
        assert (2, None) == (watched.bell.rings, watched.source.waits_s)


@jumping
async def test_a_change_can_be_made_urgent_while_it_waits() -> None:
    """kubectl annotate, when somebody grows impatient."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(1)
        watched.cluster.put_secret(b"v2", annotations=URGENT)
        await asyncio.sleep(1e-3)
        await watched.says(b"v2")
        await asyncio.sleep(2 * DELAY_S)
        assert 2 == watched.bell.rings


@jumping
async def test_without_a_spread_every_change_counts_at_once() -> None:
    """rollout_spread_s = 0."""
    async with _source(b"v1", delay_s=0.0) as watched:
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(1e-3)
        await watched.says(b"v2")


@jumping
async def test_other_changes_of_the_secret_are_no_changes() -> None:
    """Other keys, other annotations, labels: nobody waits and nobody is woken."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v1", annotations={"note": "x"})
        await asyncio.sleep(2 * DELAY_S)
        assert (1, None) == (watched.bell.rings, watched.source.waits_s)


@jumping
async def test_a_change_that_a_new_list_finds_waits_as_well() -> None:
    """After an outage all nodes see the change in one second."""
    async with _source(b"v1") as watched:
        watched.cluster.put_secret(b"v2")
        watched.cluster.compact()
        watched.api.faults.strike(ErrorEvent())
        await asyncio.sleep(3)
        assert 2 == watched.api.count("list")
        await watched.says(b"v1")
        assert watched.source.waits_s is not None
        await asyncio.sleep(DELAY_S)
        await watched.says(b"v2")


# When an absence counts.


@jumping
async def test_a_deletion_waits_as_well() -> None:
    """The most drastic change of all."""
    async with _source(b"v1") as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(DELAY_S - 1)
        await watched.says(b"v1")
        await asyncio.sleep(1.1)
        await watched.says(None)
        assert 2 == watched.bell.rings


@jumping
async def test_a_secret_that_is_back_before_the_delay_was_never_away() -> None:
    """Deleted and created again, as some tools replace objects."""
    async with _source(b"v1") as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(1)
        watched.cluster.put_secret(b"v1")
        await asyncio.sleep(10 * DELAY_S)
        await watched.says(b"v1")


@jumping
async def test_a_secret_that_is_back_with_another_content_was_changed() -> None:
    """From the old to the new, without an absence in between."""
    async with _source(b"v1") as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(1)
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(DELAY_S - 1.1)
        await watched.says(b"v1")
        await asyncio.sleep(0.2)
        await watched.says(b"v2")


@jumping
async def test_an_absence_is_confirmed_by_a_live_reading() -> None:
    """One get, past every cache of the agent's own."""
    async with _source() as watched:
        assert Absent() == await watched.source.read(is_confirming=True)
        assert 1 == watched.api.count("get")


@jumping
async def test_a_secret_that_is_there_needs_no_confirmation() -> None:
    """The question costs nothing then."""
    async with _source(b"v1") as watched:
        assert Present(document=b"v1") == await watched.source.read(is_confirming=True)
        assert 0 == watched.api.count("get")


@jumping
async def test_a_live_reading_that_finds_the_secret_wins() -> None:
    """Created again while its absence was confirmed, and before the watch or the delay brought it."""
    async with _source(b"v1") as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(DELAY_S + 1)
        await watched.says(None)
        watched.cluster.put_secret(b"v2")
        assert Present(document=b"v2") == await watched.source.read(is_confirming=True)


@jumping
async def test_a_secret_that_a_live_reading_has_found_is_not_absent_again() -> None:
    """The next pass, whatever wakes it, must not report a deletion anew while the delay of the change still runs."""
    async with _source(b"v1") as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(DELAY_S + 1)
        await watched.says(None)
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(1)
        assert Present(document=b"v2") == await watched.source.read(is_confirming=True)
        await watched.says(b"v2")


@jumping
async def test_a_list_that_a_live_reading_contradicts_releases_nothing() -> None:
    """A list that wrongly came back empty, although its version is newer than the Secret."""
    async with _source(b"v1") as watched:
        watched.source.watch._learn(None)
        watched.source.watch._newest = 10**9
        await asyncio.sleep(DELAY_S + 1)
        await watched.says(None)
        assert Present(document=b"v1") == await watched.source.read(is_confirming=True)
        await watched.says(b"v1")
        await asyncio.sleep(100)  # the next bookmark has it listed again
        await watched.says(b"v1")
        assert 2 == watched.api.count("list", "secrets")


@pytest.mark.parametrize("fault", [Answer(code=500), Answer(code=401), Answer(code=403), Hang()], ids=str)
@jumping
async def test_an_absence_that_cannot_be_confirmed_is_none(fault: Answer | Hang) -> None:
    """Nobody knows, so nothing is released."""
    async with _source() as watched:
        watched.api.faults.add(fault, verb="get")
        reading = await watched.source.read(is_confirming=True)
        assert isinstance(reading, Unreadable)
        assert isinstance(reading.error, ApiFailed)


@pytest.mark.parametrize("body", [None, b"404 page not found\n", b"<html>no such route</html>"], ids=str)
async def test_a_404_that_is_not_about_the_secret_is_no_absence(body: bytes | None) -> None:
    """A proxy's, or a server's that has not installed its paths yet: only a Status that names the Secret counts."""
    async with ApiDouble() as double, client_of(double) as api:
        source = SecretSource(
            api, PLACE, key="config", delay_s=0, on_change=Bell().ring, timing=FAST, rng=random.Random(1)
        )
        async with running(source.watch.run()):
            assert Absent() == await source.read(is_confirming=True)
            double.faults.add(Answer(code=404, body=body), verb="get")
            assert isinstance(await source.read(is_confirming=True), Unreadable)


@pytest.mark.parametrize("fault", [Answer(code=404), Answer(code=500)], ids=str)
@jumping
async def test_a_list_that_fails_is_no_absence(fault: Answer) -> None:
    """Not even with 404: the namespace or the path is wrong then, and a list is never "not found"."""
    api = MemoryApi(Cluster())
    api.faults.add(fault, verb="list")
    async with _source(b"v1", api=api) as watched:
        assert isinstance(await watched.fails(), ApiFailed)


class Bent(MemoryApi):
    """An API whose objects are other than they should be."""

    def __init__(self, cluster: Cluster, **fields: Any) -> None:
        super().__init__(cluster)
        self.fields = fields

    async def get(self, resource: Resource) -> Object:
        return {**await super().get(resource), **self.fields}

    async def list(self, resource: Resource) -> Listing:
        listing = await super().list(resource)
        return Listing(found={**(listing.found or {}), **self.fields}, version=listing.version)


@pytest.mark.parametrize("answer", [{"metadata": None}, {"metadata": 7}, {"metadata": {"annotations": 7}}], ids=str)
@jumping
async def test_a_live_reading_without_metadata_is_survived(answer: dict[str, Any]) -> None:
    """An answer that is an object, and no Secret."""
    async with _source() as watched:
        watched.api.cluster.put_secret(b"v2")
        bent = Bent(watched.api.cluster, **answer)
        watched.source._api = bent
        assert Present(document=b"v2") == await watched.source.read(is_confirming=True)


# What is no document.


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "is missing"),
        ({}, "is missing"),
        ({"other": "djE="}, "is missing"),
        ({"config": None}, "is missing"),
        ({"config": ""}, "is missing"),
        ({"config": 7}, "is missing"),
        ({"config": ["djE="]}, "is missing"),
        ({"config": {"a": "djE="}}, "is missing"),
        ("djE=", "is missing"),
        ({"config": "%%%"}, "is not base64"),
        ({"config": "djE"}, "is not base64"),
        ({"config": "djÉ="}, "is not base64"),
        ({"config": f"{CANARY}!"}, "is not base64"),
    ],
    ids=str,
)
@jumping
async def test_a_secret_without_a_document_is_refused(data: Any, why: str) -> None:
    """Not absent: the last good copy stays in force; and no part of it is told."""
    api = Bent(Cluster(), data=data)
    async with _source(b"v1", api=api) as watched:
        err = await watched.fails()
    assert isinstance(err, ConfigInvalid)
    assert f"data.config: {why}" in str(err)
    assert CANARY not in str(err)


@jumping
async def test_line_ends_in_base64_do_not_matter() -> None:
    """Some tools wrap it."""
    wrapped = "\n".join(base64.b64encode(b"a document of some length").decode()[i : i + 8] for i in range(0, 40, 8))
    async with _source(b"v1", api=Bent(Cluster(), data={"config": wrapped})) as watched:
        await watched.says(b"a document of some length")


@jumping
async def test_another_key_can_hold_the_document() -> None:
    """secret_key of the settings."""
    api = MemoryApi(Cluster())
    api.cluster.put_secret(b"v1", key="other.yaml")
    source = SecretSource(
        api, PLACE, key="other.yaml", delay_s=0, on_change=Bell().ring, timing=TIMING, rng=random.Random(1)
    )
    async with running(source.watch.run()):
        assert Present(document=b"v1") == await source.read(is_confirming=False)


@jumping
async def test_a_source_does_not_show_its_document() -> None:
    """repr ends in logs and tracebacks."""
    async with _source(CANARY.encode()) as watched:
        shown = repr((watched.source.watch.found, await watched.source.read(is_confirming=False)))
    assert CANARY not in shown
    assert base64.b64encode(CANARY.encode()).decode() not in shown


# When the API fails.


@jumping
async def test_an_api_that_is_lost_is_told_after_a_minute_and_found_again() -> None:
    """Until then what was known holds; a pass is asked for at both ends."""
    async with _source(b"v1") as watched:
        watched.api.go_down()
        await asyncio.sleep(TIMING.stale_s - 1)
        await watched.says(b"v1")
        await asyncio.sleep(TIMING.backoff.cap_s + 1)
        assert "ApiUnreachable" == (await watched.fails()).reason
        assert 2 == watched.bell.rings
        watched.api.come_up()
        await asyncio.sleep(TIMING.backoff.cap_s + 1)
        await watched.says(b"v1")
        assert 3 == watched.bell.rings


@jumping
async def test_an_api_that_is_lost_while_a_change_waits_is_told() -> None:
    """The change was seen, but nobody knows whether it is still what is wanted."""
    async with _source(b"v1", delay_s=300) as watched:
        watched.cluster.put_secret(b"v2")
        await asyncio.sleep(1)
        watched.api.go_down()
        await asyncio.sleep(TIMING.stale_s + TIMING.backoff.cap_s + 1)
        assert "ApiUnreachable" == (await watched.fails()).reason
        assert 2 == watched.bell.rings


@jumping
async def test_an_absence_is_not_believed_when_the_api_is_lost() -> None:
    """Deleted, then an outage: no release on what nobody can confirm."""
    async with _source(b"v1", delay_s=0.0) as watched:
        watched.cluster.delete_secret()
        await asyncio.sleep(1)
        watched.api.go_down()
        assert isinstance(await watched.source.read(is_confirming=True), Unreadable)
        await asyncio.sleep(TIMING.stale_s + TIMING.backoff.cap_s + 1)
        assert isinstance(await watched.source.read(is_confirming=False), Unreadable)


@jumping
async def test_the_first_reading_waits_for_the_first_word() -> None:
    """A start is one pass with the right config, not one without and one with it."""
    api = MemoryApi(Cluster(), latency_s=2.0)
    async with _source(b"v1", api=api) as watched:
        before = now()
        assert Present(document=b"v1") == await watched.source.read(is_confirming=False)
        assert 2 == pytest.approx(now() - before, abs=0.01)


@jumping
async def test_the_first_reading_waits_no_longer_than_five_seconds() -> None:
    """The last good copy is there, and a hanging API must not keep the node from being repaired."""
    api = MemoryApi(Cluster())
    api.faults.add(Hang())
    async with _source(b"v1", api=api) as watched:
        before = now()
        err = await watched.fails()
        assert TIMING.first_word_s == pytest.approx(now() - before)
        assert ("ApiUnreachable", f"list {PLACE}: no answer yet") == (err.reason, err.message)


@jumping
async def test_further_readings_do_not_wait_for_the_first_word_again() -> None:
    """While a server hangs, drift on the node is still repaired within a second."""
    api = MemoryApi(Cluster())
    api.faults.add(Hang())
    async with _source(b"v1", api=api) as watched:
        await watched.fails()
        before = now()
        await watched.fails()
        assert before == now()


@jumping
async def test_an_api_that_refuses_from_the_start_is_told_at_once() -> None:
    """With the reason that helps."""
    api = MemoryApi(Cluster())
    api.faults.add(Answer(code=403))
    async with _source(b"v1", api=api) as watched:
        before = now()
        assert "ApiForbidden" == (await watched.fails()).reason
        assert before == now()


class Keyless(MemoryApi):
    """An API for which there are no credentials yet."""

    has_key = False

    async def list(self, resource: Resource) -> Listing:
        if not self.has_key:
            self.requests.clear()
            raise CredentialsUnusable("kubeconfig /x: No such file or directory")
        return await super().list(resource)


@jumping
async def test_a_watch_that_is_hurried_looks_for_missing_credentials_at_once() -> None:
    """A kubeconfig that appears is not found after the backoff only."""
    api = Keyless(Cluster())
    async with _source(b"v1", api=api) as watched:
        await asyncio.sleep(3600)
        assert isinstance(await watched.fails(), CredentialsUnusable)
        api.has_key = True
        watched.source.watch.hurry()
        await asyncio.sleep(1e-3)
        await watched.says(b"v1")
