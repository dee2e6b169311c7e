"""Whether containerd may be restarted on this node now: the answers, and what they follow from. Pure.

No other machine's clock is ever trusted: a Lease is dead when it has not changed for its duration on
this node's own clock, as in client-go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

#: A holder that has not renewed for so long is dead. Renewed every third: two attempts may fail.
TTL_S = 120

#: A node uses this many of the Leases at most: each is a request to ask, and a connection to wait.
MAX_SLOTS = 3

#: Foreign text is cut here.
MAX_SHOWN = 100

#: On the Node: containerd is not restarted, whatever the value; "false" is no hold.
HOLD = "registry-agent.io/hold"

#: Deckhouse's protocol (contract section 4). The checksum says which configuration bashible has applied.
APPROVED = "update.node.deckhouse.io/approved"
WAITING = "update.node.deckhouse.io/waiting-for-approval"
CHECKSUM = "node.deckhouse.io/configuration-checksum"
#: Ours: the agent takes part, and this is the checksum that it has removed (empty: there was none).
TAKEN = "registry-agent.io/removed-configuration-checksum"

#: What a watch of the Node must bring.
ANNOTATIONS = frozenset({HOLD, APPROVED, WAITING, CHECKSUM, TAKEN})

Annotations = Mapping[str, str]
Changes = dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The restart may begin; `keep` while it lasts, `release` after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Not now. `on_change` is called when asking again makes sense."""

    reason: str


class Approval(Protocol):
    """What the restart needs; all raise ApiFailed and CredentialsUnusable."""

    async def ask(self) -> Granted | Waiting:
        """Ask for the permission, or whether it still stands; answers soon."""

    async def keep(self) -> None:
        """Renew the permission, every third of its TTL; raises ApprovalLost."""

    async def release(self) -> None:
        """Give the permission back, or the wish for it up; may be called at any time, and again."""

    async def run(self) -> None:
        """Follow what the answer depends on; idle unless somebody waits."""


class NoApproval:
    """Every node restarts when it wants to. Its `run` returns: there is nothing to follow."""

    async def ask(self) -> Granted:
        """Grant."""
        return Granted()

    async def _nothing(self) -> None:
        """Nothing can be lost."""

    keep = release = run = _nothing


