"""config.toml and what is kept about it, on a real file system."""

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from agent.disk.containerd import MAX_BACKUPS, MAX_BYTES, ContainerdFiles, config_path
from agent.disk.directory import Calls as OsCalls
from agent.errors import DiskFailed, Obstructed
from tests.support.faults import Calls, Crash, every_fault
from tests.support.nodes import STATE_DIR

OLD, NEW = b"version = 2\n# old\n", b"version = 2\n# " + b"new" * 100 + b"\n"


class Place:
    """The folders of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "etc/containerd/config.toml"
        self.folder = root / str(STATE_DIR).lstrip("/") / "containerd"

    def files(self, calls: OsCalls | None = None) -> ContainerdFiles:
        """Return the adapter under test."""
        return ContainerdFiles(self.root, STATE_DIR, calls=calls)

    def has(self, raw: bytes = OLD) -> "Place":
        """Put a config.toml there."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_bytes(raw)
        return self

    def left(self) -> list[str]:
        """Return what unfinished work has left behind."""
        return [str(path) for path in self.root.rglob(".registry-agent-*")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty node."""
    return Place(tmp_path)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_is_read_with_the_time_of_its_change(place: Place) -> None:
    """ctime: nobody can set it back."""
    place.has()
    os.utime(place.config, (1, 1))
    found = place.files().read()
    assert (OLD, place.config.stat().st_ctime_ns / 1e9) == (found.raw, found.changed_at)
    assert "old" not in repr(found)


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_missing_file_is_none(place: Place, *, has_folder: bool) -> None:
    """Reading makes nothing."""
    if has_folder:
        place.config.parent.mkdir(parents=True)
    found = place.files().read()
    assert (None, None) == (found.raw, found.changed_at)
    assert has_folder is place.config.parent.exists()
    assert not place.folder.exists()


def test_a_missing_file_is_made_and_removed(place: Place) -> None:
    """With its folder; removing what is not there is fine."""
    files = place.files()
    files.write(NEW)
    assert (NEW, 0o644) == (place.config.read_bytes(), _mode(place.config))
    for _ in range(2):
        files.write(None)
        assert not place.config.exists()
    assert place.left() == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666])
def test_mode_and_owner_are_kept(place: Place, mode: int) -> None:
    """Whatever the umask is; the owner can be another one for root only."""
    place.has().config.chmod(mode)
    owner = (1234, 4321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(place.config, *owner)
    umask = os.umask(0o077)
    try:
        place.files().write(NEW)
    finally:
        os.umask(umask)
    status = place.config.stat()
    assert (NEW, mode, owner) == (place.config.read_bytes(), _mode(place.config), (status.st_uid, status.st_gid))


def _symlink(path: Path) -> None:
    path.with_name("target").write_bytes(OLD)
    path.symlink_to("target")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_symlink, _dangling, Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_refused(place: Place, make: Callable[[Path], None]) -> None:
    """And said with its path; backing it up is refused as well."""
    place.config.parent.mkdir(parents=True)
    make(place.config)
    for read in (place.files().read, place.files().back_up):
        with pytest.raises(Obstructed, match=r"^/etc/containerd/config\.toml is no plain file"):
            read()
    assert not list(place.root.rglob("config.toml.*"))


def test_a_folder_that_is_a_symlink_is_refused(place: Place) -> None:
    """It may lead out of the node."""
    (place.root / "etc").mkdir()
    (place.root / "elsewhere").mkdir()
    place.config.parent.symlink_to(place.root / "elsewhere")
    with pytest.raises(Obstructed):
        place.files().write(NEW)
    assert not list((place.root / "elsewhere").iterdir())


def test_a_huge_file_is_refused(place: Place) -> None:
    """It is not a config.toml."""
    place.has(b"#" * (MAX_BYTES + 1))
    with pytest.raises(Obstructed, match="larger"):
        place.files().read()


def test_backups_are_numbered_and_few(place: Place) -> None:
    """The newest five, for the agent's eyes only, each with what was saved at that time."""
    files = place.files()
    for number in range(1, 9):
        place.has(b"# %d\n" % number).config.chmod(0o644)
        files.write_saved(b"s%d" % number)
        assert number == files.back_up()
    names = {path.name for path in place.folder.iterdir()}
    kept = range(9 - MAX_BACKUPS, 9)
    expected = {f"{name}.{number}" for name in ("config.toml", "saved-legacy.json") for number in kept}
    assert {*expected, "saved-legacy.json"} == names
    assert 5 == MAX_BACKUPS
    assert {0o600} == {_mode(path) for path in place.folder.iterdir()}
    assert 0o700 == _mode(place.folder) == _mode(place.folder.parent)
    files.roll_back(5)
    assert (b"# 5\n", b"s5") == (place.config.read_bytes(), files.read_saved())


def test_numbers_go_on_past_nine(place: Place) -> None:
    """They are numbers, not text."""
    numbers = []
    for number in range(12):
        place.has(b"# %d\n" % number)
        numbers.append(place.files().back_up())
    assert list(range(1, 13)) == numbers
    assert {f"config.toml.{number}" for number in range(8, 13)} == {path.name for path in place.folder.iterdir()}


def test_foreign_files_beside_the_backups_are_left_alone(place: Place) -> None:
    """Only what is a number is a backup."""
    place.has().files().back_up()
    for name in ("config.toml.bak", "config.toml.1x", "other.1"):
        (place.folder / name).write_bytes(b"mine")
    for _ in range(7):
        place.files().back_up()
    assert {"config.toml.bak", "config.toml.1x", "other.1"} <= {path.name for path in place.folder.iterdir()}


@pytest.mark.parametrize("config", [OLD, b"", None])
@pytest.mark.parametrize("saved", [b"saved", None])
def test_a_rollback_brings_everything_back(place: Place, config: bytes | None, saved: bytes | None) -> None:
    """Bytes, or that there was nothing; as often as it is asked for."""
    files = place.files()
    files.write(config)
    files.write_saved(saved)
    number = files.back_up()
    files.write(NEW)
    files.write_saved(b"newer")
    for _ in range(2):
        files.roll_back(number)
        assert (config, saved) == (files.read().raw, files.read_saved())


def test_the_record_is_secret_and_kept(place: Place) -> None:
    """None as long as there is none."""
    files = place.files()
    assert (None, None) == (files.read_record(), files.read_saved())
    assert not place.folder.exists()
    files.write_record(b"1")
    files.write_record(b"2")
    assert b"2" == place.files().read_record()
    assert 0o600 == _mode(place.folder / "record.json")


def test_a_candidate_is_lent_and_removed(place: Place) -> None:
    """Beside config.toml, where relative imports lead to the same; not a name that imports take in."""
    files = place.has().files()
    for _ in range(2):
        with files.candidate(NEW) as path:
            there = place.root / path.lstrip("/")
            assert (NEW, 0o600) == (there.read_bytes(), _mode(there))
            assert place.config.parent == there.parent
            assert not path.endswith(".toml")
    assert (OLD, []) == (place.config.read_bytes(), place.left())


def test_a_candidate_is_removed_after_an_error_and_replaces_what_a_crash_has_left(place: Place) -> None:
    """Nothing with credentials stays beside config.toml."""
    files = place.has().files()
    with pytest.raises(RuntimeError), files.candidate(NEW) as path:
        raise RuntimeError
    assert place.left() == []
    (place.root / path.lstrip("/")).write_bytes(b"of a crash")
    with files.candidate(NEW):
        assert NEW == (place.root / path.lstrip("/")).read_bytes()
    assert place.left() == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("/usr/bin/containerd",), None),
        ((), None),
        (("containerd", "--config", "/etc/a.toml"), "/etc/a.toml"),
        (("containerd", "--config=/etc/a.toml"), "/etc/a.toml"),
        (("containerd", "-c", "/etc/a.toml"), "/etc/a.toml"),
        (("containerd", "-c=/etc/a.toml"), "/etc/a.toml"),
        (("containerd", "--log-level", "debug", "-c", "/etc/a.toml", "--root", "/x"), "/etc/a.toml"),
        (("containerd", "--config"), None),
        (("containerd", "--config="), None),
        (("containerd", "--config-something", "/etc/a.toml"), None),
    ],
)
def test_where_a_command_line_has_its_config(argv: tuple[str, ...], expected: str | None) -> None:
    """As containerd itself reads its flags."""
    assert (PurePosixPath(expected) if expected else None) == config_path(argv)


