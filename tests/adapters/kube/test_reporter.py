"""The Node says what the newest report says: with one patch per change, through everything an API does."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.kube.client import Object
from agent.kube.reporter import MIN_SPACING_S, NodeReporter
from agent.kube.resources import Patch, Resource
from agent.kube.watch import Timing
from agent.legacy import LABEL
from agent.node_status import CONDITION, SUMMARY_ANNOTATION, VERSION_ANNOTATION, Condition, Managed, NodeStatus
from tests.apidouble.cluster import STRATEGIC_PATCH, Cluster
from tests.apidouble.faults import Answer, Fault, Freeze, Hang, Truncated, too_many_requests
from tests.support.faketime import jumping, now
from tests.support.kube import NODE, Bell, running
from tests.support.memory_api import MemoryApi

TIMING = Timing()
HOUR_S = 3600.0
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _said(
    version: str | None = "v1",
    *,
    status: str = "True",
    message: str = "all well",
    label: str = "default",
    is_managed: bool = True,
) -> NodeStatus:
    """Return what a report makes of the Node."""
    return NodeStatus(
        condition=Condition(status=status, reason="InPlace", message=message),
        summary=f'{{"applied":"{version}"}}',
        managed=Managed(label=label, version=version) if is_managed else None,
    )


class Reported:
    """A reporter that runs, and the Node that it reports on."""

    def __init__(self, api: MemoryApi) -> None:
        self.api = api
        self.cluster = api.cluster
        self.bell = Bell()
        self.reporter = NodeReporter(
            api, NODE, on_change=self.bell.ring, now=self.now, timing=TIMING, rng=random.Random(1)
        )
        self._began = now()

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=now() - self._began)

    @property
    def patches(self) -> int:
        """How many patches of the status were tried; there are no other writes."""
        writes = [request for request in self.api.requests if request.verb not in {"list", "watch"}]
        assert {"nodes/status"} >= {request.resource for request in writes}
        return len(writes)

    @property
    def node(self) -> dict[str, Any]:
        return self.cluster.node(NODE)

    @property
    def condition(self) -> dict[str, Any]:
        """The agent's condition; fails unless there is exactly one."""
        (found,) = [each for each in self.node["status"]["conditions"] if each["type"] == CONDITION]
        return dict(found)

    def shown(self) -> tuple[str | None, str | None, str | None]:
        """Label, version and the condition's status on the Node."""
        metadata, conditions = self.node["metadata"], self.node["status"]["conditions"]
        status = [each["status"] for each in conditions if each["type"] == CONDITION]
        return (
            metadata["labels"].get(LABEL),
            metadata.get("annotations", {}).get(VERSION_ANNOTATION),
            status[0] if status else None,
        )

    def somebody_patches(self, patch: dict[str, Any], *, subresource: str = "") -> None:
        """Change the Node as somebody else."""
        self.cluster.patch("nodes", NODE, patch, STRATEGIC_PATCH, subresource=subresource)


@contextlib.asynccontextmanager
async def _reporting(api: MemoryApi | None = None, *, has_node: bool = True) -> AsyncIterator[Reported]:
    """Run a reporter until it knows the Node."""
    api = api or MemoryApi(Cluster())
    if has_node:
        api.cluster.add_node(NODE, uid="uid-1")
    reported = Reported(api)
    async with running(reported.reporter.watch.run(), reported.reporter.run()):
        await asyncio.sleep(1e-3)
        yield reported


# One patch per change.


@jumping
async def test_everything_is_said_in_one_patch() -> None:
    """Label, annotations and condition together, through nodes/status; what others say there stays."""
    async with _reporting() as reported:
        reported.reporter.publish(_said())
        assert reported.reporter.is_pending
        await asyncio.sleep(1)
        assert 1 == reported.patches
        assert ("default", "v1", "True") == reported.shown()
        assert '{"applied":"v1"}' == reported.node["metadata"]["annotations"][SUMMARY_ANNOTATION]
        assert {
            "type": CONDITION,
            "status": "True",
            "reason": "InPlace",
            "message": "all well",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        } == reported.condition
        assert ["Ready", CONDITION] == [each["type"] for each in reported.node["status"]["conditions"]]
        assert (False, None) == (reported.reporter.is_pending, reported.reporter.problem)


