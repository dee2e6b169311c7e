"""The record of switches on the disk, and the first words of containerd's own log after a failed one."""

from __future__ import annotations

import logging
import re

from agent import threads
from agent.errors import AgentError
from agent.model import Notice
from agent.switch_ports import Files, Systemd
from agent.switching import Record

logger = logging.getLogger(__name__)

MAX_LOG_LINES = 2
_MAX_LINE = 256
_TIMEOUT_S = 30.0

#: Errors that end containerd or its CRI plugin; others are there at each start, or are about some pull.
_END = re.compile(r"level=fatal|^containerd: |failed to load plugin.*io\.containerd\.(grpc\.v1\.cri|cri\.v1)")
#: What a URL may hold that is nobody's business.
_SECRETS = re.compile(r"(?<=://)[^/@\s]+@|(?<=\?)[^\s\"']+")


class Journal:
    """Says what is under way; written before what it announces is begun."""

    def __init__(self, files: Files) -> None:
        """Read nothing yet."""
        self._files = files
        self._kept: Record | None = None
        #: Whether this agent is in the middle of a switch: the worst moment to be stopped.
        self.is_under_way = False

    async def read(self) -> tuple[Record, tuple[Notice, ...]]:
        """Return the record; a damaged one is begun anew, and that is said. Raises DiskFailed."""
        record = Record.load(await threads.run("record", self._files.read_record))
        self._kept = record
        if record is not None:
            return record, ()
        message = "the record of containerd's restarts is damaged and begun anew"
        return Record(), (Notice(code="SwitchRecordDamaged", message=message),)

    async def keep(self, record: Record) -> None:
        """Keep the record, if it is another one; raises DiskFailed."""
        self.is_under_way = record.under_way is not None
        if record != self._kept:
            self._kept = None  # nobody knows what is there when the write fails
            await threads.run("record", lambda: self._files.write_record(record.dump()))
            self._kept = record


async def containerd_says(systemd: Systemd, unit: str, *, since: float) -> str:
    """Return the first errors that containerd has logged since a Unix time; nothing if that cannot be read."""
    argv = ("/usr/bin/journalctl", "--unit", unit, f"--since=@{int(since)}", "--lines=1000", "--output=cat")
    try:
        finished = await systemd.run_transient((*argv, "--no-pager"), timeout_s=_TIMEOUT_S)
    except AgentError as err:
        logger.debug("containerd's log cannot be read: %s", err)
        return ""
    lines = log_errors(finished.stdout)
    return f" (containerd says: {'; '.join(lines)})" if lines else ""


def log_errors(output: bytes) -> list[str]:
    """Return the first lines of containerd's log that say why it or its CRI plugin did not come up, shortened."""
    lines = output.decode(errors="replace").splitlines()
    found = list(filter(_END.search, lines))[:MAX_LOG_LINES]
    return [_SECRETS.sub("***", line)[:_MAX_LINE] for line in found]
