"""What a report means for the Node object, and the one patch that makes it so."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent import __version__
from agent.desired import Origin
from agent.errors import AgentError, ApiFailed, ConfigInvalid, Problem
from agent.legacy import LABEL, Legacy
from agent.model import Notice
from agent.node_status import (
    CONDITION,
    MAX_MESSAGE,
    SUMMARY_ANNOTATION,
    VERSION_ANNOTATION,
    Condition,
    Managed,
    NodeStatus,
    NodeView,
    is_outage,
    make_node_status,
    make_patch,
    view,
)
from agent.outcome import Mode, Standing
from tests.support.kubeconfigs import CANARY
from tests.support.reports import CUSTOM, DISK, FORBIDDEN, INVALID, KEYLESS, UNREADABLE, config, plan, report

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
AT = "2026-01-01T12:00:00Z"
LEGACY_ERROR = CUSTOM.errors()[0]


def _status(**fields: Any) -> NodeStatus:
    found = make_node_status(report(**fields))
    assert found is not None
    return found


# What a report means.


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        pytest.param({}, "True", "InPlace", id="in-place"),
        pytest.param({"standing": Standing.NOT_CONFIGURED, "config": None}, "True", "NotConfigured", id="none-wanted"),
        pytest.param({"standing": Standing.CONFIRMING_DELETION}, "True", "ConfirmingDeletion", id="confirming"),
        pytest.param({"errors": (INVALID,), "origin": Origin.LAST_GOOD}, "False", "ConfigInvalid", id="refused"),
        pytest.param({"errors": (DISK,), "is_in_place": False}, "False", "DiskFailed", id="disk"),
        pytest.param({"errors": (LEGACY_ERROR,), "legacy": CUSTOM}, "False", "LegacyRegistryConfig", id="legacy"),
        pytest.param(
            {"is_in_place": False, "mode": Mode.OBSERVE, "plan": plan("a")}, "False", "WouldChange", id="observe"
        ),
        pytest.param(
            {"errors": (FORBIDDEN,), "origin": Origin.LAST_GOOD}, "Unknown", "LastGoodInPlace", id="forbidden"
        ),
        pytest.param({"errors": (KEYLESS,), "origin": Origin.LAST_GOOD}, "Unknown", "LastGoodInPlace", id="keyless"),
        pytest.param({"errors": (UNREADABLE,), "origin": Origin.LAST_GOOD}, "Unknown", "LastGoodInPlace", id="blind"),
        pytest.param(
            {"errors": (FORBIDDEN,), "is_in_place": False, "config": None, "standing": Standing.UNKNOWN},
            "Unknown",
            "ApiForbidden",
            id="blind-with-nothing",
        ),
        pytest.param(
            {"standing": Standing.OTHER_AGENT, "is_in_place": False}, "Unknown", "OtherAgent", id="other-agent"
        ),
    ],
)
def test_a_report_is_one_condition(fields: dict[str, Any], status: str, reason: str) -> None:
    """True: the node is right; False: it is wrong; Unknown: nobody knows, or another agent does."""
    condition = _status(**fields).condition
    assert (status, reason) == (condition.status, condition.reason)
    assert condition.message


@pytest.mark.parametrize("error", [INVALID, DISK, LEGACY_ERROR, FORBIDDEN, KEYLESS])
def test_a_condition_says_what_to_do(error: AgentError) -> None:
    """Its message has the error's own words and its remedy."""
    message = _status(is_in_place=False, errors=(error,)).condition.message
    assert error.message in message
    assert error.remedy in message


def test_a_copy_in_force_is_said_to_be_one() -> None:
    """In the condition and in the summary: the API was not asked, or did not answer."""
    status = _status(errors=(FORBIDDEN,), origin=Origin.LAST_GOOD)
    assert status.condition.message.startswith("registry.d is what the last good config says; list secrets s: HTTP 403")
    assert "last-good" == json.loads(status.summary)["origin"]


def test_a_long_message_is_cut() -> None:
    """A Node has room for many things; conditions of other kinds are short as well."""
    problems = tuple(Problem(path=f"hosts.h{number}.mirrors", rule="x" * 100) for number in range(50))
    assert MAX_MESSAGE == len(_status(errors=(ConfigInvalid(problems),)).condition.message)