@jumping
async def test_the_patch_makes_no_second_one() -> None:
    """Its echo in the watch says what is known already, and nobody's pass is woken for ever."""
    async with _reporting() as reported:
        reported.reporter.publish(_said())
        await asyncio.sleep(HOUR_S)
        assert 1 == reported.patches
        assert reported.bell.rings <= 2


@jumping
async def test_a_report_that_says_the_same_costs_nothing() -> None:
    """A pass every five minutes for a day: no request at all, and no heartbeat of its own."""
    async with _reporting() as reported:
        for _ in range(288):
            reported.reporter.publish(_said())
            await asyncio.sleep(300)
        assert 1 == reported.patches
        assert "2026-01-01T00:00:00Z" == reported.condition["lastHeartbeatTime"]


@jumping
async def test_an_agent_that_starts_again_finds_everything_said() -> None:
    """A restart of 5,000 agents makes no patch when nothing has changed."""
    cluster = Cluster()
    async with _reporting(MemoryApi(cluster)) as reported:
        reported.reporter.publish(_said())
        await asyncio.sleep(1)
    async with _reporting(MemoryApi(cluster), has_node=False) as reported:
        reported.reporter.publish(_said())
        await asyncio.sleep(1)
        assert 0 == reported.patches


@jumping
async def test_a_report_before_the_node_is_known_is_sent_then() -> None:
    """The first pass may be faster than the first list."""
    api = MemoryApi(Cluster(), latency_s=3.0)
    async with _reporting(api) as reported:
        reported.reporter.publish(_said())
        assert reported.reporter.is_pending
        await asyncio.sleep(10)
        assert ("default", "v1", "True") == reported.shown()
        assert 1 == reported.patches


@jumping
async def test_a_change_is_said_at_once() -> None:
    """Long after the last one, without any spacing."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(10)
        reported.reporter.publish(_said("v2", status="False"))
        await asyncio.sleep(1e-3)
        assert ("default", "v2", "False") == reported.shown()


@jumping
async def test_patches_keep_their_distance() -> None:
    """A state that flaps does not occupy the API server, and the newest is said in the end."""
    async with _reporting() as reported:
        for number in range(100):
            reported.reporter.publish(_said(f"v{number}"))
            await asyncio.sleep(0.1)
        assert reported.patches <= 10 / MIN_SPACING_S + 1
        await asyncio.sleep(MIN_SPACING_S)
        assert ("default", "v99", "True") == reported.shown()


@jumping
async def test_a_change_that_is_taken_back_before_it_was_said_was_none() -> None:
    """Newest only: nothing is sent for what is over."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(1e-3)
        reported.reporter.publish(_said("v2"))
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(10)
        assert (1, ("default", "v1", "True")) == (reported.patches, reported.shown())


# What is said, and what is left alone.


@jumping
async def test_a_version_that_is_not_true_any_more_is_taken_away() -> None:
    """No annotation at all, rather than a wrong one; the label stays."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(1)
        reported.reporter.publish(_said(None, status="False", label="custom"))
        await asyncio.sleep(1)
        assert ("custom", None, "False") == reported.shown()
        assert 2 == reported.patches


@jumping
async def test_who_only_observes_leaves_label_and_version_alone() -> None:
    """They belong to whoever manages the node; the condition is the agent's own."""
    async with _reporting() as reported:
        theirs = {"labels": {LABEL: "custom"}, "annotations": {VERSION_ANNOTATION: "theirs"}}
        reported.somebody_patches({"metadata": theirs})
        reported.reporter.publish(_said("ours", is_managed=False))
        await asyncio.sleep(1)
        assert ("custom", "theirs", "True") == reported.shown()
        reported.somebody_patches({"metadata": {"labels": {LABEL: None}, "annotations": {VERSION_ANNOTATION: None}}})
        await asyncio.sleep(1)
        assert (None, None, "True") == reported.shown()
        assert 1 == reported.patches


