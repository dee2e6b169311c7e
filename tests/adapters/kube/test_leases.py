"""One node at a time: Leases against the API double on real sockets, and in fake time where hours must pass."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from agent.approval import Granted, Waiting
from agent.errors import ApiFailed, ApprovalLost
from agent.kube import leases
from agent.kube.client import Client
from agent.kube.resources import lease
from agent.kube.watch import Timing
from tests.apidouble.cluster import MERGE_PATCH, Cluster
from tests.apidouble.faults import Answer, Cut, End, ErrorEvent, Hang, Reset, Strike, Truncated
from tests.apidouble.server import ApiDouble
from tests.support.approvals import NAMESPACE, Prompt, Rival, once
from tests.support.faketime import jumping, now
from tests.support.kube import client_of, running
from tests.support.memory_api import MemoryApi

NAME = "registry-agent-restart-0"
TTL_S = 120


@pytest.fixture
async def double() -> AsyncIterator[ApiDouble]:
    """Return a running API."""
    async with ApiDouble() as made:
        yield made


@pytest.fixture
async def api(double: ApiDouble) -> AsyncIterator[Client]:
    """Return a client that several nodes use."""
    async with client_of(double) as made:
        yield made


def _spec(cluster: Cluster, slot: int = 0) -> dict[str, Any]:
    found = cluster.lease(f"registry-agent-restart-{slot}")
    assert found is not None
    return dict(found["spec"])


def _holders(cluster: Cluster, count: int) -> list[str]:
    return sorted(_spec(cluster, slot)["holderIdentity"] for slot in range(count))


def _requests(double: ApiDouble) -> list[str]:
    return [request.verb for request in double.requests]


# Taking, waiting, giving back.


async def test_one_of_two_nodes_restarts_at_a_time(double: ApiDouble, api: Client) -> None:
    """The other is told for whom it waits, and called when its turn has come."""
    first, second = Rival(api, "w0"), Rival(api, "w1")
    async with running(first.approval.run(), second.approval.run()):
        assert Granted() == await first.approval.ask()
        since = _spec(double.cluster)["acquireTime"]
        assert Waiting(reason=f"waiting for w0 (since {since})") == await second.approval.ask()
        await double.until(lambda: double.watching("leases") == 1)
        assert 0 == second.bell.rings
        await first.approval.release()
        await second.bell.until(lambda: second.bell.rings == 1)
        before = len(double.requests)
        assert Granted() == await second.approval.ask()
        assert ["get", "update"] == _requests(double)[before:]
    assert "w1" == _spec(double.cluster)["holderIdentity"]


async def test_a_lease_is_as_client_go_would_write_it(double: ApiDouble, api: Client) -> None:
    """Holder, times and transitions; and its Node owns it, so that it goes with the Node."""
    rival = Rival(api, "w0")
    await rival.approval.ask()
    found = double.cluster.lease(NAME)
    assert found is not None
    owner = {"apiVersion": "v1", "kind": "Node", "name": "w0", "uid": "uid-w0"}
    assert [owner] == found["metadata"]["ownerReferences"]
    assert ("w0", TTL_S, 0) == tuple(
        found["spec"][key] for key in ("holderIdentity", "leaseDurationSeconds", "leaseTransitions")
    )
    assert found["spec"]["acquireTime"] == found["spec"]["renewTime"]

    await rival.approval.keep()
    kept = _spec(double.cluster)
    assert kept["acquireTime"] == found["spec"]["acquireTime"] < kept["renewTime"]

    await rival.approval.release()
    free = double.cluster.lease(NAME)
    assert free is not None
    assert ("", 1) == (free["spec"]["holderIdentity"], free["spec"]["leaseDurationSeconds"])
    assert "ownerReferences" not in free["metadata"]


async def test_of_many_who_ask_at_once_one_is_granted(double: ApiDouble, api: Client) -> None:
    """For a Lease that has to be created, and for one that is free."""
    rivals = [Rival(api, f"w{number}") for number in range(8)]
    for _ in range(3):
        answers = await asyncio.gather(*(rival.is_granted() for rival in rivals))
        assert 1 == sum(answers)
        await rivals[answers.index(True)].approval.release()
        assert [""] == _holders(double.cluster, 1)
    assert 1 == double.count("create", "leases", code=201)
    assert 0 < double.count("create", "leases", code=409)


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_who_is_a_moment_slower_waits(double: ApiDouble, api: Client, verb: str) -> None:
    """Somebody else takes the Lease between our look and our write: 409."""
    place = lease(NAMESPACE, NAME)
    taken = {"metadata": {"name": NAME}, "spec": {"holderIdentity": "w1"}}
    if verb == "create":
        double.faults.add(Reset(), verb=verb, when=once(lambda: double.cluster.create("leases", taken, NAMESPACE)))
    else:
        free = await api.create(place, {"metadata": {"name": NAME}, "spec": {}})
        overtaken = {**free, "spec": {"holderIdentity": "w1"}}
        double.faults.add(
            Reset(),
            verb=verb,
            when=once(lambda: double.cluster.update("leases", NAME, overtaken, namespace=NAMESPACE)),
        )
    rival = Rival(api, "w0")
    assert Waiting(reason="another node was faster") == await rival.approval.ask()
    assert Waiting(reason="waiting for w1 (since ?)") == await rival.approval.ask()


async def test_two_of_three_nodes_restart_when_two_may(double: ApiDouble, api: Client) -> None:
    """As many Leases as nodes at a time; who waits names both."""
    rivals = [Rival(api, f"w{number}", count=2) for number in range(3)]
    async with running(*(rival.approval.run() for rival in rivals)):
        assert [True, True] == [await rival.is_granted() for rival in rivals[:2]]
        answer = await rivals[2].approval.ask()
        assert isinstance(answer, Waiting)
        assert ["w0", "w1"] == [part.split()[0] for part in answer.reason.removeprefix("waiting for ").split(", ")]
        await rivals[1].approval.release()
        await rivals[2].bell.until(lambda: rivals[2].bell.rings > 0)
        assert await rivals[2].is_granted()
    assert ["w0", "w2"] == _holders(double.cluster, 2)


async def test_asking_again_renews(double: ApiDouble, api: Client) -> None:
    """Each pass asks; what is held stays held, and is one Lease only."""
    rival = Rival(api, "w0", count=3)
    assert [True, True, True] == [await rival.is_granted() for _ in range(3)]
    assert ["w0"] == [spec["holderIdentity"] for slot in range(3) if (spec := _held(double.cluster, slot))]


def _held(cluster: Cluster, slot: int) -> dict[str, Any] | None:
    found = cluster.lease(f"registry-agent-restart-{slot}")
    return found and found["spec"]


async def test_release_may_be_called_at_any_time_and_again(double: ApiDouble, api: Client) -> None:
    """When nothing is held, it asks nothing, but once whether an agent of before has held anything."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    for _ in range(3):
        await rival.approval.release()
    assert 1 == len(_requests(double))
    await rival.approval.ask()
    await rival.approval.release()
    assert await other.is_granted()
    before = len(double.requests)
    await rival.approval.release()
    assert before == len(double.requests)
    assert "w1" == _spec(double.cluster)["holderIdentity"]


