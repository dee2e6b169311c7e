"""What an outcome means for the node, and that nothing secret is said about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.desired import Origin
from agent.errors import (
    AgentError,
    ConfigInvalid,
    ConfigUnsupported,
    DiskFailed,
    Problem,
    RenderFailed,
    SourceUnreadable,
)
from agent.legacy import Legacy
from agent.model import Notice
from agent.outcome import Mode, Outcome, Standing, Step, StepResult
from agent.plan import Plan, PublishHost, ReplaceFiles, SaveForeign
from agent.report import UNKNOWN_VERSION, Report, as_json, make_report
from agent.tree import File, HostDirectory
from tests.support import documents, rendering
from tests.support.documents import CA, CLIENT_CERTIFICATE, CLIENT_KEY, document, host, mirror

_CONFIG = rendering.config(document({"a": host(mirror(auth=documents.auth("robot", "c4nary"))), "b": host()}))
_FILE = File(name="hosts.toml", content=b"c4nary", mode=0o600)
_PLAN = Plan(operations=(SaveForeign(host="a"), ReplaceFiles(host="a", files=(_FILE,))))
_INVALID = ConfigInvalid((Problem(path="mode", rule="must not be empty"),))
_UNSUPPORTED = ConfigUnsupported("RewriteUnsupported", "cannot", remedy="upgrade")
_UNREADABLE = SourceUnreadable("no", remedy="repair it")
_DISK = DiskFailed("write", "/x", OSError(28, "No space left on device"))


def _report(**fields: Any) -> Report:
    values: dict[str, Any] = {
        "mode": Mode.MANAGE,
        "standing": Standing.CONFIGURED,
        "steps": (),
        "config": _CONFIG,
        "origin": Origin.LIVE,
        "is_in_place": True,
        "legacy": Legacy(),
    }
    return make_report(Outcome(**(values | fields)))


@pytest.mark.parametrize(
    ("fields", "is_ready", "reason"),
    [
        pytest.param({}, True, "InPlace", id="in-place"),
        pytest.param({"plan": _PLAN}, True, "InPlace", id="just-changed"),
        pytest.param({"errors": (_UNREADABLE,)}, True, "LastGoodInPlace", id="source-unreadable"),
        pytest.param({"errors": (_INVALID,)}, False, "ConfigInvalid", id="last-good-under-a-refused-config"),
        pytest.param({"errors": (_UNSUPPORTED,)}, False, "RewriteUnsupported", id="unsupported"),
        pytest.param({"errors": (RenderFailed("x"),)}, False, "RenderFailed", id="render-failed"),
        pytest.param({"errors": (_UNREADABLE, _INVALID)}, False, "ConfigInvalid", id="refusal-beside-unreadable"),
        pytest.param({"is_in_place": False, "errors": (_DISK,)}, False, "DiskFailed", id="disk-failed"),
        pytest.param({"is_in_place": False, "errors": (_UNREADABLE,)}, False, "SourceUnreadable", id="nothing-to-use"),
        pytest.param({"is_in_place": False, "mode": Mode.OBSERVE, "plan": _PLAN}, False, "WouldChange", id="observe"),
        pytest.param({"is_in_place": False, "is_complete": False, "plan": _PLAN}, False, "Interrupted", id="stopped"),
        pytest.param({"standing": Standing.NOT_CONFIGURED, "config": None}, True, "NotConfigured", id="not-configured"),
        pytest.param(
            {"standing": Standing.NOT_CONFIGURED, "config": None, "is_in_place": False},
            False,
            "NotConfigured",
            id="not-configured-but-not-released",
        ),
        pytest.param({"standing": Standing.OTHER_AGENT}, False, "OtherAgent", id="other-agent"),
        pytest.param({"standing": Standing.CONFIRMING_DELETION}, True, "ConfirmingDeletion", id="confirming"),
    ],
)
def test_an_outcome_has_one_verdict(fields: dict[str, Any], *, is_ready: bool, reason: str) -> None:
    """Ready means: the node is what the desired config says."""
    verdict = _report(**fields).verdict
    assert (is_ready, reason) == (verdict.is_ready, verdict.reason)
    assert verdict.message


@pytest.mark.parametrize("error", [_INVALID, _UNSUPPORTED, _DISK])
def test_a_failure_says_what_and_what_to_do(error: AgentError) -> None:
    """The verdict carries the error's own words."""
    message = _report(is_in_place=False, errors=(error,)).verdict.message
    assert error.message in message
    assert error.remedy in message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "opaque"),
        ({"errors": (_INVALID,), "origin": Origin.LAST_GOOD}, "opaque"),
        ({"is_in_place": False}, UNKNOWN_VERSION),
        ({"config": None, "standing": Standing.NOT_CONFIGURED}, UNKNOWN_VERSION),
    ],
)
def test_the_applied_version_is_that_of_what_is_in_place(fields: dict[str, Any], expected: str) -> None:
    """The cluster switches on this word: never one that is not fully applied."""
    assert expected == _report(**fields).applied_version


