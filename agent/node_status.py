"""What a report means for the Node object, and the one patch that makes it so. Pure.

Label and version annotation are Deckhouse's contract (section 0): the cluster's switch waits for
them, so they are written only when true. They belong to whoever manages the node; the condition and
the summary are the agent's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from agent import __version__
from agent.approval import ANNOTATIONS
from agent.errors import ApiFailed, CredentialsUnusable, SourceUnreadable
from agent.legacy import LABEL
from agent.outcome import Mode, Standing
from agent.report import Report

VERSION_ANNOTATION = "registry.deckhouse.io/version"
SUMMARY_ANNOTATION = "registry-agent.io/status"
CONDITION = "RegistryConfigReady"

MAX_MESSAGE = 1024
HEARTBEAT_INTERVAL = timedelta(minutes=5)

#: With one of these, nobody knows what is desired: the node is neither right nor wrong.
_BLIND = (SourceUnreadable, ApiFailed, CredentialsUnusable)


#: These answers say that the agent may not read the Secret, which somebody has to mend.
_REFUSED = frozenset({401, 403})


class Status(Enum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The condition on the Node; the times are None when the Node has none."""

    status: str
    reason: str
    message: str
    changed_at: str | None = None
    beat_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """What the contract wants of a node that the agent manages; no version when none is fully applied."""

    label: str
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What the Node object has to say. `managed` is None where somebody else manages the node."""

    condition: Condition
    summary: str
    managed: Managed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What the agent needs to know of its Node object."""

    uid: str
    label: str | None
    version: str | None
    summary: str | None
    condition: Condition | None
    internal_ip: str | None
    #: Such as containerd://1.7.24.
    runtime_version: str | None = None
    #: Those that say whether containerd may be restarted.
    annotations: Mapping[str, str] = field(default_factory=dict)


def view(node: Mapping[str, Any]) -> NodeView:
    """Take from a Node what is of interest; whatever is missing or odd is None."""
    metadata, status = _map(node.get("metadata")), _map(node.get("status"))
    labels, annotations = _map(metadata.get("labels")), _map(metadata.get("annotations"))
    return NodeView(
        uid=_text(metadata.get("uid")) or "",
        label=_text(labels.get(LABEL)),
        version=_text(annotations.get(VERSION_ANNOTATION)),
        summary=_text(annotations.get(SUMMARY_ANNOTATION)),
        condition=_condition_of(status),
        internal_ip=_internal_ip(status),
        runtime_version=_text(_map(status.get("nodeInfo")).get("containerRuntimeVersion")),
        annotations={key: str(annotations[key]) for key in sorted(ANNOTATIONS & annotations.keys())},
    )


def make_node_status(report: Report) -> NodeStatus | None:
    """Return what to say about a report; None when nothing has changed and nothing is known to be true."""
    if report.verdict.reason == "Interrupted" and not report.pending:
        return None
    return NodeStatus(
        condition=Condition(
            status=_status(report).value,
            reason=report.verdict.reason,
            message=report.verdict.message[:MAX_MESSAGE],
        ),
        summary=_summary(report),
        managed=_managed(report),
    )


def is_outage(report: Report) -> bool:
    """Tell whether all that is wrong is that the API does not answer as it should."""
    return bool(report.errors) and all(
        isinstance(error, ApiFailed) and error.code not in _REFUSED for error in report.errors
    )


def make_patch(wanted: NodeStatus, live: NodeView, *, now: datetime) -> dict[str, Any] | None:
    """Return the strategic merge patch for `nodes/status`; None when the Node says it all already.

    The uid makes the server refuse the patch when the Node was deleted and registered anew.
    """
    labels: dict[str, str] = {}
    annotations: dict[str, str | None] = {}
    if wanted.managed is not None:
        if live.label != wanted.managed.label:
            labels[LABEL] = wanted.managed.label
        if live.version != wanted.managed.version:
            annotations[VERSION_ANNOTATION] = wanted.managed.version
    if live.summary != wanted.summary:
        annotations[SUMMARY_ANNOTATION] = wanted.summary
    condition = _condition_patch(wanted.condition, live.condition, now, is_due=bool(labels or annotations))
    if not (labels or annotations or condition):
        return None
    parts = (("labels", labels), ("annotations", annotations))
    metadata: dict[str, Any] = {"uid": live.uid, **{name: part for name, part in parts if part}}
    return {"metadata": metadata, **({"status": {"conditions": [condition]}} if condition else {})}


def _condition_patch(
    wanted: Condition, live: Condition | None, now: datetime, *, is_due: bool
) -> dict[str, str] | None:
    """Return the condition to send; a heartbeat alone (`is_due`: something is sent anyway) is rare."""
    at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {"type": CONDITION, "status": wanted.status, "reason": wanted.reason, "message": wanted.message}
    if live is None:
        return {**said, "lastTransitionTime": at, "lastHeartbeatTime": at}
    is_same = (live.status, live.reason, live.message) == (wanted.status, wanted.reason, wanted.message)
    beat = {"lastHeartbeatTime": at} if _is_beat_due(live, now) else {}
    if is_same:
        return {**said, **beat} if is_due and beat else None
    return {**said, **beat, **({"lastTransitionTime": at} if live.status != wanted.status else {})}


def _is_beat_due(live: Condition, now: datetime) -> bool:
    try:
        beat_at = datetime.fromisoformat(live.beat_at or "")
    except ValueError:
        return True
    # A time zone may be missing in what somebody else wrote; a beat in the future is no beat.
    return beat_at.tzinfo is None or not timedelta() <= now - beat_at < HEARTBEAT_INTERVAL


def _status(report: Report) -> Status:
    is_blind = any(isinstance(error, _BLIND) for error in report.errors)
    if report.standing is Standing.OTHER_AGENT or report.managers or is_blind:
        return Status.UNKNOWN
    return Status.TRUE if report.verdict.is_ready else Status.FALSE


def _managed(report: Report) -> Managed | None:
    if report.mode is Mode.OBSERVE or report.standing is Standing.OTHER_AGENT:
        return None
    if report.legacy is None:
        return None
    return Managed(label=report.legacy.label, version=report.published_version)


def _summary(report: Report) -> str:
    in_place = sum(host.is_in_place for host in report.hosts)
    summary = {
        "agent": __version__,
        "mode": report.mode.value,
        "ready": report.verdict.is_ready,
        "reason": report.verdict.reason,
        "desired": report.desired_version,
        "origin": report.desired_origin.value if report.desired_origin else None,
        "applied": report.applied_version,
        "hosts": {"total": len(report.hosts), "inPlace": in_place},
        "errors": sorted({error.reason for error in report.errors}),
        "warnings": sorted({notice.code for notice in report.warnings}),
    }
    return json.dumps(summary, separators=(",", ":"), sort_keys=True)


def _condition_of(status: Mapping[str, Any]) -> Condition | None:
    conditions = status.get("conditions")
    for found in map(_map, conditions if isinstance(conditions, list) else ()):
        if found.get("type") == CONDITION:
            return Condition(
                status=_text(found.get("status")) or "",
                reason=_text(found.get("reason")) or "",
                message=_text(found.get("message")) or "",
                changed_at=_text(found.get("lastTransitionTime")),
                beat_at=_text(found.get("lastHeartbeatTime")),
            )
    return None


def _internal_ip(status: Mapping[str, Any]) -> str | None:
    addresses = status.get("addresses")
    for found in map(_map, addresses if isinstance(addresses, list) else ()):
        if found.get("type") == "InternalIP":
            return _text(found.get("address"))
    return None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