def test_half_a_pass_that_had_nothing_to_change_says_nothing() -> None:
    """The agent was stopped; what the Node says is as true as before."""
    assert make_node_status(report(is_in_place=False, is_complete=False)) is None


def test_half_a_change_takes_the_version_back() -> None:
    """The agent was stopped in the middle: no version is fully in place."""
    said = make_node_status(report(is_in_place=False, is_complete=False, plan=plan("a")))
    assert said is not None
    assert said.managed is not None
    assert ("Interrupted", "False", None) == (said.condition.reason, said.condition.status, said.managed.version)


@pytest.mark.parametrize("code", [None, 404, 429, 500, 503])
def test_an_outage_of_the_api_is_told_from_other_failures(code: int | None) -> None:
    """It is not said at once: every node would, in the second in which the API is back."""
    outage = ApiFailed("ApiUnreachable", "list secrets s: no answer", code=code)
    assert is_outage(report(errors=(outage,), origin=Origin.LAST_GOOD))
    assert is_outage(report(errors=(outage, outage), config=None, is_in_place=False))
    assert not is_outage(report())


@pytest.mark.parametrize("other", [INVALID, DISK, LEGACY_ERROR, FORBIDDEN, KEYLESS])
def test_what_else_is_wrong_during_an_outage_is_said(other: AgentError) -> None:
    """As soon as it can be: an outage hides nothing that is about this node."""
    outage = ApiFailed("ApiUnreachable", "list secrets s: no answer")
    status = _status(errors=(outage, other), origin=Origin.LAST_GOOD, is_in_place=False)
    assert "Unknown" == status.condition.status
    assert other.reason in json.loads(status.summary)["errors"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, Managed(label="default", version="v1"), id="in-place"),
        pytest.param({"legacy": CUSTOM}, Managed(label="custom", version=None), id="legacy"),
        pytest.param({"is_in_place": False}, Managed(label="default", version=None), id="not-applied"),
        pytest.param({"errors": (INVALID,)}, Managed(label="default", version="v1"), id="last-good-in-place"),
        pytest.param(
            {"standing": Standing.NOT_CONFIGURED, "config": None},
            Managed(label="default", version="unknown"),
            id="no-secret",
        ),
        pytest.param(
            {"standing": Standing.NOT_CONFIGURED, "config": None, "legacy": CUSTOM},
            Managed(label="custom", version="unknown"),
            id="no-secret-and-legacy",
        ),
        pytest.param(
            {"standing": Standing.NOT_CONFIGURED, "config": None, "is_in_place": False},
            Managed(label="default", version=None),
            id="not-released",
        ),
        pytest.param(
            {"standing": Standing.CONFIRMING_DELETION}, Managed(label="default", version="v1"), id="confirming"
        ),
        pytest.param({"mode": Mode.OBSERVE}, None, id="observe"),
        pytest.param({"standing": Standing.OTHER_AGENT, "is_in_place": False}, None, id="other-agent"),
        pytest.param({"legacy": None, "is_in_place": False, "errors": (DISK,)}, None, id="nothing-is-known"),
    ],
)
def test_label_and_version_are_written_only_when_true(fields: dict[str, Any], expected: Managed | None) -> None:
    """The cluster's switch waits for them (contract, section 0)."""
    assert expected == _status(**fields).managed


def test_the_summary_has_the_facts_in_a_small_json() -> None:
    """Versions, reasons and numbers; names of hosts are in /status."""
    notice = Notice(code="UnknownField", message="x is not known")
    status = _status(errors=(INVALID, DISK, INVALID), is_in_place=False, plan=plan("a"), notices=(notice, notice))
    assert {
        "agent": __version__,
        "mode": "manage",
        "ready": False,
        "reason": "ConfigInvalid",
        "desired": "v1",
        "origin": "live",
        "applied": "unknown",
        "hosts": {"total": 2, "inPlace": 1},
        "errors": ["ConfigInvalid", "DiskFailed"],
        "warnings": ["UnknownField"],
    } == json.loads(status.summary)


def test_a_thousand_hosts_do_not_make_the_summary_large() -> None:
    """An annotation on 5,000 Nodes is 5,000 times in etcd."""
    names = [f"r{number}.test" for number in range(1000)]
    status = _status(config=config("v" * 64, *names), is_in_place=False, plan=plan(*names))
    assert len(status.summary) < 512


