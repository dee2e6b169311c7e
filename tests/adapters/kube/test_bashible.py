"""Deckhouse's approval protocol: annotations on a Node of the API double, with the hook and bashible as scripts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agent.approval import APPROVED, CHECKSUM, TAKEN, WAITING, Approval, Granted, NoApproval, Waiting
from agent.errors import ApiFailed, ApprovalLost
from agent.kube import bashible, resources
from agent.kube.bashible import BashibleApproval
from agent.kube.client import Client
from agent.kube.watch import ObjectWatch, Timing
from tests.apidouble.cluster import MERGE_PATCH, Cluster
from tests.apidouble.faults import Answer, Hang, Reset
from tests.apidouble.server import ApiDouble
from tests.support.approvals import GROUP, Deckhouse, Prompt, Rival, once
from tests.support.faketime import jumping
from tests.support.kube import FAST, NODE, Bell, client_of, running
from tests.support.memory_api import MemoryApi

SUM = "c0ffee"
ASKED = f"to be next: kubectl annotate node {NODE} {APPROVED}="


class Participant:
    """An agent with its watch of the Node."""

    def __init__(self, api: Client | MemoryApi, node: str = NODE, *, timing: Timing = FAST) -> None:
        self.bell = Bell()
        self.changes = Bell()
        self.patience_s = 5.0 if timing is FAST else 1e6
        self.watch: ObjectWatch[Mapping[str, str]] = ObjectWatch(
            api, resources.node(node), view=_annotations, on_change=self._changed, timing=timing, rng=Prompt()
        )
        self.approval = BashibleApproval(api, node=node, annotations=lambda: self.watch.found, on_change=self.bell.ring)

    def _changed(self) -> None:
        self.approval.on_node_changed()
        self.changes.ring()

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Follow the Node and run."""
        async with running(self.watch.run(), self.approval.run()):
            await self.changes.until(lambda: self.watch.found is not None)
            yield

    async def sees(self, *present: str, absent: tuple[str, ...] = ()) -> None:
        """Wait until the Node's watch has brought annotations, or their absence."""
        await self.changes.until(lambda: _fits(self.watch.found, present, absent), timeout_s=self.patience_s)


def _fits(found: Mapping[str, str] | None, present: tuple[str, ...], absent: tuple[str, ...]) -> bool:
    return found is not None and set(present) <= found.keys() and not set(absent) & found.keys()


def _annotations(node: Any) -> Mapping[str, str]:
    return dict(node["metadata"].get("annotations", {}))


def _all(cluster: Cluster, node: str = NODE) -> Mapping[str, str]:
    found = _annotations(cluster.node(node))
    return {key: value for key, value in found.items() if "registry-agent.io" in key or "deckhouse.io" in key}


@pytest.fixture
def cluster() -> Cluster:
    """Return a cluster whose group of three nodes is up to date."""
    made = Cluster()
    for number in range(3):
        made.add_node(f"w{number}", labels={GROUP: "worker"}, annotations={CHECKSUM: SUM})
    return made


@pytest.fixture
def deckhouse(cluster: Cluster) -> Deckhouse:
    """Return what approves."""
    return Deckhouse(cluster, checksum=SUM)


@pytest.fixture
async def double(cluster: Cluster) -> AsyncIterator[ApiDouble]:
    """Return a running API."""
    async with ApiDouble(cluster) as made:
        yield made


@pytest.fixture
async def agent(double: ApiDouble) -> AsyncIterator[Participant]:
    """Return an agent that runs."""
    async with client_of(double) as api:
        made = Participant(api)
        async with made.alive():
            yield made


async def test_all_kinds_fit_one_port(double: ApiDouble) -> None:
    """mypy reads this as well: whoever restarts containerd need not know which one it has."""
    async with client_of(double) as api:
        kinds: list[Approval] = [NoApproval(), Participant(api).approval, Rival(api, NODE).approval]
        for kind in kinds:
            await kind.release()
            assert isinstance(await kind.ask(), Granted | Waiting)
            await kind.release()


