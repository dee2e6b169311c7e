"""The file watcher on real inotify: what wakes, what does not, and what it survives."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath

import pytest

from agent import drift
from agent.daemon import _targets
from agent.disk.legacy import LegacyReader
from agent.drift import FileWatcher, Watched
from agent.settings import Settings
from tests.support.waiting import until_async

QUIET_S = 0.8  # above the half second for which watchdog holds back the first half of a move


class Watch:
    """A watcher over a tree and over one name in a flat directory, and how often it called."""

    def __init__(self, root: Path) -> None:
        """Make ``tree/a/file`` and ``flat/source``."""
        self.tree = root / "below" / "tree"
        self.flat = root / "flat"
        self.file = self.tree / "a" / "file"
        self.file.parent.mkdir(parents=True)
        self.file.write_text("1")
        self.flat.mkdir()
        (self.flat / "source").write_text("1")
        self.calls = 0
        self.seen: list[str] = []
        targets = (
            Watched(path=self.tree, is_recursive=True),
            Watched(path=self.flat, is_recursive=False, names=frozenset({"source", "..data"})),
        )
        self.watcher = FileWatcher(lambda: targets, self._count)

    def _count(self) -> None:
        asyncio.get_running_loop()  # raises when called on another thread
        self.calls += 1
        self.seen.append((self.flat / "source").read_text())

    async def wakes(self, action: Callable[[], object]) -> None:
        """Fail unless the action wakes the watcher."""
        before = self.calls
        action()
        await until_async(lambda: self.calls > before, what="a wake-up")
        await self.rest()

    async def sleeps(self, action: Callable[[], object]) -> None:
        """Fail if the action wakes the watcher: a change made after it is the first to be heard."""
        before = self.calls
        action()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await asyncio.Event().wait()
        assert before == self.calls

    async def rest(self) -> None:
        """Return once no more calls come, and arm again like the loop does after each pass."""
        seen = -1
        while seen != self.calls or await asyncio.to_thread(self.watcher.arm):
            seen = self.calls
            await asyncio.sleep(0.1)


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    """Return a watch that is armed."""
    watch = Watch(tmp_path)
    watch.watcher.start(asyncio.get_running_loop())
    assert await asyncio.to_thread(watch.watcher.arm)
    yield watch
    await asyncio.to_thread(watch.watcher.stop)


async def test_arming_again_renews_nothing(watch: Watch) -> None:
    """With every directory where it was, there is nothing to renew: passes do not wake passes."""
    assert not await asyncio.to_thread(watch.watcher.arm)


async def test_changes_wake(watch: Watch) -> None:
    """Write, chmod, create, remove, rename, and the same of directories."""
    await watch.wakes(lambda: watch.file.write_text("2"))
    await watch.wakes(lambda: watch.file.chmod(0o600))
    await watch.wakes(lambda: watch.file.parent.chmod(0o700))
    await watch.wakes(lambda: watch.file.rename(watch.file.with_name("moved")))
    await watch.wakes(lambda: watch.file.with_name("moved").unlink())
    await watch.wakes((watch.tree / "new").mkdir)
    await watch.wakes(lambda: (watch.tree / "new" / "file").write_text("1"))
    await watch.wakes(lambda: shutil.rmtree(watch.tree / "new"))
    await watch.wakes(lambda: os.symlink("a", watch.tree / "link"))


async def test_reads_do_not_wake(watch: Watch) -> None:
    """containerd reads on every pull."""

    def read() -> None:
        for _ in range(50):
            watch.file.read_bytes()
            os.listdir(watch.tree)
            watch.file.stat()

    await watch.sleeps(read)


async def test_temporary_names_do_not_wake(watch: Watch) -> None:
    """A write of the agent's own is heard once, at the rename that ends it."""
    temporary = watch.file.with_name(".registry-agent-0a")

    def write() -> None:
        temporary.write_text("2")
        temporary.chmod(0o600)

    await watch.sleeps(write)
    await watch.wakes(lambda: temporary.rename(watch.file))


async def test_only_the_named_entries_of_a_flat_directory_wake(watch: Watch) -> None:
    """Beside the source, anybody may write without waking the agent."""
    await watch.sleeps(lambda: (watch.flat / "other").write_text("1"))
    await watch.wakes(lambda: (watch.flat / "source").write_text("2"))
    await watch.wakes(lambda: (watch.flat / "..data").symlink_to("somewhere"))
    (watch.flat / "tmp").symlink_to("elsewhere")
    await watch.wakes(lambda: (watch.flat / "tmp").rename(watch.flat / "..data"))


