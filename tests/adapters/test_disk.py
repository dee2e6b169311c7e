"""The executor on a real folder: takeover, release, drift, and what it leaves alone."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.disk.directory import owner_of
from agent.errors import DiskFailed, Obstructed
from agent.plan import Plan
from agent.tree import Tree
from tests.support import folders, reader
from tests.support.faults import Calls
from tests.support.folders import Folder, Link, Plain, Special
from tests.support.nodes import Node
from tests.support.trees import ca_name, directory, tree

TREE = tree({"a.test": {"m1.test": "PEM 1"}, "b.test:5000": {"m2.test": None}})
OTHER = tree({"a.test": {"m3.test": "PEM 3"}, "b.test:5000": {"m2.test": None}})
FOREIGN = Folder(
    mode=0o750,
    entries={
        "hosts.toml": Plain(content=b"# mine\r\n", mode=0o640),
        "ca.crt": Plain(content=b"\xff\xfe no text", mode=0o444),
        ca_name("m1.test"): Link("ca.crt"),
        "deep": Folder(mode=0o711, entries={"link": Link("/etc/passwd"), "file": Plain(content=b"", mode=0o4755)}),
    },
)


def host_folder(tree: Tree, name: str) -> Folder:
    """Return the directory that a host of the tree must have."""
    files = next(host.files for host in tree.hosts if host.name == name)
    return Folder(mode=0o700, entries={file.name: Plain(content=file.content, mode=file.mode) for file in files})


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_a_first_apply_makes_the_whole_tree(node: Node) -> None:
    """On a bare node all directories are made, with the modes of the contract."""
    node.settle(TREE)
    found = {"a.test": node.host("a.test"), "b.test:5000": node.host("b.test:5000")}
    assert {name: host_folder(TREE, name) for name in found} == found
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (node.registry, node.state_dir, node.backup)}
    assert {node.registry: 0o755, node.state_dir: 0o700, node.backup: 0o700} == modes


def test_the_state_file_is_what_bashible_reads(node: Node) -> None:
    """Sorted, compact, newline at the end, 0644; the agent's own record is 0600."""
    node.settle(TREE)
    assert folders.read(node.state_file) == Plain(content=b'["a.test","b.test:5000"]\n', mode=0o644)
    assert folders.read(node.record) == Plain(content=b'["a.test","b.test:5000"]\n', mode=0o600)


#: Without root, even the owner cannot enter the parents that this test makes under umask 0777.
_NARROW = 0o777 if os.geteuid() == 0 else 0o077