async def test_an_agent_that_was_restarted_has_its_lease_again_at_once(double: ApiDouble, api: Client) -> None:
    """No ghost of ourselves: same node, same holder; nobody else got it meanwhile."""
    assert await Rival(api, "w0").is_granted()
    before = _spec(double.cluster)
    again = Rival(api, "w0", ttl_s=60)
    assert await again.is_granted()
    after = _spec(double.cluster)
    assert {**before, "renewTime": after["renewTime"], "leaseDurationSeconds": 60} == after
    await again.approval.release()
    assert await Rival(api, "w1").is_granted()


async def test_an_agent_that_was_restarted_gives_back_what_the_one_before_has_held(
    double: ApiDouble, api: Client
) -> None:
    """It need not ask first: the switch was finished meanwhile."""
    assert await Rival(api, "w0").is_granted()
    await Rival(api, "w0").approval.release()
    assert "" == _spec(double.cluster)["holderIdentity"]


async def test_labels_of_others_stay_on_a_lease(double: ApiDouble, api: Client) -> None:
    """Whoever labels Leases for a purpose of their own."""
    rival = Rival(api, "w0")
    await rival.approval.ask()
    double.cluster.patch("leases", NAME, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH, namespace=NAMESPACE)
    await rival.approval.keep()
    await rival.approval.release()
    found = double.cluster.lease(NAME)
    assert found is not None
    assert {"a": "b"} == found["metadata"]["labels"]