@pytest.mark.parametrize(
    ("patch", "subresource"),
    [
        ({"metadata": {"labels": {LABEL: None}}}, ""),
        ({"metadata": {"labels": {LABEL: "custom"}}}, ""),
        ({"metadata": {"annotations": {VERSION_ANNOTATION: None}}}, ""),
        ({"metadata": {"annotations": {VERSION_ANNOTATION: "v0"}}}, ""),
        ({"metadata": {"annotations": {SUMMARY_ANNOTATION: None}}}, ""),
        ({"status": {"conditions": [{"type": CONDITION, "$patch": "delete"}]}}, "status"),
        ({"status": {"conditions": [{"type": CONDITION, "status": "Unknown"}]}}, "status"),
    ],
    ids=str,
)
@jumping
async def test_what_somebody_else_changes_is_put_right(patch: dict[str, Any], subresource: str) -> None:
    """At once, by one patch: a missing label blocks the whole cluster's switch."""
    async with _reporting() as reported:
        reported.reporter.publish(_said())
        await asyncio.sleep(10)
        reported.somebody_patches(patch, subresource=subresource)
        await asyncio.sleep(1e-3)
        assert ("default", "v1", "True") == reported.shown()
        assert SUMMARY_ANNOTATION in reported.node["metadata"]["annotations"]
        await asyncio.sleep(HOUR_S)
        assert 2 == reported.patches


@jumping
async def test_what_kubelet_writes_is_nobodys_business() -> None:
    """Its heartbeats, images and leases: no patch, and nobody is woken."""
    async with _reporting() as reported:
        reported.reporter.publish(_said())
        await asyncio.sleep(1)
        rings = reported.bell.rings
        for number in range(100):
            beat = {"type": "Ready", "lastHeartbeatTime": f"2026-01-01T00:{number % 60:02}:00Z"}
            reported.somebody_patches({"status": {"conditions": [beat]}}, subresource="status")
            await asyncio.sleep(10)
        assert (1, rings) == (reported.patches, reported.bell.rings)


@jumping
async def test_somebody_who_insists_does_not_make_a_storm() -> None:
    """Two who disagree all the time: no more patches than the distance allows."""
    async with _reporting() as reported:
        reported.reporter.publish(_said())
        for _ in range(1000):
            await asyncio.sleep(0.1)
            reported.somebody_patches({"metadata": {"labels": {LABEL: "custom"}}})
        assert reported.patches <= 100 / MIN_SPACING_S + 1


@jumping
async def test_the_time_of_the_transition_is_that_of_the_status() -> None:
    """Another reason or message is no transition; the heartbeat comes along every five minutes at most."""
    async with _reporting() as reported:
        times = []
        for seconds, said in (
            (0, _said(message="a")),
            (60, _said(message="b")),
            (360, _said(message="c")),
            (420, _said(message="c", status="False")),
        ):
            await asyncio.sleep(seconds - (now() - reported._began))
            reported.reporter.publish(said)
            await asyncio.sleep(0.9)
            times.append(tuple(reported.condition[f"last{name}Time"][14:19] for name in ("Transition", "Heartbeat")))
    assert [("00:00", "00:00"), ("00:00", "00:00"), ("00:00", "06:00"), ("07:00", "06:00")] == times


# When the API or the Node is not as it should be.


@pytest.mark.parametrize(
    "fault",
    [Answer(code=409), Answer(code=500), Answer(code=503), too_many_requests(3), Hang(), Answer(code=401)],
    ids=str,
)
@jumping
async def test_a_patch_that_fails_is_tried_again(fault: Fault) -> None:
    """With what is wanted by then; the problem can be seen meanwhile, and is gone afterwards."""
    async with _reporting() as reported:
        reported.api.faults.add(fault, times=2, verb="patch")
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(1 if not isinstance(fault, Hang) else 36)
        assert reported.reporter.is_pending
        assert "the Node does not show this report: patch nodes/status w0: " in str(reported.reporter.problem)
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(120)
        assert ("default", "v2", "True") == reported.shown()
        assert (3, None, False) == (reported.patches, reported.reporter.problem, reported.reporter.is_pending)


