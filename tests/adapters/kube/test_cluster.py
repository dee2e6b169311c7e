"""The cluster side of a node as one part: a Secret comes in, a Node and Events go out, and no defect ends it."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from agent.desired import Absent, Present, Unreadable
from agent.errors import ApiFailed
from agent.kube import cluster as cluster_module
from agent.kube import resources
from agent.kube.client import Client
from agent.kube.cluster import DEFECT_PAUSE_S, OUTAGE_PATIENCE_S, Cluster
from agent.kube.watch import Timing
from agent.legacy import LABEL
from agent.node_status import CONDITION, VERSION_ANNOTATION
from agent.policy import rollout_delay_s
from tests.apidouble import cluster as double_cluster
from tests.apidouble.cluster import SECRET, STRATEGIC_PATCH
from tests.apidouble.faults import Answer, Hang
from tests.apidouble.server import ApiDouble
from tests.support.faketime import jumping, now
from tests.support.kube import FAST, NODE, client_of, running
from tests.support.kubeconfigs import CANARY
from tests.support.memory_api import MemoryApi
from tests.support.reports import FORBIDDEN, INVALID, config, plan, report

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD_S = 10.0
DELAY_S = rollout_delay_s(NODE, spread_s=SPREAD_S)


class Joined:
    """A cluster side, and the cluster that it works with."""

    def __init__(self, api: Any, state: double_cluster.Cluster, *, spread_s: float, timing: Timing | None) -> None:
        self.state = state
        self.wakes: list[str] = []
        self.side = Cluster(
            cast(Client, api),
            node=NODE,
            secret=resources.secret("d8-system", SECRET),
            key="config",
            spread_s=spread_s,
            wake=self.wakes.append,
            timing=timing,
            rng=random.Random(1),
            now=lambda: BEGIN + timedelta(seconds=asyncio.get_running_loop().time()),
        )

    def shown(self) -> tuple[str | None, str | None, list[str]]:
        """Label, version and the status of the condition on the Node."""
        node = self.state.node(NODE)
        conditions = node["status"]["conditions"]
        return (
            node["metadata"]["labels"].get(LABEL),
            node["metadata"].get("annotations", {}).get(VERSION_ANNOTATION),
            [each["status"] for each in conditions if each["type"] == CONDITION],
        )

    def told(self) -> list[str]:
        """Reasons of all Events, oldest first."""
        events = sorted(self.state.events(), key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [event["reason"] for event in events]


@contextlib.asynccontextmanager
async def _joined(
    *, has_node: bool = True, latency_s: float = 0.0, spread_s: float = SPREAD_S
) -> AsyncIterator[tuple[Joined, MemoryApi]]:
    """Run a cluster side over a cluster in memory with the Secret, until everything is known."""
    state = double_cluster.Cluster()
    if has_node:
        state.add_node(NODE, uid="uid-1", internal_ip="10.0.0.11")
    state.put_secret(b"v1")
    api = MemoryApi(state, latency_s=latency_s)
    joined = Joined(api, state, spread_s=spread_s, timing=None)
    async with running(joined.side.run()):
        await asyncio.sleep(1e-3)
        yield joined, api


@jumping
async def test_what_the_secret_says_is_read() -> None:
    """And a change of it asks for a pass after the node's share of the spread."""
    async with _joined() as (joined, _):
        assert Present(document=b"v1") == await joined.side.read(is_confirming=False)
        joined.wakes.clear()
        joined.state.put_secret(b"v2")
        await asyncio.sleep(DELAY_S - 0.01)
        assert [] == joined.wakes
        await asyncio.sleep(0.02)
        assert ["news from the API"] == joined.wakes
        assert Present(document=b"v2") == await joined.side.read(is_confirming=False)


