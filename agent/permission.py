"""The permission to restart containerd, as a switch uses it: asked for, kept alive, given back for certain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from agent.approval import Waiting
from agent.errors import AgentError
from agent.switch_ports import Approval, Wait

logger = logging.getLogger(__name__)

REASON = "WaitingForApproval"
#: Whoever else waits can wait for the TTL; a pass has other things to do.
GIVE_BACK_S = 3.0
KEEP_INTERVAL_S = 30.0


class Permission:
    """Remembers only whether anything was asked for that has to be given back."""

    def __init__(self, approval: Approval) -> None:
        """Ask nothing yet."""
        self._approval = approval
        self._has_asked = False

    async def require(self) -> None:
        """Raise Wait as long as the permission is not there."""
        self._has_asked = True
        answer = await self._approval.ask()
        if isinstance(answer, Waiting):
            raise Wait(REASON, "containerd has to be restarted; waiting for permission", detail=answer.reason)

    def inherit(self) -> None:
        """Count with what an agent that was stopped may have asked for."""
        self._has_asked = True

    async def give_back(self) -> None:
        """Give it back, or the wish for it up; what fails is tried again by the next call."""
        if not self._has_asked:
            return
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._approval.release()
        except (AgentError, TimeoutError) as err:
            logger.warning("the approval of the restart could not be given back: %s", str(err) or "no answer")
        else:
            self._has_asked = False

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep it alive while a restart is under way; losing it changes nothing any more."""
        keeper = asyncio.create_task(self._keep(), name="approval")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            try:
                await self._approval.keep()
            except AgentError as err:
                logger.warning("the approval of the restart could not be renewed: %s", err)
