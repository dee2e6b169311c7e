"""Whether the agent may write beside somebody else."""

from __future__ import annotations

import pytest

from agent.managers import Manager, is_ours_to_manage

BASHIBLE = Manager(reason="BashibleActive", message="")
AGENT = Manager(reason="OtherAgent", message="", is_final=True)


@pytest.mark.parametrize(
    ("found", "alone", "beside"),
    [
        ((), True, True),
        ((BASHIBLE,), False, True),
        ((AGENT,), False, False),
        ((BASHIBLE, AGENT), False, False),
    ],
)
def test_an_operator_may_overrule_some_managers(found: tuple[Manager, ...], *, alone: bool, beside: bool) -> None:
    """Another agent says itself that registry.d is its own."""
    assert alone is is_ours_to_manage(found, beside_others=False)
    assert beside is is_ours_to_manage(found, beside_others=True)
