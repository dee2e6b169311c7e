"""What the agent says on stderr: for a person, or for the journal with how grave each line is.

The journal takes `<N>` in front of a line for its priority (sd-daemon(3)) and adds time and program by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from agent.errors import AgentError

_ERROR, _WARNING, _INFO, _DEBUG = 3, 4, 6, 7


def formatter(environment: Mapping[str, str]) -> logging.Formatter:
    """Return the form of log lines. kubelet, too, stamps each with the time; the level in front is what is missing."""
    return _ForJournal() if _is_journal(environment) else logging.Formatter("%(levelname)s %(message)s")


def complaint(err: AgentError, environment: Mapping[str, str]) -> str:
    """Return what to say of an error that ends a command."""
    if _is_journal(environment):
        return _marked(_ERROR, f"{err.reason}: {err}")
    hint = f"\nregistry-agent: hint: {err.remedy}" if err.remedy else ""
    return f"registry-agent: error: {err.message}{hint}"


class _ForJournal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _marked(_priority(record.levelno), super().format(record))


def _marked(priority: int, text: str) -> str:
    # The journal makes an entry of every line: each needs its own mark.
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def _priority(level: int) -> int:
    if level >= logging.ERROR:
        return _ERROR
    if level >= logging.WARNING:
        return _WARNING
    return _INFO if level >= logging.INFO else _DEBUG


def _is_journal(environment: Mapping[str, str]) -> bool:
    """Tell whether stderr is what systemd has connected to the journal, and nobody has redirected it since."""
    status = os.fstat(2)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