def test_a_command_line_moves_the_file(place: Place) -> None:
    """And one without the flag moves it back to the usual place."""
    files = place.files()
    assert "/etc/containerd/config.toml" == files.where
    files.locate(("containerd", "--config", "/etc/other/c.toml"))
    assert "/etc/other/c.toml" == files.where
    files.write(NEW)
    assert NEW == (place.root / "etc/other/c.toml").read_bytes()
    files.locate(("containerd",))
    assert "/etc/containerd/config.toml" == files.where


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, None])
@pytest.mark.parametrize("is_lasting", [True, False])
def test_a_failed_write_leaves_the_old_file_whole(fast_dir: Path, error: int | None, *, is_lasting: bool) -> None:
    """At each call, by an error or a crash: the old bytes or the new ones, and errors are DiskFailed."""
    numbers = itertools.count()

    def scenario(calls: Calls) -> None:
        place = Place(fast_dir / str(next(numbers))).has()
        try:
            place.files(calls).write(NEW)
        except (DiskFailed, Crash):
            assert place.config.read_bytes() in {OLD, NEW}
        else:
            assert NEW == place.config.read_bytes()
        place.files().write(NEW)
        assert (NEW, []) == (place.config.read_bytes(), place.left())

    assert every_fault(scenario, error=error, is_lasting=is_lasting) >= 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, None])
def test_a_failed_backup_or_rollback_can_be_repeated(fast_dir: Path, error: int | None) -> None:
    """Whatever call fails; no half file is ever taken for a backup."""
    numbers = itertools.count()

    def scenario(calls: Calls) -> None:
        place = Place(fast_dir / str(next(numbers))).has()
        place.files().write_saved(b"saved")
        try:
            number = place.files(calls).back_up()
            place.files().write(NEW)
            place.files(calls).roll_back(number)
        except (DiskFailed, Crash):
            assert place.config.read_bytes() in {OLD, NEW}
            place.files().write(OLD)
        number = place.files().back_up()
        assert {OLD} == {path.read_bytes() for path in place.folder.glob("config.toml.*")}
        place.files().write(NEW)
        place.files().roll_back(number)
        assert (OLD, b"saved") == (place.config.read_bytes(), place.files().read_saved())
        assert place.left() == []

    assert every_fault(scenario, error=error) >= 10


def test_a_failed_record_leaves_the_old_one(fast_dir: Path) -> None:
    """The journal is the old one or the new one."""
    numbers = itertools.count()

    def scenario(calls: Calls) -> None:
        place = Place(fast_dir / str(next(numbers))).has()
        place.files().write_record(b"old")
        try:
            place.files(calls).write_record(b"new")
        except (DiskFailed, Crash):
            assert place.files().read_record() in {b"old", b"new"}
        place.files().write_record(b"newer")
        assert (b"newer", []) == (place.files().read_record(), place.left())

    for error in (errno.ENOSPC, None):
        assert every_fault(scenario, error=error) >= 3
