"""For any row of reports and any Node: the patches make it so, touch nothing else, and never come for nothing."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.desired import Origin
from agent.legacy import LABEL, Legacy
from agent.node_events import events
from agent.node_status import (
    CONDITION,
    HEARTBEAT_INTERVAL,
    SUMMARY_ANNOTATION,
    VERSION_ANNOTATION,
    NodeStatus,
    make_node_status,
    make_patch,
    view,
)
from agent.outcome import Mode, Standing
from agent.report import Report
from tests.apidouble.cluster import STRATEGIC_PATCH, Cluster
from tests.support import reports
from tests.support.kubeconfigs import CANARY

NODE = "w0"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OURS = {LABEL, VERSION_ANNOTATION, SUMMARY_ANNOTATION}

_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
_VERSION = st.sampled_from(["v1", "v2", "0" * 64]) | _TEXT.filter(str.strip)
_TIME = st.sampled_from([None, "2025-12-31T23:59:59Z", "2026-01-01T00:04:00Z", "2099-01-01T00:00:00Z"])


@st.composite
def _reports(draw: st.DrawFn) -> Report:
    standing = draw(st.sampled_from(Standing))
    is_configured = standing not in {Standing.NOT_CONFIGURED, Standing.UNKNOWN} or draw(st.booleans())
    hosts = draw(st.sets(st.sampled_from(["a", "b", "c.test:5000"]), max_size=3))
    return reports.report(
        mode=draw(st.sampled_from(Mode)),
        standing=standing,
        config=reports.config(draw(_VERSION), "a", "b") if is_configured else None,
        origin=draw(st.sampled_from([None, *Origin])),
        legacy=draw(st.sampled_from([None, Legacy(), reports.CUSTOM])),
        plan=reports.plan(*sorted(hosts), taken_over=draw(st.sampled_from(["", "b"]))),
        is_in_place=draw(st.booleans()),
        is_complete=draw(st.booleans()),
        is_drift=draw(st.booleans()),
        errors=tuple(draw(st.lists(st.sampled_from(reports.ERRORS), max_size=3))),
    )


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict(fields))


#: What anybody may have written on the Node before: everything of ours, and some of others'.
_metadata = _maybe(
    labels=st.dictionaries(st.sampled_from([LABEL, "other"]), st.sampled_from(["default", "custom", ""])),
    annotations=st.dictionaries(st.sampled_from([VERSION_ANNOTATION, SUMMARY_ANNOTATION, "other"]), _TEXT),
)
_condition = _maybe(
    status=st.sampled_from(["True", "False", "Unknown", ""]),
    reason=_TEXT,
    message=_TEXT,
    lastTransitionTime=_TIME,
    lastHeartbeatTime=_TIME,
)


def _cluster(metadata: Mapping[str, Any], condition: Mapping[str, Any] | None) -> Cluster:
    """Return a cluster whose Node looks like this."""
    cluster = Cluster()
    cluster.add_node(NODE)
    conditions = [] if condition is None else [{"type": CONDITION, **condition}]
    patch = {"metadata": metadata, "status": {"conditions": conditions}}
    cluster.patch("nodes", NODE, patch, STRATEGIC_PATCH, subresource="status")
    return cluster


def _patch(cluster: Cluster, status: NodeStatus, at: datetime) -> dict[str, Any] | None:
    """Apply the patch that a status needs, if it needs one; return it."""
    patch = make_patch(status, view(cluster.node(NODE)), now=at)
    if patch is not None:
        cluster.patch("nodes", NODE, json.loads(json.dumps(patch)), STRATEGIC_PATCH, subresource="status")
    return patch


def _conditions(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for each in node["status"].get("conditions", []) if each["type"] == CONDITION]


def _others(node: Mapping[str, Any]) -> Any:
    """Return everything on a Node that is not the agent's."""
    metadata = {key: value for key, value in node["metadata"].items() if key != "resourceVersion"}
    for key in ("labels", "annotations"):
        metadata[key] = {name: value for name, value in metadata.get(key, {}).items() if name not in OURS}
    conditions = [each for each in node["status"]["conditions"] if each["type"] != CONDITION]
    return metadata, node["spec"], {**node["status"], "conditions": conditions}