@jumping
async def test_a_patch_that_fails_for_ever_is_no_storm() -> None:
    """RBAC forbids it: after an hour there were few attempts, and when it is granted it works by itself."""
    async with _reporting() as reported:
        fault = reported.api.faults.add(Answer(code=403), verb="patch")
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(HOUR_S)
        assert reported.patches < 60
        assert "HTTP 403" in str(reported.reporter.problem)
        reported.api.faults.remove(fault)
        await asyncio.sleep(TIMING.refused.cap_s)
        assert ("default", "v1", "True") == reported.shown()


@jumping
async def test_a_row_of_failures_ends_with_a_success() -> None:
    """The next failure waits a short time again."""
    async with _reporting() as reported:
        fault = reported.api.faults.add(Answer(code=500), verb="patch")
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(HOUR_S)
        reported.api.faults.remove(fault)
        await asyncio.sleep(TIMING.backoff.cap_s + 1)
        reported.api.faults.add(Answer(code=500), verb="patch", times=1)
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(TIMING.backoff.base_s + 0.1)
        assert ("default", "v2", "True") == reported.shown()


@jumping
async def test_of_reports_that_could_not_be_sent_the_newest_is_sent() -> None:
    """An hour without an API, and one patch."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(1)
        reported.api.go_down()
        for number in range(2, 60):
            reported.reporter.publish(_said(f"v{number}"))
            await asyncio.sleep(60)
        assert reported.reporter.is_pending
        assert "the Node does not show this report: " in str(reported.reporter.problem)
        seen = []
        reported.cluster.on_change = lambda: seen.append(reported.shown())
        reported.api.come_up()
        await asyncio.sleep(2 * TIMING.backoff.cap_s)
        assert [("default", "v59", "True")] == seen
        assert reported.reporter.problem is None


@jumping
async def test_a_patch_whose_answer_was_lost_is_not_sent_twice() -> None:
    """The watch says that it has arrived."""
    async with _reporting() as reported:
        reported.api.faults.add(Truncated(), verb="patch", times=1)
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(60)
        assert (1, None, False) == (reported.patches, reported.reporter.problem, reported.reporter.is_pending)


@jumping
async def test_a_node_that_registers_late_is_reported_on_then() -> None:
    """Until then the problem says what to do if the name is wrong."""
    async with _reporting(has_node=False) as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(HOUR_S)
        assert reported.reporter.is_pending
        assert "there is no Node w0: set NODE_NAME or node_name if that is wrong; it may still register" == (
            reported.reporter.problem
        )
        assert 0 == reported.patches
        reported.cluster.add_node(NODE)
        await asyncio.sleep(1e-3)
        assert ("default", "v1", "True") == reported.shown()
        assert [None, 1] == [reported.reporter.problem, reported.patches]


def test_a_node_that_is_not_there_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Clearly, as an error, and not again every few seconds."""

    @jumping
    async def late() -> None:
        async with _reporting(has_node=False) as reported:
            for _ in range(100):
                reported.reporter.publish(_said("v1"))
                await asyncio.sleep(60)
            reported.cluster.add_node(NODE)
            await asyncio.sleep(60)

    late()
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["there is no Node w0: set NODE_NAME or node_name if that is wrong; it may still register"] == errors