async def test_a_restart_is_approved_and_the_slot_is_free_after_it(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """The protocol from end to end: asked, approved, held, done; and the Node is as before."""
    answer = await agent.approval.ask()
    assert isinstance(answer, Waiting)
    assert ASKED in answer.reason
    assert {WAITING: "", TAKEN: SUM} == _all(cluster)

    deckhouse.run_hook()
    assert {APPROVED: "", TAKEN: SUM} == _all(cluster)
    await agent.bell.until(lambda: agent.bell.rings > 0)
    assert Granted() == await agent.approval.ask()

    deckhouse.run_hook()
    await agent.approval.keep()
    assert {APPROVED: "", TAKEN: SUM} == _all(cluster)

    await agent.approval.release()
    await agent.approval.release()
    deckhouse.run_bashible(NODE)
    await agent.sees(CHECKSUM, absent=(TAKEN,))
    deckhouse.run_hook()
    assert {CHECKSUM: SUM} == _all(cluster)


async def test_one_node_of_the_group_restarts_at_a_time(
    cluster: Cluster, deckhouse: Deckhouse, double: ApiDouble
) -> None:
    """As many as the NodeGroup allows; the next when the first has its checksum again."""
    async with client_of(double) as api, contextlib.AsyncExitStack() as stack:
        first, second = Participant(api, "w0"), Participant(api, "w1")
        for agent in (first, second):
            await stack.enter_async_context(agent.alive())
            assert isinstance(await agent.approval.ask(), Waiting)
        for _ in range(3):
            deckhouse.run_hook()
        assert [True, False] == [APPROVED in _all(cluster, node) for node in ("w0", "w1")]
        await first.sees(APPROVED)
        assert Granted() == await first.approval.ask()
        await first.approval.release()
        deckhouse.run_bashible("w0")
        for _ in range(2):
            deckhouse.run_hook()
        await second.bell.until(lambda: second.bell.rings > 0)
        assert Granted() == await second.approval.ask()


async def test_asking_again_costs_nothing(double: ApiDouble, agent: Participant) -> None:
    """As long as the Node says it all and has no answer; and a node that idles asks nothing at all."""
    idle = double.count("get", "nodes") + double.count("patch", "nodes/status")
    assert 0 == idle
    await agent.approval.release()
    await agent.approval.ask()
    await agent.sees(WAITING)
    before = len(double.requests)
    for _ in range(5):
        assert isinstance(await agent.approval.ask(), Waiting)
    assert (before, 0) == (len(double.requests), agent.bell.rings)


async def test_only_the_status_is_patched(double: ApiDouble, agent: Participant) -> None:
    """The right that the agent has anyway; with a version, so that an answer cannot be overwritten."""
    await agent.approval.ask()
    assert [("get", "nodes"), ("patch", "nodes/status")] == [
        (request.verb, request.resource) for request in double.requests if request.verb not in {"list", "watch"}
    ]


async def test_bashible_says_that_it_is_ready_while_the_agent_waits(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """Every minute. An approval would be taken back at once, so the agent is called and removes the checksum again."""
    await agent.approval.ask()
    await agent.sees(WAITING)
    deckhouse.checksum = "newer"
    deckhouse.run_bashible(NODE)
    await agent.bell.until(lambda: agent.bell.rings > 0)
    assert isinstance(await agent.approval.ask(), Waiting)
    assert {WAITING: "", TAKEN: "newer"} == _all(cluster)


async def test_bashible_says_that_it_is_ready_while_the_restart_is_under_way(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """The agent removes the checksum at once, before the hook takes its approval back."""
    await agent.approval.ask()
    deckhouse.run_hook()
    await agent.sees(APPROVED)
    await agent.approval.ask()
    deckhouse.run_bashible(NODE)
    await agent.sees(CHECKSUM)
    await agent.sees(APPROVED, absent=(CHECKSUM,))
    deckhouse.run_hook()
    assert {APPROVED: "", TAKEN: SUM} == _all(cluster)


async def test_keeping_removes_the_checksum_as_well(cluster: Cluster, deckhouse: Deckhouse, double: ApiDouble) -> None:
    """Should the watch be away."""
    async with client_of(double) as api:
        agent = Participant(api)
        await agent.approval.ask()
        deckhouse.run_hook()
        assert Granted() == await agent.approval.ask()
        deckhouse.run_bashible(NODE)
        await agent.approval.keep()
    assert {APPROVED: "", TAKEN: SUM} == _all(cluster)


async def test_an_approval_that_was_taken_back_is_lost(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """The agent hears of it, asks for nothing by itself, and may ask anew."""
    await agent.approval.ask()
    deckhouse.run_hook()
    await agent.sees(APPROVED)
    await agent.approval.ask()
    cluster.patch("nodes", NODE, {"metadata": {"annotations": {APPROVED: None}}}, MERGE_PATCH)
    with pytest.raises(ApprovalLost):
        await agent.approval.keep()
    assert {TAKEN: SUM} == _all(cluster)
    assert isinstance(await agent.approval.ask(), Waiting)
    assert {WAITING: "", TAKEN: SUM} == _all(cluster)


async def test_an_approval_that_was_taken_back_too_early_is_asked_for_anew(
    deckhouse: Deckhouse, agent: Participant
) -> None:
    """The hook was faster than the agent: nothing is left on the Node, so the agent is called."""
    await agent.approval.ask()
    await agent.sees(WAITING)
    deckhouse.run_bashible(NODE)
    for _ in range(2):
        deckhouse.run_hook()
    await agent.sees(absent=(WAITING, APPROVED))
    await agent.bell.until(lambda: agent.bell.rings > 0)
    assert isinstance(await agent.approval.ask(), Waiting)
    deckhouse.run_hook()
    await agent.sees(APPROVED)
    assert Granted() == await agent.approval.ask()


async def test_a_person_may_approve(cluster: Cluster, deckhouse: Deckhouse, agent: Participant) -> None:
    """With or without a request."""
    deckhouse.approve(NODE)
    await agent.sees(APPROVED)
    assert Granted() == await agent.approval.ask()
    assert {APPROVED: "", TAKEN: SUM} == _all(cluster)


async def test_bashible_and_the_agent_share_an_approval(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """bashible has asked already: the agent joins, and leaves the approval to bashible, whose end it does not touch."""
    deckhouse.checksum = "newer"
    deckhouse.update(NODE)
    assert isinstance(await agent.approval.ask(), Waiting)
    assert {WAITING: "", TAKEN: ""} == _all(cluster)
    deckhouse.run_hook()
    await agent.sees(APPROVED)
    assert Granted() == await agent.approval.ask()
    await agent.approval.release()
    deckhouse.run_hook()
    assert APPROVED in _all(cluster)
    deckhouse.run_bashible(NODE)
    deckhouse.run_hook()
    await agent.sees(CHECKSUM, absent=(TAKEN,))
    assert {CHECKSUM: "newer"} == _all(cluster)


async def test_a_wish_that_is_given_up_leaves_the_request(
    cluster: Cluster, deckhouse: Deckhouse, agent: Participant
) -> None:
    """bashible may have joined it. The hook answers it, and takes the answer back when bashible is ready."""
    await agent.approval.ask()
    await agent.approval.release()
    assert {WAITING: "", TAKEN: SUM} == _all(cluster)
    deckhouse.run_bashible(NODE)
    await agent.sees(WAITING, CHECKSUM, absent=(TAKEN,))
    for _ in range(2):
        deckhouse.run_hook()
    assert {CHECKSUM: SUM} == _all(cluster)
    assert 0 == agent.bell.rings


async def test_an_agent_that_was_restarted_finds_its_approval(
    deckhouse: Deckhouse, double: ApiDouble, agent: Participant
) -> None:
    """What was removed is on the Node, and so is the answer: nothing has to be written."""
    await agent.approval.ask()
    deckhouse.run_hook()
    async with client_of(double) as api:
        again = Participant(api)
        async with again.alive():
            before = double.count("patch", "nodes/status")
            assert Granted() == await again.approval.ask()
            assert before == double.count("patch", "nodes/status")


@pytest.mark.parametrize("is_approved", [True, False])
def test_without_bashible_the_checksum_is_put_back(*, is_approved: bool) -> None:
    """After five minutes, also of a request that an earlier life of the agent has left; no approval stays for ever."""

    @jumping
    async def act() -> None:
        cluster = Cluster()
        cluster.add_node(NODE, labels={GROUP: "worker"}, annotations={CHECKSUM: SUM})
        deckhouse = Deckhouse(cluster, checksum=SUM)
        api = MemoryApi(cluster)
        earlier = Participant(api, timing=Timing())
        await earlier.approval.ask()
        if is_approved:
            deckhouse.run_hook()
            assert Granted() == await earlier.approval.ask()
        agent = Participant(api, timing=Timing())
        async with agent.alive():
            for _ in range(4):  # each pass that needs no restart releases
                await agent.approval.release()
                await asyncio.sleep((bashible.SETTLE_S - 1) / 4)
            assert CHECKSUM not in _all(cluster)
            await agent.sees(CHECKSUM, absent=(TAKEN,))
            asked = api.count("get") + api.count("patch")
            await asyncio.sleep(3600)
            assert asked == api.count("get") + api.count("patch")
        for _ in range(2):
            deckhouse.run_hook()
        assert {CHECKSUM: SUM} == _all(cluster)

    act()


@jumping
async def test_an_approval_in_use_is_not_settled() -> None:
    """However long the restart takes, and whatever was released before it."""
    cluster = Cluster()
    cluster.add_node(NODE, annotations={CHECKSUM: SUM})
    deckhouse = Deckhouse(cluster, checksum=SUM)
    agent = Participant(MemoryApi(cluster), timing=Timing())
    async with agent.alive():
        await agent.approval.ask()
        await agent.approval.release()
        await asyncio.sleep(bashible.SETTLE_S - 1)
        deckhouse.approve(NODE)
        await agent.sees(APPROVED)
        assert Granted() == await agent.approval.ask()
        await asyncio.sleep(bashible.SETTLE_S * 2)
        assert {APPROVED: "", TAKEN: SUM} == _all(cluster)
        for _ in range(4):
            await agent.approval.release()
            await asyncio.sleep((bashible.SETTLE_S + 1) / 4)
        assert {APPROVED: "", CHECKSUM: SUM} == _all(cluster)


@jumping
async def test_what_fails_in_the_background_is_done_later() -> None:
    """Twice a minute, as long as it takes."""
    cluster = Cluster()
    cluster.add_node(NODE, annotations={CHECKSUM: SUM})
    api = MemoryApi(cluster)
    agent = Participant(api, timing=Timing())
    async with agent.alive():
        await agent.approval.ask()
        await agent.sees(WAITING)
        await agent.approval.release()
        api.faults.add(Answer(code=500), verb="patch", times=3)
        await agent.sees(CHECKSUM, absent=(TAKEN,))
        assert 3 + 2 == api.count("patch")


# The API fails.


async def test_a_node_that_changes_meanwhile_is_a_conflict(
    cluster: Cluster, deckhouse: Deckhouse, double: ApiDouble, agent: Participant
) -> None:
    """Somebody approves between our look and our write: the request must not stand beside the answer."""
    double.faults.add(Reset(), verb="patch", when=once(lambda: deckhouse.approve(NODE)))
    with pytest.raises(ApiFailed) as caught:
        await agent.approval.ask()
    assert ("ApiConflict", {APPROVED: "", CHECKSUM: SUM}) == (caught.value.reason, _all(cluster))
    assert Granted() == await agent.approval.ask()


@pytest.mark.parametrize("verb", ["ask", "keep"])
async def test_an_api_that_is_down_is_a_failure_and_nothing_else(
    deckhouse: Deckhouse, double: ApiDouble, agent: Participant, verb: str
) -> None:
    """Neither a permission nor a loss."""
    deckhouse.approve(NODE)
    await agent.sees(APPROVED)
    await agent.approval.ask()
    async with double.outage():
        with pytest.raises(ApiFailed) as caught:
            await getattr(agent.approval, verb)()
    assert "ApiUnreachable" == caught.value.reason
    await agent.approval.keep()


@pytest.mark.parametrize(("verb", "what"), [("get", "nodes"), ("patch", "nodes/status")])
async def test_a_missing_right_is_named(double: ApiDouble, agent: Participant, verb: str, what: str) -> None:
    """Verb, kind and name."""
    double.faults.add(Answer(code=403), verb=verb)
    with pytest.raises(ApiFailed, match=f"grant the verb {verb} on {what} {NODE} to"):
        await agent.approval.ask()


async def test_asking_does_not_take_long(
    double: ApiDouble, agent: Participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says nothing must not hold up a pass."""
    monkeypatch.setattr(bashible, "ASK_S", 0.05)
    double.faults.add(Hang(), verb="get")
    with pytest.raises(ApiFailed, match=f"get nodes {NODE}: no answer within"):
        await agent.approval.ask()


async def test_a_node_that_is_not_known_yet_is_asked_itself(cluster: Cluster, double: ApiDouble) -> None:
    """The watch has not said anything; and there may be no such Node."""
    async with client_of(double) as api:
        assert isinstance(await Participant(api).approval.ask(), Waiting)
        assert WAITING in _all(cluster)
        with pytest.raises(ApiFailed) as caught:
            await Participant(api, "w9").approval.ask()
        assert 404 == caught.value.code