# Holders that die, and clocks that are wrong.


@pytest.mark.parametrize("skew", [timedelta(), timedelta(hours=-1), timedelta(hours=1)])
async def test_a_dead_holder_is_replaced_after_its_ttl(double: ApiDouble, api: Client, skew: timedelta) -> None:
    """As this node has seen it, whatever date the holder believes in."""
    dead, heir = Rival(api, "w0", skew=skew), Rival(api, "w1")
    assert await dead.is_granted()
    assert not await heir.is_granted()
    heir.pass_time(TTL_S - 5)
    assert not await heir.is_granted()
    heir.pass_time(5)
    assert await heir.is_granted()
    assert ("w1", 1) == tuple(_spec(double.cluster)[key] for key in ("holderIdentity", "leaseTransitions"))


async def test_who_waits_for_a_dead_holder_is_called(double: ApiDouble, api: Client) -> None:
    """In real time, with a TTL of one second."""
    dead, heir = Rival(api, "w0", ttl_s=1), Rival(api, "w1")
    async with running(heir.approval.run()):
        assert await dead.is_granted()
        assert not await heir.is_granted()
        asked_at = now()
        await heir.bell.until(lambda: heir.bell.rings > 0)
        assert 0.9 < now() - asked_at < 4
        assert await heir.is_granted()
    assert "w1" == _spec(double.cluster)["holderIdentity"]


async def test_a_holder_that_renews_is_not_replaced(api: Client) -> None:
    """However long it takes; the count begins anew with each renewal that was seen."""
    slow, other = Rival(api, "w0"), Rival(api, "w1")
    assert await slow.is_granted()
    for _ in range(5):
        assert not await other.is_granted()
        other.pass_time(TTL_S - 5)
        await slow.approval.keep()
    assert not await other.is_granted()


async def test_the_holders_own_duration_counts(api: Client) -> None:
    """Two agents with different settings."""
    dead, heir = Rival(api, "w0", ttl_s=30), Rival(api, "w1", ttl_s=300)
    assert await dead.is_granted()
    assert not await heir.is_granted()
    heir.pass_time(30)
    assert await heir.is_granted()


async def test_a_lost_lease_is_noticed(double: ApiDouble, api: Client) -> None:
    """The agent was frozen for too long: it hears of it, and leaves its successor alone."""
    frozen, heir = Rival(api, "w0"), Rival(api, "w1")
    await frozen.is_granted()
    await heir.is_granted()
    heir.pass_time(TTL_S)
    assert await heir.is_granted()
    with pytest.raises(ApprovalLost):
        await frozen.approval.keep()
    await frozen.approval.release()
    assert "w1" == _spec(double.cluster)["holderIdentity"]
    assert not await frozen.is_granted()


async def test_a_lost_lease_is_not_given_back(double: ApiDouble, api: Client) -> None:
    """Even when `release` is the first to find out."""
    frozen, heir = Rival(api, "w0"), Rival(api, "w1")
    await frozen.is_granted()
    await heir.is_granted()
    heir.pass_time(TTL_S)
    await heir.is_granted()
    await frozen.approval.release()
    assert "w1" == _spec(double.cluster)["holderIdentity"]


async def test_a_lease_that_was_deleted_is_lost(double: ApiDouble, api: Client) -> None:
    """Anybody could have created it anew; and what was never held is lost as well."""
    rival = Rival(api, "w0")
    with pytest.raises(ApprovalLost):
        await rival.approval.keep()
    await rival.is_granted()
    double.cluster.delete("leases", NAME, namespace=NAMESPACE)
    with pytest.raises(ApprovalLost):
        await rival.approval.keep()
    await rival.approval.release()
    assert double.cluster.lease(NAME) is None


# The API fails.


