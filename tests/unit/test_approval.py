"""Who may restart containerd: what follows from Leases and annotations, without any API."""

import asyncio
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import approval
from agent.approval import APPROVED, CHECKSUM, HOLD, TAKEN, WAITING, Granted, NoApproval, Sighting, Slot, Waiting

NOW = datetime(2026, 11, 23, 17, 0, 0, 5, tzinfo=UTC)
NOW_TEXT = "2026-11-23T17:00:00.000005Z"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
#: Every combination that can stand on a Node.
ALL = [
    {key: value for key, value in zip((APPROVED, WAITING, CHECKSUM, TAKEN), values, strict=True) if value is not None}
    for values in itertools.product((None, ""), (None, ""), (None, "a", "b"), (None, "", "a"))
]


def _lease(spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Lease",
        "metadata": {"name": "l", **metadata},
        **({"spec": dict(spec)} if spec is not None else {}),
    }


def _seen(holder: str, *, since_s: float = 0, ttl_s: int = 120) -> Sighting:
    return Sighting(slot=Slot(holder=holder, ttl_s=ttl_s, version="1"), since_s=since_s)


def _after(annotations: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**annotations, **changes}
    return {key: value for key, value in merged.items() if value is not None}


# The hold.


@pytest.mark.parametrize(
    ("annotations", "shown"),
    [
        ({}, None),
        ({HOLD: "false"}, None),
        ({HOLD: ""}, "set"),
        ({HOLD: "true"}, "true"),
        ({HOLD: "False"}, "False"),
        ({HOLD: "kernel update\nuntil 5"}, "kernel update until 5"),
        ({HOLD: "x" * 200}, "x" * 100),
    ],
)
def test_a_hold_is_any_value_but_false(annotations: dict[str, str], shown: str | None) -> None:
    """The value is the reason; what a person forgot to write holds as well."""
    expected = Waiting(reason=f"annotation {HOLD} on the Node: {shown}") if shown else None
    assert expected == approval.hold(annotations)


def test_no_approval_grants_and_has_nothing_to_follow() -> None:
    """The null object: every verb ends at once."""

    async def use() -> Granted:
        none = NoApproval()
        await none.run()
        granted = await none.ask()
        await none.keep()
        await none.release()
        await none.release()
        return granted

    assert Granted() == asyncio.run(use())


# Leases.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50, 5000])
def test_a_node_uses_few_leases_and_always_the_same(count: int) -> None:
    """Each is a request to ask and a connection to wait."""
    for node in ("w0", "w1", "a.b.c", ""):
        found = approval.slots(node, count=count)
        assert min(count, 3) == len(found) == len(set(found))
        assert all(0 <= slot < count for slot in found)
        assert found == approval.slots(node, count=count)


def test_all_nodes_together_use_all_leases_alike() -> None:
    """1,000 nodes, 10 Leases: each is the first choice of about 100."""
    firsts = [approval.slots(f"worker-{number}", count=10)[0] for number in range(1000)]
    assert all(70 <= firsts.count(slot) <= 130 for slot in range(10))


def test_a_lease_is_read() -> None:
    """What counts of it."""
    lease = _lease({"holderIdentity": "w0", "acquireTime": NOW_TEXT, "leaseDurationSeconds": 7}, resourceVersion="9")
    assert Slot(holder="w0", acquired_at=NOW_TEXT, ttl_s=7, version="9") == approval.read_slot(lease)


@pytest.mark.parametrize("lease", [None, {}, _lease(), _lease({}), {"spec": [], "metadata": None}])
def test_an_empty_lease_is_free(lease: dict[str, Any] | None) -> None:
    """So is one that is not there, or that is no Lease."""
    assert Slot() == approval.read_slot(lease)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["holderIdentity", "acquireTime", "leaseDurationSeconds"]), JSON), JSON)
def test_whatever_a_lease_holds_it_can_be_read_and_taken(spec: dict[str, Any], version: Any) -> None:
    """Anybody may write Leases."""
    slot = approval.read_slot(_lease(spec, resourceVersion=version))
    assert slot.ttl_s > 0
    again = approval.taken(_lease(spec), node="w0", uid="u", ttl_s=60, now=NOW)
    assert ("w0", 60) == (approval.read_slot(again).holder, approval.read_slot(again).ttl_s)


