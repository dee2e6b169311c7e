"""Asks Deckhouse for permission in bashible's way: annotations on the Node, which its hook answers.

The agent says what bashible says: that it waits, and that the node is not in its final state. It
never removes a request or an approval, and asks for no disruption: a registry switch needs none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Protocol

from agent import approval
from agent.approval import APPROVED, CHECKSUM, Annotations, Granted, Waiting
from agent.errors import AgentError, ApiFailed, ApprovalLost
from agent.kube.client import Object
from agent.kube.resources import Patch, Resource, node, node_status

logger = logging.getLogger(__name__)

#: A pass has other things to do. Below the client's own limit for a request.
ASK_S = 10.0

#: Between attempts in the background: nobody waits for them.
RETRY_S = 30.0

#: bashible's idle run, every minute, writes the checksum; where none runs the agent puts it back.
#: Long enough for a bashible that has joined our request: it looks for the approval every 15 s.
SETTLE_S = 300.0


class NodeApi(Protocol):
    """What is needed of the client; all raise ApiFailed and CredentialsUnusable."""

    async def get(self, resource: Resource) -> Object:
        """Return the object as etcd has it."""

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        """Change an object and return it."""


class _Stage(Enum):
    IDLE = "idle"
    WAITING = "waiting"
    HELD = "held"


class BashibleApproval:
    """An Approval. Whoever follows the Node calls `on_node_changed`; `run` must be running."""

    def __init__(
        self,
        api: NodeApi,
        *,
        node: str,
        annotations: Callable[[], Annotations | None],
        on_change: Callable[[], None],
    ) -> None:
        """`annotations` are those that the Node was last seen with, None as long as it is not known."""
        self._api = api
        self._node = node
        self._annotations = annotations
        self._on_change = on_change
        self._stage = _Stage.IDLE
        self._settles_at = 0.0
        self._due = asyncio.Event()

    async def ask(self) -> Granted | Waiting:
        """Say on the Node that the agent waits, or find the approval there."""
        seen = self._annotations()
        if seen is None or approval.is_worth_asking(seen):
            try:
                async with asyncio.timeout(ASK_S):
                    seen = await self._change(approval.request)
            except TimeoutError:
                raise ApiFailed("ApiUnreachable", f"get {node(self._node)}: no answer within {ASK_S:.0f} s") from None
        self._stage = _Stage.HELD if APPROVED in seen else _Stage.WAITING
        return Granted() if self._stage is _Stage.HELD else approval.waiting_for_deckhouse(self._node)

    async def keep(self) -> None:
        """Look after the approval; raises ApprovalLost when it was taken back."""
        if APPROVED not in await self._change(approval.stay):
            raise ApprovalLost("the approval was taken back: another node of the group may restart at the same time")

    async def release(self) -> None:
        """End the agent's part, without a request: bashible, else `run`, lets the hook clear the approval."""
        if self._stage is not _Stage.IDLE:
            self._stage = _Stage.IDLE
            self._settle_later()

    def on_node_changed(self) -> None:
        """Say that the Node's annotations may be others now."""
        self._due.set()

    async def run(self) -> None:
        """Do and say what follows from changes of the Node, for ever."""
        self._settle_later()  # what the agent has left behind when it was stopped
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._follow(self._annotations() or {})
            except AgentError as err:
                logger.debug("the approval's annotations have to wait: %s", err)
                await asyncio.sleep(RETRY_S)
                self._due.set()

    async def _follow(self, seen: Annotations) -> None:
        is_ready = CHECKSUM in seen or self._now() >= self._settles_at
        if self._stage is _Stage.WAITING and approval.is_worth_asking(seen):
            self._on_change()
        elif self._stage is _Stage.HELD and approval.stay(seen):
            await self._change(approval.stay)
        elif self._stage is _Stage.IDLE and approval.settle(seen) and is_ready:
            await self._change(approval.settle)

    def _settle_later(self) -> None:
        self._settles_at = self._now() + SETTLE_S
        asyncio.get_running_loop().call_at(self._settles_at, self._due.set)

    async def _change(self, changes_of: Callable[[Annotations], approval.Changes]) -> Annotations:
        """Change the Node as it is now, and return what it said before; ApiFailed 409 when it just changed."""
        metadata = _map((await self._api.get(node(self._node))).get("metadata"))
        seen = _map(metadata.get("annotations"))
        if changes := changes_of(seen):
            # The version makes certain that the hook has not answered meanwhile.
            body = {"metadata": {"resourceVersion": metadata.get("resourceVersion"), "annotations": changes}}
            await self._api.patch(node_status(self._node), body, Patch.MERGE)
        return seen

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