def test_a_report_of_the_same_says_the_same() -> None:
    """No time, no duration, no number of the pass: nothing that changes for nothing."""
    first, second = report(as_of=1.0), report(as_of=2.0, plan=plan("a"), is_drift=True)
    assert make_node_status(first) == make_node_status(second)


def test_nothing_secret_is_said() -> None:
    """Neither in the status nor in the patch."""
    status = _status(plan=plan("a", taken_over="b"))
    assert CANARY not in f"{status!r} {json.dumps(make_patch(status, _live(), now=NOW))}"


# What a Node says.


def _live(**fields: Any) -> NodeView:
    values: dict[str, Any] = {
        "uid": "uid-1",
        "label": None,
        "version": None,
        "summary": None,
        "condition": None,
        "internal_ip": "10.0.0.11",
    }
    return NodeView(**(values | fields))


def test_a_node_is_read() -> None:
    """What the agent needs to know of it, and nothing else."""
    condition = {
        "type": CONDITION,
        "status": "True",
        "reason": "InPlace",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "lastHeartbeatTime": "2026-01-01T00:00:01Z",
    }
    addresses = [
        {"type": "Hostname", "address": "w0"},
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "fd00::1"},
    ]
    node = {
        "metadata": {
            "uid": "uid-1",
            "labels": {LABEL: "default", "a": "b"},
            "annotations": {VERSION_ANNOTATION: "v1", SUMMARY_ANNOTATION: "{}", "a": "b"},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}, condition], "addresses": addresses},
    }
    assert _live(
        label="default",
        version="v1",
        summary="{}",
        internal_ip="10.0.0.1",
        condition=Condition(
            status="True",
            reason="InPlace",
            message="m",
            changed_at="2026-01-01T00:00:00Z",
            beat_at="2026-01-01T00:00:01Z",
        ),
    ) == view(node)


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"metadata": None, "status": None},
        {"metadata": 7, "status": []},
        {"metadata": {"labels": 7, "annotations": [], "uid": 7}, "status": {"conditions": 7, "addresses": {}}},
        {
            "metadata": {"labels": {LABEL: 7}, "annotations": {VERSION_ANNOTATION: None}},
            "status": {"conditions": [None, 7, {"type": "Ready"}], "addresses": [None, {"type": "Hostname"}]},
        },
    ],
    ids=str,
)
def test_a_node_with_odd_or_missing_parts_is_read(node: dict[str, Any]) -> None:
    """Whatever is not there is not known."""
    assert _live(uid="", internal_ip=None) == view(node)


def test_a_condition_without_its_fields_is_read() -> None:
    """Somebody else's half of one."""
    node = {"status": {"conditions": [{"type": CONDITION, "lastTransitionTime": None}]}}
    assert Condition(status="", reason="", message="") == view(node).condition


# The patch.

_SAID = Condition(status="True", reason="InPlace", message="m", changed_at="2026-01-01T00:00:00Z", beat_at=AT)
_WANTED = NodeStatus(
    condition=Condition(status="True", reason="InPlace", message="m"),
    summary="{}",
    managed=Managed(label="default", version="v1"),
)
_SETTLED = _live(label="default", version="v1", summary="{}", condition=_SAID)


def test_a_node_that_says_nothing_is_told_everything() -> None:
    """Label, annotations and condition in one body, for the Node with this uid."""
    assert {
        "metadata": {
            "uid": "uid-1",
            "labels": {LABEL: "default"},
            "annotations": {VERSION_ANNOTATION: "v1", SUMMARY_ANNOTATION: "{}"},
        },
        "status": {
            "conditions": [
                {
                    "type": CONDITION,
                    "status": "True",
                    "reason": "InPlace",
                    "message": "m",
                    "lastTransitionTime": AT,
                    "lastHeartbeatTime": AT,
                }
            ]
        },
    } == make_patch(_WANTED, _live(), now=NOW)


@pytest.mark.parametrize("hours", [0, 1, 24, 24 * 365])
def test_a_node_that_says_it_all_is_left_alone(hours: int) -> None:
    """However long ago: there is no heartbeat for its own sake."""
    assert make_patch(_WANTED, _SETTLED, now=NOW + timedelta(hours=hours)) is None


def _changed(**fields: Any) -> NodeView:
    values = {name: getattr(_SETTLED, name) for name in NodeView.__slots__}
    return NodeView(**(values | fields))