def hold(annotations: Annotations) -> Waiting | None:
    """Return what the Node's hold says, None when it has none."""
    value = annotations.get(HOLD, "false")
    return None if value == "false" else Waiting(reason=f"annotation {HOLD} on the Node: {_shown(value) or 'set'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A Lease as it was read. One that is not there is free."""

    holder: str = ""
    acquired_at: str = ""
    ttl_s: int = TTL_S
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A Lease that has not changed since a moment of this node's own clock."""

    slot: Slot
    since_s: float

    @property
    def dies_s(self) -> float:
        """When a holder that does not renew is dead."""
        return self.since_s + self.slot.ttl_s


def slots(node: str, *, count: int) -> tuple[int, ...]:
    """Return which of the Leases a node uses, always the same; all nodes together use all of them."""
    first = int.from_bytes(hashlib.sha256(node.encode()).digest()[:8]) % count
    return tuple((first + step) % count for step in range(min(count, MAX_SLOTS)))


def read_slot(lease: Mapping[str, Any] | None) -> Slot:
    """Take from a Lease what is of interest."""
    spec, version = _map(lease, "spec"), _map(lease, "metadata").get("resourceVersion")
    holder, acquired, ttl_s = (spec.get(key) for key in ("holderIdentity", "acquireTime", "leaseDurationSeconds"))
    return Slot(
        holder=holder if isinstance(holder, str) else "",
        acquired_at=acquired if isinstance(acquired, str) else "",
        ttl_s=ttl_s if isinstance(ttl_s, int) and ttl_s > 0 else TTL_S,
        version=version if isinstance(version, str) else "",
    )


def sight(before: Sighting, slot: Slot, *, now_s: float) -> Sighting:
    """Note what a Lease is now: only a change makes it young."""
    return before if before.slot == slot else Sighting(slot=slot, since_s=now_s)


def choose(seen: Sequence[Sighting], *, node: str, now_s: float) -> int | None:
    """Return which Lease to take: the node's own before one that is free or dead; None when all are held."""
    own = (at for at, each in enumerate(seen) if each.slot.holder == node)
    free = (at for at, each in enumerate(seen) if not each.slot.holder or now_s >= each.dies_s)
    return next(own, next(free, None))


def waiting_for(seen: Iterable[Sighting]) -> Waiting:
    """Name those who hold the Leases, and since when by their own clocks."""
    held = [each.slot for each in seen if each.slot.holder]
    names = sorted(f"{_shown(slot.holder)} (since {_shown(slot.acquired_at) or '?'})" for slot in held)
    return Waiting(reason=f"waiting for {', '.join(names)}" if names else "another node was faster")


def taken(lease: Mapping[str, Any], *, node: str, uid: str | None, ttl_s: int, now: datetime) -> dict[str, Any]:
    """Return the Lease as its holder writes it: acquired, or renewed when it is the node's own already.

    Its owner is the Node, so that it is collected with it.
    """
    spec = _map(lease, "spec")
    count = spec.get("leaseTransitions")
    transitions = count if isinstance(count, int) else -1
    is_own = spec.get("holderIdentity") == node
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    mine = {
        "holderIdentity": node,
        "leaseDurationSeconds": ttl_s,
        "acquireTime": (spec.get("acquireTime") if is_own else None) or _micro_time(now),
        "renewTime": _micro_time(now),
        "leaseTransitions": max(transitions if is_own else transitions + 1, 0),
    }
    metadata = {**_map(lease, "metadata"), "ownerReferences": [owner] if uid else []}
    return {**lease, "metadata": metadata, "spec": {**spec, **mine}}


def freed(lease: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """Return the Lease as its holder leaves it: nobody's, and nobody's to collect."""
    free = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(now)}
    metadata = {**_map(lease, "metadata"), "ownerReferences": []}
    return {**lease, "metadata": metadata, "spec": {**_map(lease, "spec"), **free}}


def request(annotations: Annotations) -> Changes:
    """Return what to change on the Node to be approved and to stay so; nothing when all is said.

    As long as the checksum is the NodeGroup's, the hook takes an approval back as soon as it has given
    it. So bashible removes it when it asks, and so does the agent: again each time that bashible's idle
    run, every minute, has written it.
    """
    asked: Changes = {} if annotations.keys() & {APPROVED, WAITING} else {WAITING: ""}
    if CHECKSUM in annotations:
        return {**asked, CHECKSUM: None, TAKEN: annotations[CHECKSUM]}
    return asked if TAKEN in annotations else {**asked, TAKEN: ""}


def is_worth_asking(annotations: Annotations) -> bool:
    """Whether the answer is there, or the question is not."""
    return APPROVED in annotations or bool(request(annotations))


def stay(annotations: Annotations) -> Changes:
    """Return what to change so that an approval is not taken back; nothing when there is none."""
    return request(annotations) if APPROVED in annotations else {}


def settle(annotations: Annotations) -> Changes:
    """Return what to change when the agent's part has ended: the checksum is put back, unless it is there.

    That is how bashible says that it is ready, and what makes the hook clear `approved`. Neither that
    nor the request is the agent's to remove: bashible may have joined it, and would wait for ever.
    """
    if TAKEN not in annotations:
        return {}
    is_missing = CHECKSUM not in annotations and annotations[TAKEN]
    return {TAKEN: None, **({CHECKSUM: annotations[TAKEN]} if is_missing else {})}


def waiting_for_deckhouse(node: str) -> Waiting:
    """Say who decides, and how a person can."""
    return Waiting(
        reason="waiting for Deckhouse, which approves the nodes of a group in turn; "
        f"to be next: kubectl annotate node {node} {APPROVED}="
    )


def _map(found: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    value = (found or {}).get(key)
    return value if isinstance(value, dict) else {}


def _shown(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:MAX_SHOWN]).strip()


def _micro_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