def test_only_a_change_makes_a_lease_young() -> None:
    """However often it is looked at; versions are compared for nothing but being the same."""
    seen = Sighting(slot=Slot(), since_s=0)
    since = []
    for version, now_s in (("", 5), ("9", 10), ("9", 20), ("8", 30), ("8", 40), ("", 50)):
        seen = approval.sight(seen, Slot(version=version), now_s=now_s)
        since.append(seen.since_s)
    assert [0, 10, 10, 30, 30, 50] == since


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([_seen("")], 0),
        ([_seen("w0")], 0),
        ([_seen("w1", since_s=881)], None),
        ([_seen("w1", since_s=880)], 0),
        ([_seen("w1", since_s=999, ttl_s=1)], 0),
        ([_seen("w1", since_s=990), _seen("w2", since_s=990)], None),
        ([_seen("w1", since_s=990), _seen("")], 1),
        ([_seen(""), _seen("w0", since_s=990)], 1),
        ([_seen(""), _seen("w0", since_s=0)], 1),
    ],
)
def test_a_lease_is_chosen(seen: list[Sighting], expected: int | None) -> None:
    """At second 1000: the own one before a free or dead one, so that nobody holds two."""
    assert expected == approval.choose(seen, node="w0", now_s=1000)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=1), st.integers(1, 100))
def test_a_living_holder_is_never_replaced(looks: list[tuple[float, bool]], ttl_s: int) -> None:
    """Looks at a Lease, at any times, with or without a renewal between them: dead is what kept still for its TTL."""
    seen, now_s, version, changed_s = Sighting(slot=Slot(), since_s=0), 0.0, 0, 0.0
    for pause_s, is_renewed in looks:
        now_s += pause_s
        if is_renewed or version == 0:
            version, changed_s = version + 1, now_s
        seen = approval.sight(seen, Slot(holder="w1", ttl_s=ttl_s, version=str(version)), now_s=now_s)
        chosen = approval.choose([seen], node="w0", now_s=now_s)
        assert (now_s >= changed_s + ttl_s) == (chosen == 0)


def test_who_waits_says_for_whom() -> None:
    """By name and since when, as the holder's clock has it."""
    held = Slot(holder="w1", acquired_at=NOW_TEXT)
    odd = Slot(holder="w\n0" + "x" * 200)
    seen = [Sighting(slot=slot, since_s=0) for slot in (held, odd, Slot())]
    expected = f"waiting for w 0{'x' * 97} (since ?), w1 (since {NOW_TEXT})"
    assert Waiting(reason=expected) == approval.waiting_for(seen)
    assert Waiting(reason="another node was faster") == approval.waiting_for(seen[2:])


def test_a_new_lease_is_taken() -> None:
    """With the Node as its owner, and times as Go reads them."""
    found = approval.taken(_lease(), node="w0", uid="u0", ttl_s=120, now=NOW.astimezone(timezone(timedelta(hours=5))))
    assert {
        "kind": "Lease",
        "metadata": {
            "name": "l",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "w0", "uid": "u0"}],
        },
        "spec": {
            "holderIdentity": "w0",
            "leaseDurationSeconds": 120,
            "acquireTime": NOW_TEXT,
            "renewTime": NOW_TEXT,
            "leaseTransitions": 0,
        },
    } == found