def test_a_patch_that_succeeds_after_a_failure_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """One conflict is a warning at most; when it is over, nothing is claimed to be wrong."""

    @jumping
    async def conflict() -> None:
        async with _reporting() as reported:
            reported.api.faults.add(Answer(code=409), verb="patch", times=1)
            reported.reporter.publish(_said("v1"))
            await asyncio.sleep(60)
            assert ("default", "v1", "True") == reported.shown()

    conflict()
    assert [] == [record.message for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_failure_that_lasts_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Hours of 403 are one line."""

    @jumping
    async def forbidden() -> None:
        async with _reporting() as reported:
            reported.api.faults.add(Answer(code=403), verb="patch")
            reported.reporter.publish(_said("v1"))
            await asyncio.sleep(6 * HOUR_S)

    forbidden()
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 == len(warnings)
    assert "cannot report on the Node: patch nodes/status w0: HTTP 403" in warnings[0]


@jumping
async def test_a_node_that_was_deleted_and_registered_anew_is_reported_on() -> None:
    """A new Node has nothing of the old one's: everything is said again."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(10)
        reported.cluster.delete_node(NODE)
        await asyncio.sleep(10)
        assert "there is no Node w0" in str(reported.reporter.problem)
        reported.cluster.add_node(NODE, uid="uid-2")
        await asyncio.sleep(1e-3)
        assert ("default", "v1", "True") == reported.shown()
        assert 2 == reported.patches


@jumping
async def test_a_patch_for_a_node_that_is_another_one_now_is_refused_and_sent_anew() -> None:
    """The watch was half-open when the Node was replaced: the uid keeps the old answer from the new Node."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(10)
        reported.api.faults.strike(Freeze())
        reported.cluster.delete_node(NODE)
        reported.cluster.add_node(NODE, uid="uid-2")
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(10)
        assert (None, None, None) == reported.shown()
        assert reported.reporter.is_pending
        await asyncio.sleep(TIMING.silence_s + TIMING.backoff.cap_s)
        assert ("default", "v2", "True") == reported.shown()
        assert reported.patches < 20


@jumping
async def test_a_node_that_is_deleted_while_it_is_patched_is_no_defect() -> None:
    """404: there is nothing to say until it registers anew."""
    api = MemoryApi(Cluster())
    async with _reporting(api) as reported:
        api.latency_s = 1.0
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(0.5)
        reported.cluster.delete_node(NODE)
        await asyncio.sleep(60)
        assert "there is no Node w0" in str(reported.reporter.problem)
        assert reported.patches <= 2
        reported.cluster.add_node(NODE, uid="uid-2")
        await asyncio.sleep(60)
        assert ("default", "v1", "True") == reported.shown()


@jumping
async def test_a_change_during_a_patch_is_said_after_it() -> None:
    """Nothing is forgotten while a request is under way, and nothing is sent beside it."""
    api = MemoryApi(Cluster(), latency_s=1.0)
    async with _reporting(api) as reported:
        await asyncio.sleep(3)
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(0.5)
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(5)
        assert ("default", "v2", "True") == reported.shown()
        assert 2 == reported.patches


class Interfering(MemoryApi):
    """An API where somebody removes the label as soon as a patch was made, before its answer has arrived."""

    is_interfering = False

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        answer = await super().patch(resource, body, kind)
        if self.is_interfering:
            self.is_interfering = False
            self.cluster.patch("nodes", NODE, {"metadata": {"labels": {LABEL: None}}}, STRATEGIC_PATCH)
            await asyncio.sleep(self.latency_s)
        return answer


@pytest.mark.parametrize("latency_s", [0.0, 0.2])
@jumping
async def test_a_label_that_is_removed_during_a_patch_is_put_back(latency_s: float) -> None:
    """The answer to the patch is older than the removal, which the watch may bring before it."""
    api = Interfering(Cluster())
    async with _reporting(api) as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(10)
        api.latency_s, api.is_interfering = latency_s, True
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(60)
        assert ("default", "v2", "True") == reported.shown()


@jumping
async def test_another_writer_is_no_fight_without_end(caplog: pytest.LogCaptureFixture) -> None:
    """A second agent with the same name, say: each patch waits longer, and it is said what is going on."""
    async with _reporting() as reported:
        reported.reporter.publish(_said("v1"))
        await asyncio.sleep(1)

        async def fight() -> None:
            while True:
                version = reported.node["metadata"]["annotations"].get(VERSION_ANNOTATION)
                if version == "v1":
                    patch = {"metadata": {"annotations": {VERSION_ANNOTATION: "theirs"}}}
                    reported.cluster.patch("nodes", NODE, patch, STRATEGIC_PATCH)
                await asyncio.sleep(0.1)

        async with running(fight()):
            await asyncio.sleep(HOUR_S)
            assert reported.patches < 60
            assert "somebody else keeps changing" in str(reported.reporter.problem)
        assert 1 == caplog.text.count("somebody else keeps changing")
        reported.reporter.publish(_said("v2"))
        await asyncio.sleep(1)
        assert ("default", "v2", "True") == reported.shown()
        assert reported.reporter.problem is None