@jumping
async def test_a_deletion_is_read_and_confirmed() -> None:
    """The confirmation is a request of its own."""
    async with _joined(spread_s=0) as (joined, api):
        joined.state.delete_secret()
        await asyncio.sleep(1)
        assert Absent() == await joined.side.read(is_confirming=False)
        assert Absent() == await joined.side.read(is_confirming=True)
        assert 1 == api.count("get", "secrets")


@jumping
async def test_a_report_goes_to_the_node_and_to_events() -> None:
    """One patch for the Node, one Event for what was done, and one for each new error."""
    async with _joined() as (joined, api):
        joined.side.publish(report(plan=plan("a")))
        await asyncio.sleep(1)
        assert ("default", "v1", ["True"]) == joined.shown()
        assert ["RegistryConfigApplied"] == joined.told()
        joined.side.publish(report(errors=(INVALID,)))
        joined.side.publish(report(errors=(INVALID,)))
        await asyncio.sleep(1)
        assert ("default", "v1", ["False"]) == joined.shown()
        assert ["RegistryConfigApplied", "ConfigInvalid"] == joined.told()
        assert (2, 2) == (api.count("patch", "nodes/status"), api.count("create", "events"))


@jumping
async def test_of_half_a_pass_nothing_is_called_applied() -> None:
    """The agent was stopped in the middle of a change: no version is fully in place."""
    async with _joined() as (joined, _):
        joined.side.publish(report())
        await asyncio.sleep(1)
        joined.side.publish(report(is_in_place=False, is_complete=False, plan=plan("a"), config=config("v2")))
        await asyncio.sleep(1)
        assert ("default", None, ["False"]) == joined.shown()