@pytest.mark.parametrize("how", ["removed", "renamed"])
async def test_a_root_that_is_made_again_is_watched_again(watch: Watch, how: str) -> None:
    """After removal and renaming of the root, the new directory is heard and the old one is not."""
    aside = watch.flat.parent / "aside"
    await watch.wakes(lambda: shutil.rmtree(watch.tree) if how == "removed" else watch.tree.rename(aside))
    await watch.wakes(lambda: watch.file.parent.mkdir(parents=True))
    await watch.wakes(lambda: watch.file.write_text("2"))
    if how != "removed":
        await watch.sleeps(lambda: (aside / "old").write_text("1"))


async def test_a_missing_root_is_heard_when_it_comes(tmp_path: Path) -> None:
    """Several levels of a path may be missing at start: each that appears wakes."""
    calls: list[None] = []
    deep = tmp_path / "one" / "two" / "three"
    watcher = FileWatcher(lambda: (Watched(path=deep, is_recursive=True),), lambda: calls.append(None))
    watcher.start(asyncio.get_running_loop())
    for path in (deep.parent.parent, deep.parent, deep, deep / "file"):
        await asyncio.to_thread(watcher.arm)
        before = len(calls)
        path.mkdir()
        await until_async(lambda before=before: len(calls) > before, what=f"{path.name}")  # type: ignore[misc]
    await asyncio.to_thread(watcher.stop)


async def test_stopping_twice_or_late_is_harmless(watch: Watch) -> None:
    """An event that comes after the end is dropped, not raised on the observer's thread."""
    await asyncio.to_thread(watch.watcher.stop)
    watch.file.write_text("2")
    await asyncio.to_thread(watch.watcher.stop)
    assert watch.calls == 0


@pytest.fixture
def settle_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change for how long a file that is written in place must rest: a busy machine then changes nothing."""
    monkeypatch.setattr(drift, "WRITE_SETTLE_S", request.param)


@pytest.mark.parametrize("settle_s", [QUIET_S - 0.1], indirect=True)
@pytest.mark.usefixtures("settle_s")
async def test_a_file_written_in_two_halves_is_heard_once_and_whole(watch: Watch) -> None:
    """The first half may be a valid document: who is woken only after the second never reads it."""
    with (watch.flat / "source").open("w", buffering=1) as file:
        file.write("first\n")
        await until_async(lambda: watch.watcher._settling is not None, what="the first half to be heard")
        file.write("second\n")
    await until_async(lambda: bool(watch.seen), what="a wake-up")
    await watch.sleeps(lambda: None)
    assert ["first\nsecond\n"] == watch.seen


@pytest.mark.parametrize("settle_s", [3600.0], indirect=True)
@pytest.mark.usefixtures("settle_s")
async def test_a_file_renamed_into_place_is_heard_at_once(watch: Watch) -> None:
    """A rename is whole by itself: nothing is waited for."""
    (watch.flat / "new").write_text("2")
    await watch.wakes(lambda: (watch.flat / "new").rename(watch.flat / "source"))


async def test_a_root_full_of_others_costs_no_watches(tmp_path: Path) -> None:
    """registry.d directly below the root: of what lies beside it, nothing is watched."""
    for number in range(200):
        (tmp_path / f"unrelated-{number}" / "deep").mkdir(parents=True)
    (tmp_path / "registry.d" / "a.test").mkdir(parents=True)
    settings = Settings(root=tmp_path, registry_dir=PurePosixPath("/registry.d"))
    watcher = FileWatcher(lambda: _targets(settings, LegacyReader(settings.root)), lambda: None)
    watcher.start(asyncio.get_running_loop())
    before = _inotify_watches()
    await asyncio.to_thread(watcher.arm)
    assert [tmp_path / "registry.d"] == [watched.path for watched in watcher._armed if watched.is_recursive]
    assert 2 <= _inotify_watches() - before < 20
    await asyncio.to_thread(watcher.stop)


def _inotify_watches() -> int:
    """Return how many inotify watches this process has, as the kernel counts them."""
    return sum(_lines(path).count("inotify wd:") for path in Path("/proc/self/fdinfo").iterdir())


def _lines(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # the descriptor with which the directory was listed
        return ""