@given(report=_reports(), metadata=_metadata, condition=st.none() | _condition, age_s=st.integers(0, 10**6))
def test_after_the_patch_there_is_nothing_left_to_say(
    report: Report, metadata: dict[str, Any], condition: dict[str, Any] | None, age_s: int
) -> None:
    """Now and at any later time; nothing of others is touched, and the condition is there once."""
    status = make_node_status(report)
    if status is None:
        return
    cluster = _cluster(metadata, condition)
    before = cluster.node(NODE)
    _patch(cluster, status, BEGIN)
    after = cluster.node(NODE)
    assert make_patch(status, view(after), now=BEGIN + timedelta(seconds=age_s)) is None
    assert _others(before) == _others(after)
    (found,) = _conditions(after)
    assert (status.condition.status, status.condition.reason, status.condition.message) == (
        found["status"],
        found["reason"],
        found["message"],
    )


@given(report=_reports(), metadata=_metadata, condition=st.none() | _condition)
def test_label_and_version_are_what_the_contract_says_or_what_they_were(
    report: Report, metadata: dict[str, Any], condition: dict[str, Any] | None
) -> None:
    """Exactly true where the agent manages the node, untouched where it does not."""
    status = make_node_status(report)
    if status is None:
        return
    cluster = _cluster(metadata, condition)
    before = view(cluster.node(NODE))
    _patch(cluster, status, BEGIN)
    after = view(cluster.node(NODE))
    if status.managed is None:
        assert (before.label, before.version) == (after.label, after.version)
        return
    assert report.legacy is not None
    assert ("custom" if report.legacy.is_custom else "default") == after.label
    if after.version == "unknown":
        assert report.standing is Standing.NOT_CONFIGURED or report.desired_version == "unknown"
    elif after.version is not None:
        assert (report.desired_version, report.applied_version) == (after.version, after.version)
        assert "default" == after.label


@given(row=st.lists(st.tuples(_reports(), st.integers(0, 400)), max_size=12))
def test_times_on_the_node_keep_their_rules(row: list[tuple[Report, int]]) -> None:
    """Transitions only with the status; heartbeats five minutes apart, and never a patch of their own."""
    cluster, at = _cluster({}, None), BEGIN
    for report, gap_s in row:
        at += timedelta(seconds=gap_s)
        status = make_node_status(report)
        if status is None:
            continue
        before = _conditions(cluster.node(NODE))
        patch = _patch(cluster, status, at)
        (after,) = _conditions(cluster.node(NODE))
        now = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        if not before:
            assert (now, now) == (after["lastTransitionTime"], after["lastHeartbeatTime"])
            continue
        is_transition = before[0]["status"] != after["status"]
        assert (now if is_transition else before[0]["lastTransitionTime"]) == after["lastTransitionTime"]
        if after["lastHeartbeatTime"] != before[0]["lastHeartbeatTime"]:
            assert patch is not None
            assert at - datetime.fromisoformat(before[0]["lastHeartbeatTime"]) >= HEARTBEAT_INTERVAL
            said = {key: value for key, value in after.items() if key != "lastHeartbeatTime"}
            old = {key: value for key, value in before[0].items() if key != "lastHeartbeatTime"}
            assert len(patch["metadata"]) > 1 or said != old


@given(before=st.none() | _reports(), after=_reports(), metadata=_metadata)
def test_no_secret_is_ever_said(before: Report | None, after: Report, metadata: dict[str, Any]) -> None:
    """Neither in a patch nor in an Event, for any report; and both stay small."""
    status = make_node_status(after)
    patch = _patch(_cluster(metadata, None), status, BEGIN) if status else None
    said = json.dumps(patch)
    told = events(before, after)
    assert CANARY not in f"{status!r} {said} {told!r}"
    assert len(said) < 4096
    assert all(event.reason.isalnum() and len(event.message) <= 500 for event in told)


@given(report=_reports())
def test_a_report_is_news_once(report: Report) -> None:
    """The same again tells of changes only: whatever was wrong was told."""
    assert all(not event.is_warning or report.changed for event in events(report, report))