@jumping
async def test_the_nodes_address_is_known_and_followed() -> None:
    """For the placeholder in mirrors; a pass is asked for when it changes."""
    async with _joined() as (joined, _):
        assert "10.0.0.11" == joined.side.node_address
        assert "the Node's address or runtime changed" in joined.wakes
        joined.wakes.clear()
        status = {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.12"}]}}
        joined.state.patch("nodes", NODE, status, STRATEGIC_PATCH, subresource="status")
        await asyncio.sleep(1)
        assert ["the Node's address or runtime changed"] == joined.wakes
        assert "10.0.0.12" == joined.side.node_address
        joined.side.publish(report())
        await asyncio.sleep(1)
        assert ["the Node's address or runtime changed"] == joined.wakes


@jumping
async def test_without_a_node_its_address_is_not_known() -> None:
    """Nothing is made up."""
    async with _joined(has_node=False) as (joined, _):
        assert joined.side.node_address is None


@jumping
async def test_the_state_can_be_seen() -> None:
    """For /status: name, problem, silence of the API, waiting changes and reports."""
    async with _joined() as (joined, _):
        joined.side.publish(report())
        await asyncio.sleep(10)
        assert {
            "node": NODE,
            "problem": None,
            "api_silent_for_s": 10.0,
            "api_error": None,
            "change_waits_s": None,
            "report_pending": False,
            "events_dropped": 0,
        } == joined.side.facts()
        joined.state.put_secret(b"v2")
        await asyncio.sleep(1)
        assert round(DELAY_S - 1, 1) == joined.side.facts()["change_waits_s"]


@jumping
async def test_a_lost_api_can_be_seen() -> None:
    """Its error, for how long it was silent, and that the report waits."""
    async with _joined() as (joined, api):
        api.go_down()
        joined.side.publish(report(errors=(FORBIDDEN,)))
        await asyncio.sleep(300)
        facts = joined.side.facts()
        assert "the Node does not show this report: " in facts["problem"]
        assert "the API in memory was told so" in facts["api_error"]
        assert (300.0, True) == (facts["api_silent_for_s"], facts["report_pending"])
        assert isinstance(await joined.side.read(is_confirming=False), Unreadable)


@jumping
async def test_an_unknown_node_can_be_seen() -> None:
    """The Secret is followed all the same: what is on the node matters more than the report."""
    async with _joined(has_node=False) as (joined, _):
        joined.side.publish(report())
        await asyncio.sleep(60)
        assert joined.side.facts()["problem"].startswith("there is no Node w0: set NODE_NAME or node_name")
        assert Present(document=b"v1") == await joined.side.read(is_confirming=False)
        joined.state.add_node(NODE)
        await asyncio.sleep(1)
        assert (None, ("default", "v1", ["True"])) == (joined.side.facts()["problem"], joined.shown())


@jumping
async def test_events_wait_for_the_node_and_are_sent_when_it_registers() -> None:
    """Without anything else waking the recorder."""
    async with _joined(has_node=False) as (joined, _):
        joined.side.publish(report(plan=plan("a")))
        await asyncio.sleep(3600)
        assert [] == joined.told()
        joined.state.add_node(NODE)
        await asyncio.sleep(1)
        assert ["RegistryConfigApplied"] == joined.told()


@jumping
async def test_a_hanging_part_does_not_hold_up_the_others() -> None:
    """Events, Node and Secret are independent of each other."""
    async with _joined(spread_s=0) as (joined, api):
        api.faults.add(Hang(), verb="create")
        joined.side.publish(report(plan=plan("a")))
        joined.state.put_secret(b"v2")
        await asyncio.sleep(1)
        assert ("default", "v1", ["True"]) == joined.shown()
        assert Present(document=b"v2") == await joined.side.read(is_confirming=False)


@jumping
async def test_a_hanging_api_holds_up_the_first_reading_for_five_seconds_in_all() -> None:
    """Secret and Node are waited for side by side: the last good copy is there, and the node has to be repaired."""
    state = double_cluster.Cluster()
    api = MemoryApi(state)
    api.faults.add(Hang())
    joined = Joined(api, state, spread_s=0, timing=None)
    async with running(joined.side.run()):
        before = now()
        assert isinstance(await joined.side.read(is_confirming=False), Unreadable)
        assert Timing().first_word_s == pytest.approx(now() - before)


@jumping
async def test_the_side_ends_at_once() -> None:
    """Whatever its parts wait for."""
    for prepare in (lambda _: None, MemoryApi.go_down, lambda api: api.faults.add(Hang())):
        async with _joined() as (joined, api):
            cast(Callable[[MemoryApi], object], prepare)(api)
            joined.side.publish(report(plan=plan("a"), errors=(INVALID,)))
            await asyncio.sleep(1000)
            before = now()
        assert before == now()


def test_a_defect_in_one_part_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged without any values, and the part is started again."""
    monkeypatch.setattr(cluster_module, "make_node_status", lambda _: CANARY)

    @jumping
    async def run() -> None:
        async with _joined(spread_s=0) as (joined, api):
            joined.side.publish(report(plan=plan("a")))
            joined.state.put_secret(b"v2")
            await asyncio.sleep(10)
            assert ["RegistryConfigApplied"] == joined.told()
            assert Present(document=b"v2") == await joined.side.read(is_confirming=False)
            monkeypatch.undo()
            joined.side.publish(report())
            await asyncio.sleep(DEFECT_PAUSE_S)
            assert ("default", "v1", ["True"]) == joined.shown()
            assert 1 == api.count("patch", "nodes/status")

    run()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["internal error AttributeError in report at"] == [
        record.getMessage().partition("\n")[0] for record in errors
    ]
    assert CANARY not in caplog.text


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_all_of_it_works_on_real_sockets(*, tls: bool) -> None:
    """The real client and the double: a change comes in, the Node and an Event go out, an outage is survived."""
    async with ApiDouble(tls=tls) as double:
        double.tokens = {"t": "system:node:w0"}
        double.cluster.add_node(NODE)
        double.cluster.put_secret(b"v1")
        async with client_of(double, "t") as client:
            joined = Joined(client, double.cluster, spread_s=0, timing=FAST)
            async with running(joined.side.run()):
                assert Present(document=b"v1") == await joined.side.read(is_confirming=False)
                joined.side.publish(report(plan=plan("a")))
                await double.until(lambda: joined.told() != [] and joined.shown() == ("default", "v1", ["True"]))
                async with double.outage():
                    joined.side.publish(report(errors=(INVALID,)))
                await double.until(lambda: joined.shown() == ("default", "v1", ["False"]) and len(joined.told()) == 2)
                double.faults.add(Answer(code=409), verb="patch", times=2)
                joined.side.publish(report())
                await double.until(lambda: joined.shown() == ("default", "v1", ["True"]))
    assert ["RegistryConfigApplied", "ConfigInvalid"] == joined.told()


def _outage() -> Any:
    return report(errors=(ApiFailed("ApiFailed", "list secrets s: HTTP 500", code=500),))


@jumping
async def test_a_secret_alone_that_cannot_be_read_is_told_after_a_while() -> None:
    """Its storage may be broken while Nodes are fine: then the Node says that nobody knows what is desired."""
    async with _joined() as (joined, _):
        joined.side.publish(report())
        await asyncio.sleep(1)
        joined.side.publish(_outage())
        await asyncio.sleep(OUTAGE_PATIENCE_S - 1)
        assert ("default", "v1", ["True"]) == joined.shown()
        await asyncio.sleep(2)
        assert ("default", "v1", ["Unknown"]) == joined.shown()
        joined.state.patch("nodes", NODE, {"metadata": {"labels": {LABEL: None}}}, STRATEGIC_PATCH)
        joined.side.publish(_outage())
        await asyncio.sleep(2)
        assert ("default", "v1", ["Unknown"]) == joined.shown()


@jumping
async def test_an_outage_of_the_whole_api_is_never_told() -> None:
    """Said by every node once the API is back, and taken back by the next report: nobody needs that."""
    async with _joined() as (joined, api):
        joined.side.publish(report())
        await asyncio.sleep(1)
        before = joined.state.node(NODE)["metadata"]["resourceVersion"]
        api.go_down()
        joined.side.publish(_outage())
        await asyncio.sleep(3600)
        api.come_up()
        await asyncio.sleep(30)
        joined.side.publish(report())
        await asyncio.sleep(3600)
        assert ("default", "v1", ["True"]) == joined.shown()
        assert before == joined.state.node(NODE)["metadata"]["resourceVersion"]


@jumping
async def test_what_was_not_sent_before_an_outage_is_not_sent_after_it() -> None:
    """It is older than what is known by then."""
    async with _joined() as (joined, api):
        joined.side.publish(report())
        await asyncio.sleep(1)
        api.go_down()
        joined.side.publish(report(errors=(INVALID,)))
        await asyncio.sleep(1)
        joined.side.publish(_outage())
        api.come_up()
        await asyncio.sleep(40)
        assert ("default", "v1", ["True"]) == joined.shown()


@jumping
async def test_an_agent_that_starts_anew_does_not_tell_again_what_the_node_shows() -> None:
    """A crash loop must not write an Event each time."""
    async with _joined() as (joined, _):
        joined.side.publish(report(errors=(INVALID,)))
        await asyncio.sleep(1)
        again = Joined(MemoryApi(joined.state), joined.state, spread_s=0, timing=None)
        async with running(again.side.run()):
            await asyncio.sleep(1)
            again.side.publish(report(errors=(INVALID,)))
            await asyncio.sleep(1)
        assert ["ConfigInvalid"] == joined.told()


@jumping
async def test_the_last_report_is_waited_for() -> None:
    """As long as a stop allows; without anything to say, not at all."""
    async with _joined() as (joined, api):
        before = now()
        await joined.side.drain(within_s=5)
        assert before == now()
        joined.side.publish(report())
        await joined.side.drain(within_s=5)
        assert ("default", "v1", ["True"]) == joined.shown()
        api.faults.add(Hang())
        joined.side.publish(report(errors=(INVALID,)))
        before = now()
        await joined.side.drain(within_s=5)
        assert 5 == pytest.approx(now() - before)
