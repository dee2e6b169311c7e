"""Which Events a report is worth: changes and new errors, each once."""

from typing import Any

import pytest

from agent.errors import AgentError, ConfigInvalid, Problem
from agent.model import Notice
from agent.node_events import MAX_MESSAGE, Event, events
from agent.outcome import Mode, Standing
from agent.switching import State, Switched
from tests.support.kubeconfigs import CANARY
from tests.support.reports import CUSTOM, DISK, FORBIDDEN, INVALID, KEYLESS, UNREADABLE, plan, report


def _of(**fields: Any) -> list[str]:
    """Return the reasons of a first report's Events."""
    return [event.reason for event in events(None, report(**fields))]


def test_a_node_that_is_right_is_no_event() -> None:
    """Neither the first report nor the thousandth."""
    assert () == events(None, report())
    assert () == events(report(), report())


def test_an_applied_config_is_an_event() -> None:
    """With mode, version and the first paths."""
    (event,) = events(None, report(plan=plan("a", "b")))
    assert "RegistryConfigApplied" == event.reason
    assert "mode Direct, version v1 is in place: a/hosts.toml, b/hosts.toml" == event.message
    assert not event.is_warning


def test_many_paths_are_counted() -> None:
    """The rest is in the log and in /status."""
    (event,) = events(None, report(plan=plan("a", "b", "c", "d", "e")))
    assert event.message.endswith("a/hosts.toml, b/hosts.toml, c/hosts.toml and 2 more")


def test_repaired_drift_is_an_event() -> None:
    """Nobody changed the config: somebody changed the node."""
    (event,) = events(report(), report(plan=plan("a"), is_drift=True))
    assert ("RegistryConfigDriftRepaired", "drift repaired: a/hosts.toml") == (event.reason, event.message)


def test_a_release_is_an_event() -> None:
    """The Secret is gone for certain."""
    (event,) = events(report(), report(plan=plan("a"), standing=Standing.NOT_CONFIGURED, config=None))
    assert "RegistryConfigReleased" == event.reason
    assert event.message.startswith("the desired config is gone, registry.d was released: a")


def test_a_directory_that_was_taken_over_is_a_warning_of_its_own() -> None:
    """Before the change itself."""
    taken, applied = events(None, report(plan=plan("a", taken_over="b")))
    assert ("ForeignDirectoryTakenOver", True, False) == (taken.reason, taken.is_warning, applied.is_warning)
    assert taken.message.startswith("registry.d/b was somebody else's")


@pytest.mark.parametrize("fields", [{"is_in_place": False}, {"is_in_place": False, "mode": Mode.OBSERVE}])
def test_what_was_not_done_is_no_event(fields: dict[str, Any]) -> None:
    """A plan alone is nothing that happened, nor is a take-over that is only planned."""
    assert [] == _of(plan=plan("a", taken_over="b"), **fields)


@pytest.mark.parametrize(
    ("error", "fields"), [(INVALID, {}), (DISK, {"is_in_place": False}), (CUSTOM.errors()[0], {"legacy": CUSTOM})]
)
def test_a_new_error_is_a_warning(error: AgentError, fields: dict[str, Any]) -> None:
    """With its reason and all its words; as long as it stays it is not new."""
    after = report(errors=(error,), **fields)
    assert (Event(reason=error.reason, message=str(error), is_warning=True),) == events(report(), after)
    assert () == events(after, report(errors=(error,), **fields))


def test_an_error_that_comes_back_is_new_again() -> None:
    """It was gone in between; the recorder counts them."""
    broken, right = report(errors=(INVALID,)), report()
    assert [INVALID.reason] == [event.reason for event in events(right, broken)]
    assert () == events(broken, right)
    assert [INVALID.reason] == [event.reason for event in events(right, broken)]


def test_another_error_of_the_same_reason_is_new() -> None:
    """The refused config was changed, and is refused for something else now."""
    other = ConfigInvalid((Problem(path="version", rule="must not be empty"),))
    (event,) = events(report(errors=(INVALID,)), report(errors=(other,)))
    assert "version: must not be empty" in event.message


@pytest.mark.parametrize("error", [FORBIDDEN, KEYLESS])
def test_that_the_api_cannot_be_asked_is_no_event(error: AgentError) -> None:
    """It could be sent only when it is over."""
    assert [] == _of(errors=(error,))


def test_a_source_that_cannot_be_read_is_one() -> None:
    """A file source beside a cluster that works."""
    assert ["SourceUnreadable"] == _of(errors=(UNREADABLE,))


def test_warnings_of_a_report_are_no_events() -> None:
    """They stand in /status and, by their codes, in the summary."""
    assert [] == _of(notices=(Notice(code="UnknownField", message="x is not known"),))


def test_a_long_error_is_cut() -> None:
    """Events have room for 1,024 bytes."""
    problems = tuple(Problem(path=f"hosts.h{number}.mirrors", rule="x" * 100) for number in range(50))
    (event,) = events(None, report(errors=(ConfigInvalid(problems),)))
    assert MAX_MESSAGE == len(event.message)


def test_nothing_secret_is_told() -> None:
    """Paths only, never contents."""
    assert CANARY not in repr(events(None, report(plan=plan("a", taken_over="b"), errors=(INVALID, DISK))))


def test_a_restart_that_has_to_wait_is_told_once() -> None:
    """And once more when it waits for something else."""
    held = report(switched=Switched(state=State.WAITING, reason="RestartHeld", message="annotation x"))
    (event,) = events(report(), held)
    assert ("ContainerdRestartWaiting", "RestartHeld: annotation x") == (event.reason, event.message)
    assert () == events(held, held)
    asked = report(switched=Switched(state=State.WAITING, reason="WaitingForApproval", message="waiting"))
    assert ["WaitingForApproval: waiting"] == [event.message for event in events(held, asked)]


def test_a_wait_of_moments_is_no_event() -> None:
    settling = report(switched=Switched(state=State.WAITING, reason="LegacySettling", message="once more"))
    assert () == events(report(), settling)
