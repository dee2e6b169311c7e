"""The plan on a model of the disk: convergence, crash safety, and hands off what is not ours."""

from hypothesis import assume, given, settings

from agent.errors import Obstructed
from agent.plan import Plan
from agent.tree import HOSTS_TOML, Tree, is_our_file
from tests.support import disk_model
from tests.support.disk_model import TEMPORARY, Disk
from tests.support.disk_strategies import disks, foreign_folders, trees
from tests.support.folders import Folder

MANY = settings(max_examples=60)  # fourteen tests look at the same kind of examples: 840 in each run


def planned(disk: Disk, tree: Tree) -> Plan:
    """Return the plan; a disk on which a foreign thing is in the way is no example."""
    try:
        return disk_model.make_plan(disk, tree)
    except Obstructed:
        assume(condition=False)
        raise


@MANY
@given(tree=trees())
def test_a_tree_that_is_in_place_needs_nothing(tree: Tree) -> None:
    """diff(t, t) is empty: a plan from an empty disk leaves nothing for the next one."""
    disk = disk_model.settle(Disk(), tree)
    assert disk_model.make_plan(disk, tree) == Plan()


@MANY
@given(disk=disks(), tree=trees())
def test_applying_a_plan_and_planning_again_is_empty(disk: Disk, tree: Tree) -> None:
    """One plan is enough, whatever the disk looked like before."""
    after = disk_model.apply(disk, planned(disk, tree))
    assert disk_model.make_plan(after, tree) == Plan()


@MANY
@given(disk=disks(), tree=trees())
def test_a_plan_puts_exactly_the_tree_in_place(disk: Disk, tree: Tree) -> None:
    """Every wanted file has its bytes and mode; no other file with one of our names is left."""
    after = disk_model.apply(disk, planned(disk, tree))
    found = {
        host.name: {name: entry for name, entry in after.folder(host.name).entries.items() if is_our_file(name)}
        for host in tree.hosts
    }
    stale_folders = {  # a directory under one of our names that nobody wants is nobody's business
        (host.name, name)
        for host in tree.hosts
        for name, entry in found[host.name].items()
        if isinstance(entry, Folder) and name not in {file.name for file in host.files}
    }
    fresh = disk_model.settle(Disk(), tree)
    assert {host.name: fresh.folder(host.name).entries for host in tree.hosts} == {
        host: {name: entry for name, entry in entries.items() if (host, name) not in stale_folders}
        for host, entries in found.items()
    }


@MANY
@given(disk=disks(), tree=trees())
def test_no_crash_leaves_a_hosts_toml_that_names_a_missing_file(disk: Disk, tree: Tree) -> None:
    """At each prefix a hosts.toml is either untouched and no worse than before, or complete."""
    plan = planned(disk, tree)
    for found in disk_model.prefixes(disk, plan):
        for host in found.registry:
            toml = disk_model.hosts_toml(found, host)
            saved = disk.backups.get(host)
            if isinstance(saved, Folder) and saved.entries.get(HOSTS_TOML) == _entry(found, host):
                continue  # given back as it was: what it names is its author's business
            was_so = toml == disk_model.hosts_toml(disk, host)
            assert disk_model.missing(found, host) <= (disk_model.missing(disk, host) if was_so else set())


@MANY
@given(disk=disks(), tree=trees())
def test_planning_again_from_any_crash_leads_to_the_same_disk(disk: Disk, tree: Tree) -> None:
    """A crash costs time, never a different result: files, records and backups are the same."""
    plan = planned(disk, tree)
    final = disk_model.apply(disk, plan)
    resumed = [disk_model.settle(found, tree) for found in disk_model.prefixes(disk, plan)]
    assert resumed == [final] * len(resumed)


@MANY
@given(disk=disks(), tree=trees())
def test_what_is_not_managed_is_never_changed(disk: Disk, tree: Tree) -> None:
    """A directory that is neither wanted nor ours is the same at each prefix, whoever's it is."""
    touched = disk.ours | {host.name for host in tree.hosts}
    plan = planned(disk, tree)
    for found in disk_model.prefixes(disk, plan):
        assert _others(found, touched) == _others(disk, touched)


@MANY
@given(disk=disks(), tree=trees())
def test_files_with_foreign_names_survive_in_managed_directories(disk: Disk, tree: Tree) -> None:
    """In a directory of ours, only names that the agent writes are ever written or removed."""
    plan = planned(disk, tree)
    for found in disk_model.prefixes(disk, plan):
        for host, entry in disk.registry.items():
            if isinstance(entry, Folder) and not host.startswith(TEMPORARY):
                foreign = {name: inner for name, inner in entry.entries.items() if _is_foreign(name)}
                now = found.folder(host).entries if foreign else {}
                assert foreign == {name: inner for name, inner in now.items() if _is_foreign(name)}


