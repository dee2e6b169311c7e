"""Tells systemd how the agent is, by the protocol of sd_notify(3).

Nothing here raises or waits: nobody may listen, or nobody in time, and neither is worth a pass. A
lost READY=1 comes with the next report, a lost WATCHDOG=1 half a period later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping

from agent.report import Report

#: `systemctl status` shows one line.
MAX_STATUS_CHARACTERS = 256

Send = Callable[[str], None]


class Notifier:
    """A sink of reports; silent where no service manager listens."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Find the manager and its watchdog in the environment."""
        self._send = _sender(environment.get("NOTIFY_SOCKET", ""))
        self._feed_every_s = _watchdog_s(environment) / 2

    def report(self, report: Report) -> None:
        """Be ready, whatever the first pass has found, and say what that is."""
        verdict = report.verdict
        status = f"{'ready' if verdict.is_ready else 'not ready'} ({verdict.reason}): {verdict.message}"
        self._send(f"READY=1\nSTATUS={' '.join(status.split())[:MAX_STATUS_CHARACTERS]}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    @contextlib.asynccontextmanager
    async def watched(self, is_alive: Callable[[], bool]) -> AsyncIterator[None]:
        """Feed the watchdog for as long as `is_alive` says so; it asks for the loop's own heartbeat."""
        if not self._feed_every_s:
            yield
            return
        feeding = asyncio.create_task(self._feed(is_alive), name="watchdog")
        try:
            yield
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})

    async def _feed(self, is_alive: Callable[[], bool]) -> None:
        while True:
            if is_alive():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self._feed_every_s)


def _sender(address: str) -> Send:
    if not address.startswith(("/", "@")):  # nobody, or a family that only whole machines use
        return lambda _: None
    target = f"\0{address[1:]}" if address.startswith("@") else address

    def send(message: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(message.encode(errors="backslashreplace"), socket.MSG_DONTWAIT, target)

    return send


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return the watchdog's period, 0 for none: as sd_watchdog_enabled(3), it may be meant for another process."""
    period_us = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(period_us) / 1e6 if is_ours and period_us.isdecimal() else 0.0