def test_only_what_differs_is_sent() -> None:
    """The label alone."""
    patch = make_patch(_WANTED, _changed(label="custom"), now=NOW)
    assert {"metadata": {"uid": "uid-1", "labels": {LABEL: "default"}}} == patch


@pytest.mark.parametrize("missing", [None, "custom"])
def test_a_missing_label_is_always_written(missing: str | None) -> None:
    """It blocks the whole cluster's switch."""
    patch = make_patch(_WANTED, _changed(label=missing), now=NOW)
    assert patch is not None
    assert {LABEL: "default"} == patch["metadata"]["labels"]


def test_a_version_that_is_not_true_is_removed() -> None:
    """null in a patch removes; what is not there needs no removal."""
    wanted = NodeStatus(condition=_WANTED.condition, summary="{}", managed=Managed(label="default", version=None))
    assert {"metadata": {"uid": "uid-1", "annotations": {VERSION_ANNOTATION: None}}} == make_patch(
        wanted, _SETTLED, now=NOW
    )
    assert make_patch(wanted, _changed(version=None), now=NOW) is None


@pytest.mark.parametrize("live", [{"label": "custom", "version": "theirs"}, {"label": None, "version": None}])
def test_who_does_not_manage_leaves_label_and_version_alone(live: dict[str, Any]) -> None:
    """Whatever they say."""
    wanted = NodeStatus(condition=_WANTED.condition, summary="{}", managed=None)
    assert make_patch(wanted, _changed(**live), now=NOW) is None


def _sent(wanted: Condition, live: Condition | None, *, now: datetime = NOW, summary: str = "{}") -> Any:
    """Return the condition that is sent, without what never changes; None for none."""
    status = NodeStatus(condition=wanted, summary=summary, managed=_WANTED.managed)
    patch = make_patch(status, _changed(condition=live), now=now)
    conditions = (patch or {}).get("status", {}).get("conditions")
    return None if conditions is None else {key: value for key, value in conditions[0].items() if "Time" in key}


def _condition(status: str = "True", message: str = "m", *, beat_at: str | None = AT) -> Condition:
    return Condition(status=status, reason="InPlace", message=message, changed_at=AT, beat_at=beat_at)


def test_a_transition_is_a_change_of_the_status() -> None:
    """Not of the reason or the message."""
    assert {"lastTransitionTime": AT} == _sent(_condition("False"), _condition())
    assert {} == _sent(_condition(message="other"), _condition())


@pytest.mark.parametrize(
    ("age", "is_due"),
    [
        (timedelta(seconds=0), False),
        (timedelta(minutes=4, seconds=59), False),
        (timedelta(minutes=5), True),
        (timedelta(days=9), True),
        (timedelta(seconds=-1), True),
    ],
)
def test_a_heartbeat_goes_along_every_five_minutes_at_most(age: timedelta, *, is_due: bool) -> None:
    """With another change of the condition, or of anything else; a beat in the future is none."""
    beat = {"lastHeartbeatTime": (NOW + age).strftime("%Y-%m-%dT%H:%M:%SZ")} if is_due else {}
    assert beat == _sent(_condition(message="other"), _condition(), now=NOW + age)
    assert (beat or None) == _sent(_condition(), _condition(), now=NOW + age, summary="other")
    assert _sent(_condition(), _condition(), now=NOW + age) is None


@pytest.mark.parametrize("beat_at", [None, "", "soon", "2026-01-01T12:00:00", "2026-13-01T12:00:00Z"])
def test_a_heartbeat_that_cannot_be_read_is_due(beat_at: str | None) -> None:
    """Somebody else wrote it, or nobody."""
    assert {"lastHeartbeatTime": AT} == _sent(_condition(message="other"), _condition(beat_at=beat_at))


def test_times_are_utc() -> None:
    """Whatever the clock's zone."""
    now = NOW.astimezone(tz=datetime.now().astimezone().tzinfo)
    assert {"lastTransitionTime": AT, "lastHeartbeatTime": AT} == _sent(_condition(), None, now=now)


@pytest.mark.parametrize("legacy", [Legacy(), CUSTOM])
def test_the_label_says_what_stands_on_the_node(legacy: Legacy) -> None:
    """default or custom, nothing else."""
    managed = _status(legacy=legacy).managed
    assert managed is not None
    assert ("custom" if legacy.is_custom else "default") == managed.label