@MANY
@given(disk=disks(), tree=trees())
def test_a_foreign_directory_is_saved_before_anything_in_it_changes(disk: Disk, tree: Tree) -> None:
    """Takeover means backup first: from the first change on, the backup holds all that was there."""
    plan = planned(disk, tree)
    foreign = {host.name for host in tree.hosts} - disk.ours - disk.state
    for found in disk_model.prefixes(disk, plan):
        for host in foreign & disk.registry.keys():
            if _without_leftovers(found, host) != _without_leftovers(disk, host):
                assert _entries(found.backups[host]) == _without_leftovers(disk, host)


@MANY
@given(disk=disks(), tree=trees())
def test_state_entries_of_others_stay(disk: Disk, tree: Tree) -> None:
    """Names in the shared state that are neither wanted nor ours (ModuleSource hosts) are kept."""
    others = disk.state - disk.ours - {host.name for host in tree.hosts}
    plan = planned(disk, tree)
    for found in disk_model.prefixes(disk, plan):
        assert others <= found.state


@MANY
@given(disk=disks(), tree=trees())
def test_state_and_record_say_what_is_managed(disk: Disk, tree: Tree) -> None:
    """After a plan the record is the tree's hosts and the state is those and the others'."""
    after = disk_model.apply(disk, planned(disk, tree))
    wanted = frozenset(host.name for host in tree.hosts)
    others = disk.state - disk.ours - wanted
    assert (wanted, wanted | others) == (after.ours, after.state)


@MANY
@given(disk=disks(), tree=trees())
def test_a_managed_host_is_recorded_before_it_appears(disk: Disk, tree: Tree) -> None:
    """Intent first: at no prefix does a directory of ours stand that the record does not know."""
    plan = planned(disk, tree)
    for found in disk_model.prefixes(disk, plan):
        for host in tree.hosts:
            if _without_leftovers(found, host.name) != _without_leftovers(disk, host.name):
                assert host.name in found.ours & found.state


@MANY
@given(before=foreign_folders(), first=trees(), second=trees())
def test_takeover_and_release_give_the_original_back(before: Folder, first: Tree, second: Tree) -> None:
    """Bytes, modes and symlinks of a foreign directory are back after any two configs and a release."""
    disk = Disk(registry={"a.test": before, "c.test": before})
    for tree in (first, second, Tree()):
        disk = disk_model.apply(disk, planned(disk, tree))
    assert {"a.test", "c.test"} == set(disk.registry)
    for host in ("a.test", "c.test"):
        is_taken = any(found.name == host for tree in (first, second) for found in tree.hosts)
        kept = {name: entry for name, entry in before.entries.items() if not name.startswith(TEMPORARY)}
        assert Folder(mode=before.mode, entries=kept if is_taken else before.entries) == disk.registry[host]


@MANY
@given(tree=trees())
def test_a_release_leaves_nothing_of_ours(tree: Tree) -> None:
    """On a node where nobody else wrote anything, a release leaves an empty registry.d."""
    disk = disk_model.settle(disk_model.settle(Disk(), tree), Tree())
    assert Disk() == disk


@MANY
@given(disk=disks())
def test_with_nothing_wanted_and_nothing_ours_only_leftovers_go(disk: Disk) -> None:
    """A node that was never configured keeps every file and every record."""
    disk = Disk(registry=disk.registry, state=disk.state, is_canonical=disk.is_canonical)
    after = disk_model.settle(disk, Tree())
    kept = {name: entry for name, entry in disk.registry.items() if not name.startswith(TEMPORARY)}
    assert Disk(registry=kept, state=disk.state, is_canonical=disk.is_canonical) == after


def _others(disk: Disk, touched: frozenset[str] | set[str]) -> dict[str, object]:
    return {
        name: entry for name, entry in disk.registry.items() if name not in touched and not name.startswith(TEMPORARY)
    }


def _is_foreign(name: str) -> bool:
    return not is_our_file(name) and not name.startswith(TEMPORARY)


def _entries(entry: object) -> object:
    return entry.entries if isinstance(entry, Folder) else entry


def _entry(disk: Disk, host: str) -> object:
    found = disk.registry[host]
    return found.entries.get(HOSTS_TOML) if isinstance(found, Folder) else None


def _without_leftovers(disk: Disk, host: str) -> object:
    entries = _entries(disk.registry.get(host))
    if not isinstance(entries, dict):
        return entries
    return {name: entry for name, entry in entries.items() if not name.startswith(TEMPORARY)}
