"""What the agent has to see on a node of Deckhouse is mounted by Deckhouse's overlay."""

from pathlib import PurePosixPath

from agent.disk import facts, managers
from agent.disk.legacy import LABEL_DIRECTORY
from tests.packaging.manifests import overlay, pod


def test_the_marks_of_deckhouse_are_below_a_mount() -> None:
    """Its build of containerd, bashible with its timer and steps, and its labels; /usr/lib is /lib there."""
    mounted = {PurePosixPath(volume["hostPath"]["path"]) for volume in pod(overlay("deckhouse"))["volumes"]}
    places = {
        *(mark for mark in facts.DECKHOUSE_MARKS if not mark.is_relative_to("/usr")),
        PurePosixPath(managers.BASHIBLE_STEPS),
        PurePosixPath(managers.BASHIBLE_TIMER),
        LABEL_DIRECTORY,
    }
    for place in places:
        assert mounted & {place, *place.parents}, place