async def test_an_api_that_is_down_is_a_failure_and_nothing_else(double: ApiDouble, api: Client) -> None:
    """Neither a permission nor a loss; until nobody could have renewed in time."""
    rival = Rival(api, "w0")
    async with double.outage():
        with pytest.raises(ApiFailed, match="get leases registry-agent-restart-0 in namespace d8-system"):
            await rival.approval.ask()
    assert await rival.is_granted()
    await double.down()
    rival.pass_time(TTL_S - 5)
    with pytest.raises(ApiFailed):
        await rival.approval.keep()
    rival.pass_time(5)
    with pytest.raises(ApprovalLost):
        await rival.approval.keep()
    await double.up()
    assert await rival.is_granted()


async def test_a_lease_that_could_not_be_given_back_is_given_back_later(double: ApiDouble, api: Client) -> None:
    """It counts as held until then."""
    rival = Rival(api, "w0")
    await rival.is_granted()
    async with double.outage():
        with pytest.raises(ApiFailed):
            await rival.approval.release()
    await rival.approval.keep()
    programmed = double.faults.add(Answer(code=500), verb="update")
    with pytest.raises(ApiFailed):
        await rival.approval.release()
    double.faults.remove(programmed)
    await rival.approval.release()
    assert "" == _spec(double.cluster)["holderIdentity"]


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_an_answer_that_got_lost_is_found_out(double: ApiDouble, api: Client, verb: str) -> None:
    """The server has done what was asked: the Lease is ours, which the next look shows."""
    rival = Rival(api, "w0")
    if verb == "update":
        await rival.is_granted()
        await rival.approval.release()
    double.faults.add(Truncated(), verb=verb, times=1)
    with pytest.raises(ApiFailed):
        await rival.approval.ask()
    assert await rival.is_granted()
    assert "w0" == _spec(double.cluster)["holderIdentity"]