def test_what_was_done_and_what_is_pending_exclude_each_other() -> None:
    """The same plan, applied or not."""
    done, pending = _report(plan=_PLAN), _report(plan=_PLAN, is_in_place=False)
    assert (("a", "a/hosts.toml"), ()) == (done.changed, done.pending)
    assert ((), ("a", "a/hosts.toml")) == (pending.changed, pending.pending)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, [True, True], id="all"),
        pytest.param({"is_in_place": False, "plan": _PLAN}, [False, True], id="one-differs"),
        pytest.param({"is_in_place": False}, [False, False], id="no-plan-could-be-made"),
    ],
)
def test_each_host_says_whether_it_is_in_place(fields: dict[str, Any], expected: list[bool]) -> None:
    """A plan that could not be made says nothing good about any host."""
    assert expected == [found.is_in_place for found in _report(**fields).hosts]


@pytest.mark.parametrize("fields", [{"plan": _PLAN}, {"saved": frozenset({"a"})}])
def test_a_host_that_was_taken_over_says_so(fields: dict[str, Any]) -> None:
    """In the pass that did it and in every later one."""
    assert [True, False] == [found.is_taken_over for found in _report(**fields).hosts]


def test_warnings_from_outside_the_pass_stand_beside_its_own() -> None:
    """The pass's own come first."""
    one, other = Notice(code="One", message="1"), Notice(code="Other", message="2")
    outcome = Outcome(mode=Mode.MANAGE, standing=Standing.UNKNOWN, steps=(), notices=(one,))
    assert (one, other) == make_report(outcome, notices=(other,)).warnings


def test_the_status_is_json_with_every_fact() -> None:
    """The shape that `/status` and the command line show."""
    client = {"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}
    full = mirror(
        "nexus.example.com:8443",
        ca=CA,
        auth=documents.auth("robot", "c4nary"),
        rewrites=[{"from": "a", "to": "b"}],
        client=client,
        capabilities=["pull"],
    )
    config = rendering.config(document({"a": host(full, server="https://last.example.com")}))
    directory = HostDirectory(name="a", files=(_FILE,))
    report = _report(
        config=config,
        is_in_place=False,
        mode=Mode.OBSERVE,
        plan=Plan(operations=(PublishHost(directory=directory),)),
        steps=(Step(name="desired", result=StepResult.UNCHANGED, duration_s=0.00123456),),
        notices=(Notice(code="UnknownField", message="x is not known"),),
        errors=(_UNREADABLE,),
    )
    expected = {
        "ready": False,
        "reason": "SourceUnreadable",
        "message": "no; repair it",
        "mode": "observe",
        "standing": "configured",
        "desired": {"version": "opaque", "mode": "Direct", "images_base": documents.IMAGES_BASE, "origin": "live"},
        "legacy": "default",
        "managers": [],
        "containerd": {
            "version": None,
            "flavour": None,
            "state": "left-alone",
            "reason": "",
            "message": "",
            "detail": "",
        },
        "applied_version": "unknown",
        "hosts": [
            {
                "host": "a",
                "in_place": False,
                "taken_over": False,
                "server": "https://last.example.com",
                "fallback": True,
                "mirrors": [
                    {
                        "url": "https://nexus.example.com:8443",
                        "capabilities": ["pull"],
                        "ca": True,
                        "client_certificate": True,
                        "user": "robot",
                        "rewrites": 1,
                    }
                ],
            }
        ],
        "pending": ["a/hosts.toml"],
        "steps": [{"name": "desired", "result": "unchanged", "duration_s": 0.001235}],
        "warnings": [{"code": "UnknownField", "message": "x is not known"}],
        "errors": [{"reason": "SourceUnreadable", "message": "no", "remedy": "repair it"}],
    }
    assert expected == as_json(report)
    assert expected == json.loads(json.dumps(as_json(report)))


def test_nothing_secret_is_in_a_report() -> None:
    """Neither in the value, which sinks may log, nor in its JSON."""
    client = {"cert": CLIENT_CERTIFICATE, "key": CLIENT_KEY}
    full = mirror(auth=documents.auth("robot", "c4nary"), client=client, headers={"X-Token": "c4nary"})
    config = rendering.config(document({"a": host(full)}))
    report = _report(config=config, plan=_PLAN, is_in_place=False)
    shown = f"{report!r} {json.dumps(as_json(report))}"
    assert "c4nary" not in shown
    assert CLIENT_KEY.splitlines()[1] not in shown
