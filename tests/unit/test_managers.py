"""How long somebody else counts as managing the node."""

from agent.managers import GONE_SETTLE_S, Manager, Presence

BASHIBLE = (Manager(reason="BashibleActive", message=""),)


def test_somebody_counts_at_once_and_is_gone_only_after_two_readings() -> None:
    presence = Presence()
    assert presence.settle((), now_s=0) == ()
    assert presence.settle(BASHIBLE, now_s=1) == BASHIBLE
    assert presence.look_in_s is None
    assert presence.settle((), now_s=2) == BASHIBLE
    assert presence.look_in_s == GONE_SETTLE_S
    assert presence.settle((), now_s=3) == BASHIBLE
    assert presence.settle((), now_s=2 + GONE_SETTLE_S) == ()
    assert presence.look_in_s is None


def test_somebody_who_comes_back_was_never_gone() -> None:
    presence = Presence()
    for now_s in (0.0, 4.0, 8.0):
        assert presence.settle(BASHIBLE, now_s=now_s) == BASHIBLE
        assert presence.settle((), now_s=now_s + 1.9) == BASHIBLE