def test_a_lease_is_taken_over_renewed_and_freed() -> None:
    """Transitions count holders; what others have written stays; nobody owns what is free."""
    before = _lease(
        {"holderIdentity": "w1", "acquireTime": "then", "leaseTransitions": 4, "strategy": "s"},
        resourceVersion="9",
        labels={"a": "b"},
        ownerReferences=[{"name": "w1"}],
    )
    over = approval.taken(before, node="w0", uid="u0", ttl_s=120, now=NOW)
    assert (5, NOW_TEXT, "s") == tuple(over["spec"][key] for key in ("leaseTransitions", "acquireTime", "strategy"))
    assert ("9", {"a": "b"}) == (over["metadata"]["resourceVersion"], over["metadata"]["labels"])
    assert ["w0"] == [owner["name"] for owner in over["metadata"]["ownerReferences"]]

    renewed = approval.taken(over, node="w0", uid="u0", ttl_s=120, now=NOW + timedelta(seconds=40))
    assert (5, NOW_TEXT) == (renewed["spec"]["leaseTransitions"], renewed["spec"]["acquireTime"])
    assert "2026-11-23T17:00:40.000005Z" == renewed["spec"]["renewTime"]

    free = approval.freed(renewed, now=NOW)
    assert ("", 1, 5) == tuple(free["spec"][k] for k in ("holderIdentity", "leaseDurationSeconds", "leaseTransitions"))
    assert ([], {"a": "b"}) == (free["metadata"]["ownerReferences"], free["metadata"]["labels"])
    assert {"name": "w1"} == before["metadata"]["ownerReferences"][0]


def test_a_lease_of_a_node_that_is_not_known_has_no_owner() -> None:
    """Its TTL has to do."""
    assert [] == approval.taken(_lease(), node="w0", uid=None, ttl_s=120, now=NOW)["metadata"]["ownerReferences"]


# Deckhouse's annotations.


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({CHECKSUM: "c"}, {WAITING: "", CHECKSUM: None, TAKEN: "c"}),
        ({}, {WAITING: "", TAKEN: ""}),
        ({WAITING: ""}, {TAKEN: ""}),
        ({WAITING: "", TAKEN: "c"}, {}),
        ({WAITING: "", TAKEN: "c", CHECKSUM: "d"}, {CHECKSUM: None, TAKEN: "d"}),
        ({APPROVED: "", TAKEN: "c"}, {}),
        ({APPROVED: "", CHECKSUM: "c"}, {CHECKSUM: None, TAKEN: "c"}),
        ({TAKEN: "c"}, {WAITING: ""}),
    ],
)
def test_a_request_says_what_is_not_said_yet(annotations: dict[str, str], expected: dict[str, str | None]) -> None:
    """The checksum goes away and is kept; nobody asks who has the answer."""
    assert expected == approval.request(annotations)


@pytest.mark.parametrize("annotations", ALL, ids=str)
def test_a_request_is_made_once_and_keeps_its_hands_off_answers(annotations: dict[str, str]) -> None:
    """After it the hook can approve, and cannot take the approval back."""
    changes = approval.request(annotations)
    after = _after(annotations, changes)
    assert {} == approval.request(after) == approval.stay(after)
    assert APPROVED not in changes
    assert CHECKSUM not in after
    assert after.keys() & {APPROVED, WAITING}
    assert approval.is_worth_asking(annotations) == (APPROVED in annotations or bool(changes))


@pytest.mark.parametrize("annotations", ALL, ids=str)
def test_an_approval_is_held_without_asking_anew(annotations: dict[str, str]) -> None:
    """When it was taken back, that is for `keep` to say."""
    changes = approval.stay(annotations)
    assert not changes.keys() & {APPROVED, WAITING}
    assert not changes or APPROVED in annotations


@pytest.mark.parametrize("annotations", ALL, ids=str)
def test_what_was_removed_is_put_back(annotations: dict[str, str]) -> None:
    """Approval and request are the hook's to clear; a checksum that bashible has written counts more than ours."""
    after = _after(annotations, approval.request(annotations))
    changes = approval.settle(after)
    assert changes.keys() <= {TAKEN, CHECKSUM}
    settled = _after(after, changes)
    assert {} == approval.settle(settled)
    expected = annotations.get(CHECKSUM, annotations.get(TAKEN)) or None
    assert expected == settled.get(CHECKSUM)
    assert {TAKEN: None} == approval.settle({TAKEN: "old", CHECKSUM: "new"})


def test_who_waits_for_deckhouse_says_how_to_be_next() -> None:
    """The command that bashible shows as well."""
    assert "kubectl annotate node w0 update.node.deckhouse.io/approved=" in approval.waiting_for_deckhouse("w0").reason