async def test_asking_does_not_take_long(double: ApiDouble, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing must not hold up a pass."""
    monkeypatch.setattr(leases, "ASK_S", 0.05)
    programmed = double.faults.add(Hang())
    rival = Rival(api, "w0")
    with pytest.raises(ApiFailed, match="no answer within 0 s") as caught:
        await rival.approval.ask()
    assert "ApiUnreachable" == caught.value.reason
    double.faults.remove(programmed)
    monkeypatch.undo()
    assert await rival.is_granted()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
async def test_a_missing_right_is_named(double: ApiDouble, api: Client, verb: str) -> None:
    """Verb, kind, name and namespace."""
    rival = Rival(api, "w0")
    if verb == "update":
        await rival.is_granted()
    double.faults.add(Answer(code=403), verb=verb)
    which = "leases" if verb == "create" else f"leases {NAME}"  # RBAC cannot name what is not there yet
    with pytest.raises(ApiFailed, match=f"grant the verb {verb} on {which} in namespace {NAMESPACE}"):
        await rival.approval.ask()


async def test_a_namespace_that_is_not_there_is_a_failure(api: Client) -> None:
    """Not a reason to wait for ever."""
    rival = Rival(api, "w0")
    rival.approval._places = [lease("nowhere", NAME)]
    rival.approval._seen = dict.fromkeys(rival.approval._places, *rival.approval._seen.values())
    with pytest.raises(ApiFailed, match="create leases"):
        await rival.approval.ask()


async def test_an_edit_by_somebody_else_is_no_loss(double: ApiDouble, api: Client) -> None:
    """A conflict, which the next call gets over."""
    rival = Rival(api, "w0")
    await rival.is_granted()
    edit = {"metadata": {"labels": {"a": "b"}}}
    double.faults.add(
        Reset(),
        verb="update",
        when=once(lambda: double.cluster.patch("leases", NAME, edit, MERGE_PATCH, namespace=NAMESPACE)),
    )
    with pytest.raises(ApiFailed) as caught:
        await rival.approval.keep()
    assert 409 == caught.value.code
    await rival.approval.keep()


# Waiting costs little, and idling nothing.


async def test_an_idle_node_asks_nothing(double: ApiDouble, api: Client) -> None:
    """Nor one that has got what it wanted, or wants it no more: their watches end."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    async with running(rival.approval.run(), other.approval.run()):
        await asyncio.sleep(0)
        assert [] == _requests(double)
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        await other.approval.release()
        await double.until(lambda: double.watching() == 0)
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        await rival.approval.release()
        await other.bell.until(lambda: other.bell.rings > 0)
        assert await other.is_granted()
        await double.until(lambda: double.watching() == 0)
        before = len(double.requests)
        await rival.approval.release()
        assert before == len(double.requests)


async def test_who_waits_may_ask_as_often_as_he_likes(double: ApiDouble, api: Client) -> None:
    """The watch knows the answer, newer names included."""
    first, second, third = (Rival(api, f"w{number}") for number in range(3))
    async with running(third.approval.run()):
        await first.is_granted()
        await third.is_granted()
        await double.until(lambda: double.watching() == 1)
        await first.approval.keep()
        before = double.count("get", "leases")
        for _ in range(5):
            assert not await third.is_granted()
        assert before == double.count("get", "leases")
        await first.approval.release()
        await second.is_granted()
        await third.bell.until(lambda: third.bell.rings > 0)
        answer = await third.approval.ask()
        assert isinstance(answer, Waiting)
        assert answer.reason.startswith("waiting for w1 ")


async def test_a_lease_that_goes_with_its_node_is_free(double: ApiDouble, api: Client) -> None:
    """The garbage collector deletes it: the next may go at once."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    async with running(other.approval.run()):
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        double.cluster.delete("leases", NAME, namespace=NAMESPACE)
        await other.bell.until(lambda: other.bell.rings > 0)
        assert await other.is_granted()


@pytest.mark.parametrize("strike", [Reset(), Cut(), End(), ErrorEvent(code=410)], ids=str)
async def test_a_watch_that_breaks_misses_nothing(double: ApiDouble, api: Client, strike: Strike) -> None:
    """The Lease is given back while nobody looks."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    async with running(other.approval.run()):
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        double.faults.strike(strike)
        await rival.approval.release()
        await other.bell.until(lambda: other.bell.rings > 0)
        assert await other.is_granted()


async def test_a_watch_that_fails_is_not_believed(double: ApiDouble, api: Client) -> None:
    """Neither that a Lease is free nor that it is held: whoever asks has the API's own answer."""
    rival, other, third = (Rival(api, f"w{number}") for number in range(3))
    async with running(other.approval.run(), third.approval.run()):
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        double.faults.add(Answer(code=500), verb="list")
        double.faults.add(Answer(code=500), verb="watch")
        await third.is_granted()
        double.faults.strike(Reset())
        failures = double.count("list", "leases", code=500)
        await double.until(lambda: double.count("list", "leases", code=500) > failures + 2)
        await double.until(lambda: double.count("watch", "leases", code=500) > 2)
        assert (0, 0) == (other.bell.rings, third.bell.rings)
        await rival.approval.release()
        assert await other.is_granted()


async def test_an_outage_of_the_api_misses_nothing(double: ApiDouble, api: Client) -> None:
    """The holder's Lease is free when the API is back, by whatever hand."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    async with running(other.approval.run()):
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
        async with double.outage():
            with contextlib.suppress(ApiFailed):
                await other.approval.ask()
            double.cluster.delete("leases", NAME, namespace=NAMESPACE)
        await other.bell.until(lambda: other.bell.rings > 0)
        assert await other.is_granted()


async def test_an_agent_that_stops_leaves_no_watch(double: ApiDouble, api: Client) -> None:
    """And asks the API itself again, not what it knew."""
    rival, other = Rival(api, "w0"), Rival(api, "w1")
    async with running(other.approval.run()):
        await rival.is_granted()
        await other.is_granted()
        await double.until(lambda: double.watching() == 1)
    await double.until(lambda: double.watching() == 0)
    await rival.approval.release()
    assert await other.is_granted()


# In fake time: the same API in memory, with the latency of a network.

TIMING = Timing()
LATENCY_S = 0.005


@jumping
async def test_who_waits_is_called_when_the_holder_has_died() -> None:
    """After its TTL and not before, and without a single request until then."""
    api = MemoryApi(Cluster())
    dead, heir = Rival(api, "w0", timing=TIMING), Rival(api, "w1", timing=TIMING)
    async with running(heir.approval.run()):
        await dead.is_granted()
        await asyncio.sleep(30)
        await dead.approval.keep()
        await asyncio.sleep(10)
        seen_at = now()
        assert not await heir.is_granted()
        await asyncio.sleep(1)
        asked = len(api.requests)
        await heir.bell.until(lambda: heir.bell.rings > 0, timeout_s=1e6)
        assert TTL_S == pytest.approx(now() - seen_at)
        assert asked == len(api.requests)
        assert await heir.is_granted()


@jumping
async def test_a_holder_never_counts_more_than_those_who_wait() -> None:
    """The TTL begins before the request, not with its answer: the others may have seen the Lease earlier."""
    api = MemoryApi(Cluster(), latency_s=3)
    rival = Rival(api, "w0")
    asked_at = now()
    assert await rival.is_granted()
    api.go_down()
    api.latency_s = 0
    await asyncio.sleep(asked_at + 3 + TTL_S - 0.1 - now())
    with pytest.raises(ApiFailed):
        await rival.approval.keep()
    await asyncio.sleep(0.1)
    with pytest.raises(ApprovalLost):
        await rival.approval.keep()


class Slow(random.Random):
    """Chance for a node that takes its time."""

    def random(self) -> float:
        return 0.5


@jumping
async def test_nobody_is_called_for_what_is_gone_again() -> None:
    """A Lease that is taken within the time of hesitation costs the others nothing."""
    api = MemoryApi(Cluster())
    first, prompt = Rival(api, "w0"), Rival(api, "w1", timing=TIMING)
    slow = Rival(api, "w2", timing=TIMING, rng=Slow())
    async with running(prompt.approval.run(), slow.approval.run()):
        await first.is_granted()
        await prompt.is_granted()
        await slow.is_granted()
        await asyncio.sleep(1)
        await first.approval.release()
        await prompt.bell.until(lambda: prompt.bell.rings > 0, timeout_s=1e6)
        assert await prompt.is_granted()
        asked = len(api.requests)
        await asyncio.sleep(60)
        assert (0, asked) == (slow.bell.rings, len(api.requests))
        released_at = now()
        await prompt.approval.release()
        await slow.bell.until(lambda: slow.bell.rings > 0, timeout_s=1e6)
        assert leases.SPREAD_S / 2 == pytest.approx(now() - released_at)


@pytest.mark.parametrize("comes", ["never", "in vain"])
def test_who_was_called_is_not_called_again_and_again(comes: str) -> None:
    """No busy loop about a Lease that stays free, although somebody edits it, or although asking fails."""

    @jumping
    async def act() -> None:
        api = MemoryApi(Cluster())
        first, called = Rival(api, "w0"), Rival(api, "w1", timing=TIMING, rng=Slow())
        async with running(called.approval.run()):
            await first.is_granted()
            await called.is_granted()
            await asyncio.sleep(1)
            await first.approval.release()
            await asyncio.sleep(0.5)
            edit = {"metadata": {"labels": {"a": "b"}}}
            api.cluster.patch("leases", NAME, edit, MERGE_PATCH, namespace=NAMESPACE)
            await called.bell.until(lambda: called.bell.rings > 0, timeout_s=1e6)
            if comes == "in vain":
                api.faults.add(Answer(code=500), verb="update", times=1)
                with pytest.raises(ApiFailed):
                    await called.approval.ask()
            await asyncio.sleep(3600)
            assert 1 == called.bell.rings
            assert await called.is_granted()

    act()


@pytest.mark.parametrize("end", ["release", "death"])
def test_two_hundred_nodes_wait_for_one(end: str) -> None:
    """One Lease becomes free: a handful of attempts, not 200."""

    @jumping
    async def act() -> None:
        api = MemoryApi(Cluster(), latency_s=LATENCY_S)
        first = Rival(api, "first")
        await first.is_granted()
        rivals = [Rival(api, f"w{n}", timing=TIMING, rng=random.Random(n)) for n in range(200)]
        async with running(*(rival.approval.run() for rival in rivals), *(rival.granted() for rival in rivals)):
            await asyncio.sleep(60)
            assert (200, 0) == (api.watching(), api.count("update"))
            if end == "release":
                await first.approval.release()
            before = api.count("update"), api.count("get")
            await asyncio.sleep(TTL_S)
            tried, looked = api.count("update") - before[0], api.count("get") - before[1]
            assert 1 <= tried <= 10
            assert looked <= 10

    act()


@jumping
async def test_a_fleet_restarts_one_by_one() -> None:
    """60 nodes with 5 s each: never two at once, none forgotten, and little more than a second between two."""
    api = MemoryApi(Cluster(), latency_s=LATENCY_S)
    busy: set[str] = set()
    done: list[str] = []

    async def switch(rival: Rival) -> None:
        await rival.granted()
        busy.add(rival.node)
        assert {rival.node} == busy
        await asyncio.sleep(5)
        busy.discard(rival.node)
        await rival.approval.release()
        done.append(rival.node)

    rivals = [Rival(api, f"w{n}", timing=TIMING, rng=random.Random(n)) for n in range(60)]
    started_at = now()
    async with running(*(rival.approval.run() for rival in rivals)):
        await asyncio.gather(*(switch(rival) for rival in rivals))
    assert 60 == len(set(done)) == len(done)
    assert now() - started_at < 60 * (5 + 1)
    assert api.count("update") < 60 * 3
    assert 0 == api.watching()


class Fleet:
    """Nodes that restart again and again, die, come back, and are told wrong times; who may restart, and until when."""

    def __init__(self, seed: int, *, count: int) -> None:
        """`count` of them at a time."""
        self.count = count
        self.rng = random.Random(seed)
        self.api = MemoryApi(Cluster(), latency_s=0.02)
        self.valid_until: dict[str, float] = {}
        self.restarts: dict[str, int] = {}

    def check(self) -> None:
        """Nobody may believe to be alone who is not."""
        holders = [node for node, until in self.valid_until.items() if now() < until]
        assert len(holders) <= self.count, holders

    async def live(self, node: str) -> None:
        """Be one node for ever."""
        while True:
            skew = timedelta(seconds=self.rng.uniform(-3600, 3600))
            rng = random.Random(self.rng.random())
            rival = Rival(self.api, node, count=self.count, skew=skew, timing=TIMING, rng=rng)
            async with running(rival.approval.run()):
                await self._switch(rival)
            await asyncio.sleep(self.rng.choice([0, 1, 300]))

    async def _switch(self, rival: Rival) -> None:
        """Restart until the agent is killed."""
        while True:
            await rival.granted()
            for _ in range(self.rng.choice([0, 0, 1, 4])):
                self.valid_until[rival.node] = rival.approval._renewed_s + TTL_S
                self.check()
                await asyncio.sleep(TTL_S / 3)
                if self.rng.random() < 0.2:
                    del self.valid_until[rival.node]
                    return
                with contextlib.suppress(ApiFailed):
                    try:
                        await rival.approval.keep()
                    except ApprovalLost:
                        break
            self.valid_until.pop(rival.node, None)
            self.restarts[rival.node] = self.restarts.get(rival.node, 0) + 1
            with contextlib.suppress(ApiFailed):
                await rival.approval.release()
            await asyncio.sleep(self.rng.choice([0, 5, 50]))

    async def break_down(self) -> None:
        """Be an API that is away for a while, now and then."""
        while True:
            await asyncio.sleep(self.rng.uniform(10, 2000))
            self.api.go_down()
            await asyncio.sleep(self.rng.choice([1, 50, 100, 300]))
            self.api.come_up()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_never_too_many_at_once_whatever_happens(seed: int, count: int) -> None:
    """An hour of deaths, outages and wrong clocks among five nodes; and each gets its turn."""

    @jumping
    async def act() -> None:
        fleet = Fleet(seed, count=count)
        async with running(*(fleet.live(f"w{number}") for number in range(5)), fleet.break_down()):
            await asyncio.sleep(3600)
        assert 5 == len(fleet.restarts)

    act()


async def test_a_real_fleet_on_real_sockets(double: ApiDouble) -> None:
    """20 clients of their own, one Lease: each restarts once, one at a time."""
    busy: set[str] = set()
    switched: list[str] = []

    async def switch(number: int) -> None:
        async with client_of(double) as own:
            rival = Rival(own, f"w{number}", rng=Prompt())
            async with running(rival.approval.run()):
                await rival.granted()
                busy.add(rival.node)
                assert {rival.node} == busy
                await asyncio.sleep(0)
                busy.discard(rival.node)
                await rival.approval.release()
                switched.append(rival.node)

    await asyncio.gather(*(switch(number) for number in range(20)))
    assert 20 == len(set(switched))
