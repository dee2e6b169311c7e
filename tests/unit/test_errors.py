"""The texts that an operator reads."""

from __future__ import annotations

import errno

import pytest

from agent.errors import MAX_PROBLEMS_SHOWN, AgentError, ConfigInvalid, DiskFailed, Problem


def test_an_error_reads_message_then_remedy() -> None:
    """One line; without a remedy the message stands alone."""
    assert "what; do this" == str(AgentError("what", remedy="do this"))
    assert "what" == str(AgentError("what"))


def test_a_problem_reads_path_then_rule() -> None:
    """The root of the document has no path."""
    assert "a.b: must not" == str(Problem(path="a.b", rule="must not"))
    assert "must not" == str(Problem(path="", rule="must not"))


@pytest.mark.parametrize(("count", "more"), [(1, None), (20, None), (21, "and 1 more"), (120, "and 100 more")])
def test_a_refused_config_spells_out_the_first_problems(count: int, more: str | None) -> None:
    """The rest is counted, so that the message has an end."""
    error = ConfigInvalid(tuple(Problem(path=f"p{number}", rule="r") for number in range(count)))
    assert min(count, MAX_PROBLEMS_SHOWN) == error.message.count(": r")
    assert (more is not None) == ("more" in error.message)
    assert more is None or error.message.endswith(more)
    assert count == len(error.problems)


def test_a_failed_disk_names_operation_path_and_cause() -> None:
    """In the system's own word."""
    error = DiskFailed("write", "/x/hosts.toml", OSError(errno.ENOSPC, "No space left on device"))
    assert "write /x/hosts.toml: No space left on device" == error.message
    assert errno.ENOSPC == error.errno


def test_a_path_of_odd_bytes_stays_printable() -> None:
    """A foreign file name may be no text; the message must be."""
    error = DiskFailed("read", "/x/\udcff", OSError(errno.EIO, "Input/output error"))
    assert "\\udcff" in error.message
    assert error.message.encode()
