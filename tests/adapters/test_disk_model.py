"""The real executor does to a real folder what the model says a plan means."""

import itertools
import shutil
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings

from agent.errors import Obstructed
from agent.plan import Plan
from agent.tree import Tree
from tests.support import disk_model
from tests.support.disk_model import Disk
from tests.support.disk_strategies import disks, trees
from tests.support.nodes import Node

_numbers = itertools.count()
ON_DISK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def fresh(fast_dir: Path) -> Node:
    """Return a new empty node."""
    root = fast_dir / str(next(_numbers))
    root.mkdir()
    return Node(root)


@ON_DISK
@given(disk=disks(), tree=trees())
def test_the_executor_does_what_the_plan_means(fast_dir: Path, disk: Disk, tree: Tree) -> None:
    """From any disk, the real one ends as the model does, and there is nothing left to do."""
    try:
        expected = disk_model.settle(disk, tree)
    except Obstructed:
        assume(condition=False)
        return
    node = fresh(fast_dir)
    node.write(disk)
    node.settle(tree)
    found = node.read()
    left = node.plan(tree)
    shutil.rmtree(node.root)
    assert (expected, Plan()) == (_comparable(found, expected), left)


@ON_DISK
@given(disk=disks(), tree=trees())
def test_the_observation_is_what_the_model_sees(fast_dir: Path, disk: Disk, tree: Tree) -> None:
    """Observing a real folder and observing its model are equal, key by key."""
    names = frozenset(host.name for host in tree.hosts)
    node = fresh(fast_dir)
    node.write(disk)
    observed = node.disk().observe(names).observed
    shutil.rmtree(node.root)
    expected = disk_model.observe(disk, names)
    assert (expected.hosts, expected.owned, expected.backups) == (observed.hosts, observed.owned, observed.backups)
    assert (set(expected.leftovers), expected.is_state_canonical) == (
        set(observed.leftovers),
        observed.is_state_canonical,
    )


def _comparable(found: Disk, expected: Disk) -> Disk:
    """Reading back cannot tell how the state file was written; the empty plan has told that."""
    return Disk(
        registry=found.registry,
        state=found.state,
        is_canonical=expected.is_canonical,
        ours=found.ours,
        backups=found.backups,
    )