@pytest.mark.parametrize("umask", [0o000, _NARROW], indirect=True)
@pytest.mark.usefixtures("umask")
def test_the_umask_does_not_matter(node: Node) -> None:
    """Modes are final whatever umask the service manager has set."""
    node.settle(TREE)
    assert host_folder(TREE, "a.test") == node.host("a.test")
    assert stat.S_IMODE(node.registry.stat().st_mode) == 0o755
    assert stat.S_IMODE(node.state_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("umask", [0o000], indirect=True)
@pytest.mark.usefixtures("umask")
def test_hosts_toml_is_never_readable_by_others(node: Node) -> None:
    """The file is created with its final mode: with umask 0 no call ever gives it a wider one."""
    calls = Calls()
    node.settle(TREE, calls)
    node.settle(OTHER, calls)
    secret_modes = {0o600, 0o700}
    created = [made for made in calls.made if made.mode is not None and made.path.startswith(".registry-agent-")]
    tomls = [made for made in calls.made if made.mode is not None and made.path == "hosts.toml"]
    assert {made.mode for made in tomls} == {0o600}
    assert {made.mode for made in created} <= {*secret_modes, 0o644}  # 0644 are CA files and the state
    for made in calls.made:
        if made.name == "rename" and made.path == "hosts.toml":
            before = calls.made[: calls.made.index(made)]
            assert [call.mode for call in before if call.mode is not None][-1] == 0o600


def test_files_that_are_right_are_not_rewritten(node: Node) -> None:
    """Inode, content time and status time of an unchanged host stay when another host changes."""
    node.settle(TREE)
    before = folders.identities(node.registry / "b.test:5000")
    node.settle(OTHER)
    assert before == folders.identities(node.registry / "b.test:5000")


def test_a_second_apply_touches_nothing(node: Node) -> None:
    """An empty plan leaves every inode and every time on the node as it was."""
    node.settle(TREE)
    before = folders.identities(node.root)
    assert node.settle(TREE) == Plan()
    assert before == folders.identities(node.root)


def test_an_update_leaves_the_unchanged_ca_alone(node: Node) -> None:
    """Only the files that differ are replaced, also inside one directory."""
    node.settle(TREE)
    before = folders.identities(node.registry / "a.test" / ca_name("m1.test"))
    node.settle(tree({"a.test": {"m1.test": "PEM 1"}, "b.test:5000": {"m2.test": None}}, note="new"))
    assert before == folders.identities(node.registry / "a.test" / ca_name("m1.test"))


def test_stale_ca_files_are_removed(node: Node) -> None:
    """A CA that no mirror names any more goes; Deckhouse would keep it for ever."""
    node.settle(TREE)
    node.settle(OTHER)
    assert host_folder(OTHER, "a.test") == node.host("a.test")


def test_a_host_that_is_no_longer_wanted_goes(node: Node) -> None:
    """Its directory and its entries in both records disappear."""
    node.settle(TREE)
    node.settle(tree({"a.test": {"m1.test": "PEM 1"}}))
    assert sorted(path.name for path in node.registry.iterdir()) == ["a.test", reader.STATE_FILE]
    assert (["a.test"], {"a.test"}) == (reader.state(node.root), reader.managed(node.root))


def test_takeover_saves_the_foreign_directory(node: Node) -> None:
    """Bytes, modes, symlinks and folders of a foreign directory are in the backup."""
    node.make("a.test", FOREIGN)
    node.settle(TREE)
    assert folders.read(node.backup / "a.test") == FOREIGN
    assert stat.S_IMODE(node.backup.stat().st_mode) == 0o700


def test_takeover_keeps_files_with_foreign_names(node: Node) -> None:
    """What the agent does not write stays in the directory that it takes over."""
    node.make("a.test", FOREIGN)
    node.settle(TREE)
    expected = dict(host_folder(TREE, "a.test").entries)
    expected |= {name: FOREIGN.entries[name] for name in ("ca.crt", "deep")}
    assert Folder(mode=0o700, entries=dict(sorted(expected.items()))) == node.host("a.test")


def test_release_gives_the_foreign_directory_back(node: Node) -> None:
    """After takeover, an update and a release, the directory is byte for byte and mode for mode what it was."""
    node.make("a.test", FOREIGN)
    for wanted in (TREE, OTHER, Tree()):
        node.settle(wanted)
    assert node.host("a.test") == FOREIGN
    assert sorted(path.name for path in node.registry.iterdir()) == ["a.test", reader.STATE_FILE]
    assert ([], []) == (reader.state(node.root), sorted(node.backup.iterdir()))


def test_a_foreign_directory_under_a_name_that_is_wanted_later_is_not_lost(node: Node) -> None:
    """Taken over while nobody wanted its name: whether refused or cleared later, a release brings it back."""
    foreign = Folder(entries={ca_name("m9.test"): Folder(entries={"precious": Plain(content=b"x")})})
    node.make("a.test", foreign)
    node.settle(TREE)
    with contextlib.suppress(Obstructed):
        node.settle(tree({"a.test": {"m9.test": "PEM 9"}}))
    node.settle(Tree())
    assert node.host("a.test") == foreign


def test_release_gives_back_over_a_directory_that_took_the_place(node: Node) -> None:
    """Drift between takeover and release must not block the release for ever."""
    node.make("a.test", FOREIGN)
    node.settle(TREE)
    (node.registry / "a.test/hosts.toml").unlink()
    node.make("a.test/hosts.toml", Folder(entries={"x": Plain(content=b"")}))
    node.settle(Tree())
    assert node.host("a.test") == FOREIGN


def test_release_restores_a_directory_that_was_deleted_meanwhile(node: Node) -> None:
    """The backup alone is enough to give everything back."""
    node.make("a.test", FOREIGN)
    node.settle(TREE)
    for path in sorted((node.registry / "a.test").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (node.registry / "a.test").rmdir()
    node.settle(Tree())
    assert node.host("a.test") == FOREIGN


@pytest.mark.parametrize("is_deleted_meanwhile", [False, True])
def test_release_gives_back_owner_and_group(node: Node, *, is_deleted_meanwhile: bool) -> None:
    """Of directories and files; only root can give files away, so everybody else checks his own ids."""
    owner = (12345, 12345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    path = node.make("a.test", FOREIGN)
    for name in (".", "hosts.toml", "ca.crt", "deep", "deep/file"):
        os.chown(path / name, *owner)
    node.settle(TREE)
    assert (os.geteuid(), os.getegid()) == owner_of((path / "hosts.toml").lstat())
    if is_deleted_meanwhile:
        shutil.rmtree(path)
    node.settle(Tree())
    for name in (".", "hosts.toml", "ca.crt", "deep", "deep/file"):
        assert owner == owner_of((path / name).lstat()), name


def test_release_keeps_what_others_put_beside_our_files(node: Node) -> None:
    """A directory with somebody's files is not removed, only ours go."""
    node.settle(TREE)
    node.make("a.test/notes.txt", Plain(content=b"keep me"))
    node.settle(Tree())
    assert node.host("a.test") == Folder(mode=0o700, entries={"notes.txt": Plain(content=b"keep me")})


def test_hosts_of_others_stay_in_state_and_on_disk(node: Node) -> None:
    """A ModuleSource host that bashible manages is neither removed nor forgotten."""
    module_source = Folder(entries={"hosts.toml": Plain(content=b"[host]\n")})
    node.make("modules.test", module_source)
    node.state_file.write_text('["modules.test"]\n')
    for wanted in (TREE, OTHER, Tree()):
        node.settle(wanted)
        assert "modules.test" in reader.state(node.root)
        assert node.host("modules.test") == module_source


def test_a_directory_that_bashible_manages_is_adopted_without_backup(node: Node) -> None:
    """What the shared state lists is nobody's private work: it is replaced and nothing is saved."""
    node.make("a.test", Folder(entries={"hosts.toml": Plain(content=b"[host]\n", mode=0o644)}))
    node.state_file.write_text('["a.test"]\n')
    node.settle(TREE)
    assert host_folder(TREE, "a.test") == node.host("a.test")
    assert not list(node.backup.iterdir())


@pytest.mark.parametrize("name", ["hosts.toml", ca_name("m1.test")])
@pytest.mark.parametrize(
    "drift",
    [
        Plain(content=b"# edited", mode=0o600),
        Folder(entries={"x": Plain(content=b"")}),
        Link("/etc/hostname"),
        Link("."),
        Special(stat.S_IFIFO),
        Special(stat.S_IFSOCK),
    ],
    ids=["content", "directory", "symlink", "loop", "fifo", "socket"],
)
def test_drift_of_a_file_is_repaired(node: Node, name: str, drift: folders.Entry) -> None:
    """Whatever takes the place of a managed file, the file comes back and nothing else stays."""
    node.settle(TREE)
    (node.registry / "a.test" / name).unlink()
    node.make(f"a.test/{name}", drift)
    assert node.plan(TREE).changed_hosts == {"a.test"}
    node.settle(TREE)
    assert host_folder(TREE, "a.test") == node.host("a.test")


@pytest.mark.parametrize("drift", [Plain(content=b""), Link("b.test:5000"), Special(stat.S_IFIFO)])
def test_drift_of_a_directory_is_repaired(node: Node, drift: folders.Entry) -> None:
    """Whatever takes the place of a managed directory is cleared away; where a symlink points stays."""
    node.settle(TREE)
    (node.registry / "a.test").rename(node.root / "away")
    node.make("a.test", drift)
    node.settle(TREE)
    assert host_folder(TREE, "a.test") == node.host("a.test")
    assert host_folder(TREE, "b.test:5000") == node.host("b.test:5000")


def test_modes_and_owners_are_part_of_equality(node: Node) -> None:
    """A changed mode or owner of file and directory is drift and is repaired."""
    node.settle(TREE)
    path = node.registry / "a.test"
    path.chmod(0o755)
    (path / "hosts.toml").chmod(0o644)
    # Only root can give a file away; for others the owner stays as it is and the modes are the test.
    other = (1, 1) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(node.registry / "b.test:5000", *other)
    os.chown(node.registry / "b.test:5000" / "hosts.toml", *other)
    node.settle(TREE)
    assert host_folder(TREE, "a.test") == node.host("a.test")
    owners = [found.stat() for found in (node.registry / "b.test:5000").rglob("*")]
    owners.append((node.registry / "b.test:5000").stat())
    assert {(os.geteuid(), os.getegid())} == {(found.st_uid, found.st_gid) for found in owners}


def test_a_hard_link_keeps_the_old_bytes(node: Node, tmp_path: Path) -> None:
    """A file is replaced, never written in place: whoever holds the old inode reads the old bytes."""
    node.settle(TREE)
    os.link(node.registry / "a.test" / "hosts.toml", tmp_path / "other")
    with (node.registry / "a.test" / "hosts.toml").open("rb") as reading:
        node.settle(OTHER)
        old = host_folder(TREE, "a.test").entries["hosts.toml"]
        assert old == Plain(content=reading.read(), mode=0o600)
    assert folders.read(tmp_path / "other") == old


def test_what_an_interrupted_write_left_is_removed(node: Node) -> None:
    """Temporary names go from registry.d, host directories, the state directory and the backups."""
    node.settle(TREE)
    node.make(".registry-agent-0a", Folder(entries={"hosts.toml": Plain(content=b"half")}))
    node.make("a.test/.registry-agent-0b", Plain(content=b"half"))
    folders.write(node.state_dir / ".registry-agent-0c", Plain(content=b"half"))
    folders.write(node.backup / ".registry-agent-0d", Folder(entries={"x": Plain(content=b"half")}))
    node.settle(TREE)
    assert not list(node.root.rglob(".registry-agent-*"))
    assert node.plan(TREE) == Plan()


@pytest.mark.parametrize("gone", ["etc/containerd/registry.d", "etc/containerd", "etc", "var/lib/registry-agent"])
def test_missing_directories_are_made_again(node: Node, gone: str) -> None:
    """registry.d, its parents and even the state directory may vanish; the tree comes back."""
    node.settle(TREE)
    (node.root / gone).rename(node.root / "gone")
    node.settle(TREE)
    assert {name: host_folder(TREE, name) for name in ("a.test", "b.test:5000")} == {
        name: node.host(name) for name in ("a.test", "b.test:5000")
    }
    assert reader.managed(node.root) == {"a.test", "b.test:5000"}


@pytest.mark.parametrize("foreign", [Plain(content=b"mine"), Link("/etc"), Link("b.test:5000"), Special(stat.S_IFIFO)])
def test_a_foreign_thing_that_is_no_directory_is_refused(node: Node, foreign: folders.Entry) -> None:
    """What cannot be saved is not taken over: nothing is changed and the message names it."""
    node.make("a.test", foreign)
    with pytest.raises(Obstructed, match=r"a\.test.*not the agent's"):
        node.settle(TREE)
    assert Folder(entries={"a.test": foreign}) == folders.read(node.registry)


def test_a_foreign_fifo_inside_is_refused(node: Node) -> None:
    """A directory that cannot be saved whole is not taken over, and the reader does not hang on the FIFO."""
    foreign = Folder(entries={"pipe": Special(stat.S_IFIFO), "hosts.toml": Plain(content=b"[host]")})
    node.make("a.test", foreign)
    with pytest.raises(Obstructed, match="pipe is no plain file"):
        node.settle(TREE)
    assert node.host("a.test") == foreign


def test_a_directory_in_place_of_a_foreign_hosts_toml_is_refused(node: Node) -> None:
    """A foreign directory under one of our names is not cleared away."""
    foreign = Folder(entries={"hosts.toml": Folder(entries={"x": Plain(content=b"")})})
    node.make("a.test", foreign)
    with pytest.raises(Obstructed, match=r"a\.test/hosts\.toml"):
        node.settle(TREE)
    assert node.host("a.test") == foreign


@pytest.mark.parametrize(
    "link", ["etc", "etc/containerd", "etc/containerd/registry.d", "var", "var/lib/registry-agent"]
)
def test_a_symlink_on_the_way_is_not_followed(node: Node, tmp_path_factory: pytest.TempPathFactory, link: str) -> None:
    """Below --root no part of a path may be a symlink: the place it points to stays untouched."""
    outside = tmp_path_factory.mktemp("outside")
    folders.write(outside / "containerd", Folder(entries={"registry.d": Folder()}))
    before = folders.read(outside)
    path = node.root / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)
    with pytest.raises(Obstructed, match=f"{link}.*symlinks are not followed") as raised:
        node.settle(TREE)
    assert raised.value.remedy
    assert before == folders.read(outside)


def test_a_symlink_as_backup_directory_is_not_followed(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A foreign directory is never saved to where a planted symlink points."""
    outside = tmp_path_factory.mktemp("outside")
    node.make("a.test", FOREIGN)
    node.state_dir.mkdir(parents=True)
    node.backup.symlink_to(outside)
    with pytest.raises((Obstructed, DiskFailed)):
        node.settle(TREE)
    assert (FOREIGN, Folder(mode=0o700)) == (node.host("a.test"), folders.read(outside))


@pytest.mark.parametrize("name", [reader.STATE_FILE, "ownership.json"])
def test_a_symlink_as_state_file_is_not_followed(node: Node, tmp_path: Path, name: str) -> None:
    """Neither read through nor written through: the target keeps its bytes."""
    target = tmp_path / "target"
    target.write_text('["victim.test"]\n')
    node.settle(TREE)
    path = node.record if name == "ownership.json" else node.state_file
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(DiskFailed, match=name):
        node.settle(OTHER)
    assert target.read_text() == '["victim.test"]\n'


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("{", "is not a JSON array"),
        ("", "is not a JSON array"),
        ("null", "is not a JSON array"),
        ('{"a.test": 1}', "is not a JSON array"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "is not a JSON array"),
        ('["", "..", "a/b", ".", "/etc", 7, null, ["x"]]', "8 entries that are not host names"),
        ("[" * 100_000, "is not a JSON array"),
        ('["\\ud800"]', "1 entries that are not host names"),
    ],
)
def test_a_damaged_state_file_is_reported_and_not_followed(node: Node, text: str, notice: str) -> None:
    """Entries that are no plain names lead nowhere, the file is written anew, and a notice says so."""
    node.make("keep", Folder(entries={"x": Plain(content=b"")}))
    folders.write(node.registry.parent / "b", Plain(content=b"outside registry.d"))
    node.state_file.write_text(text)
    assert [notice in found.message for found in node.notices()] == [True]
    for wanted in (TREE, OTHER):
        node.settle(wanted)
        assert reader.state(node.root) == ["a.test", "b.test:5000"]
    node.settle(Tree())
    assert sorted(path.name for path in node.registry.iterdir()) == [reader.STATE_FILE, "keep"]
    assert (node.registry.parent / "b").read_bytes() == b"outside registry.d"


def test_good_entries_beside_bad_ones_are_kept(node: Node) -> None:
    """One bad entry does not cost the others theirs."""
    node.make(reader.STATE_FILE, Plain(content=b'["modules.test", "..", "a/b"]'))
    node.settle(TREE)
    assert reader.state(node.root) == ["a.test", "b.test:5000", "modules.test"]


@pytest.mark.parametrize("entry", ["", "..", ".", "a/b", "../b"])
def test_a_bad_entry_in_our_own_record_is_never_released(node: Node, entry: str) -> None:
    """A record that somebody has edited cannot make the agent remove what is outside registry.d."""
    folders.write(node.root / "etc", Folder(entries={"containerd": Folder(entries={"b": Folder()})}))
    node.settle(TREE)
    node.record.write_text(json.dumps([entry, "a.test", "b.test:5000"]))
    node.settle(Tree())
    assert [path.name for path in node.registry.iterdir()] == [reader.STATE_FILE]
    assert (node.registry.parent / "b").is_dir()


def test_a_state_file_that_is_too_large_is_reported(node: Node) -> None:
    """A file that is not read counts as empty, but not in silence."""
    node.make(reader.STATE_FILE, Plain(content=b"[" + b" " * 2 * 1024 * 1024 + b"]"))
    assert [found.code for found in node.notices()] == ["StateFileInvalid"]


def test_a_damaged_record_does_not_cost_the_saved_originals(node: Node) -> None:
    """With the agent's record unreadable, backups of foreign directories must survive to be given back."""
    node.make("a.test", FOREIGN)
    node.settle(TREE)
    node.record.write_text("garbage")
    node.settle(TREE)
    assert folders.read(node.backup / "a.test") == FOREIGN


def test_a_directory_in_place_of_the_state_file_is_named_and_leaks_nothing(node: Node) -> None:
    """An odd thing at the state file is a clear failure, and trying for ever does not use up descriptors."""
    node.settle(TREE)
    node.state_file.unlink()
    node.state_file.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DiskFailed, match=reader.STATE_FILE):
            node.settle(TREE)
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_foreign_file_name_that_is_no_text_is_no_trouble(node: Node) -> None:
    """Any bytes may be a file's name; ours are repaired around it and it stays."""
    node.settle(TREE)
    odd = os.fsencode(node.registry / "a.test") + b"/odd-\xff"
    with open(odd, "wb"):
        pass
    (node.registry / "a.test" / "hosts.toml").write_text("# drift")
    node.settle(TREE)
    assert b"odd-\xff" in os.listdir(os.fsencode(node.registry / "a.test"))


def test_no_descriptor_is_left_open(node: Node) -> None:
    """Observing, applying, failing and releasing close everything they open."""
    before = len(os.listdir("/proc/self/fd"))
    node.make("a.test", FOREIGN)
    for wanted in (TREE, OTHER, Tree()):
        node.settle(wanted)
    node.make("b.test:5000", Plain(content=b""))
    with pytest.raises(Obstructed):
        node.settle(TREE)
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_host_that_appears_between_plan_and_apply_is_not_overwritten(node: Node) -> None:
    """A directory that was not there when the plan was made stops the plan instead of being lost."""
    plan = node.plan(TREE)
    node.make("a.test", FOREIGN)
    with pytest.raises(DiskFailed, match=r"a\.test"):
        node.disk().apply(plan, should_stop=lambda: False)
    assert node.host("a.test") == FOREIGN


def test_a_plan_can_be_stopped_between_two_operations(tmp_path: Path) -> None:
    """`should_stop` ends the plan early and says so; what is there is whole, and the next plan finishes."""
    total = len(Node(tmp_path).plan(TREE).operations)
    for done in range(total):
        node = Node(tmp_path / str(done))
        node.root.mkdir()
        answers = [False] * done + [True]
        assert not node.disk().apply(node.plan(TREE), should_stop=lambda answers=answers: answers.pop(0))  # type: ignore[misc]
        assert reader.problems(node.root, reader.managed(node.root)) == []
        node.settle(TREE)
        assert host_folder(TREE, "a.test") == node.host("a.test")


def test_a_name_that_is_no_name_cannot_even_be_said() -> None:
    """The last door: a tree cannot hold a path."""
    for name in ("..", ".", "", "a/b", "a\0b"):
        with pytest.raises(ValueError, match="not a plain file name"):
            directory(name, {"m1.test": None})
