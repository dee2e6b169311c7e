"""A pass that ends anywhere, by a crash or by a stop, is finished by the next agent."""

import contextlib
import itertools
import shutil
from pathlib import Path

import pytest

from agent.report import make_report
from tests.support import configs, folders, reader
from tests.support.faults import Calls, Crash
from tests.support.folders import Folder, Plain
from tests.support.passes import Passes

ALL = configs.simple("v1", hosts=2)
NEXT = configs.simple("v2", hosts=1)
FOREIGN = Folder(mode=0o750, entries={"hosts.toml": Plain(content=b"[host]\n", mode=0o640)})


@pytest.mark.timeout(40)
async def test_a_crash_at_any_call_of_any_pass_is_survived(fast_dir: Path) -> None:
    """Config, next config, deletion: the machine stops at each call, the next agent ends with the same disk."""
    clean = Calls()
    await _life(fast_dir / "clean", clean)
    for at in range(len(clean.made)):
        root = fast_dir / str(at)
        with contextlib.suppress(Crash):
            await _life(root, Calls(at=at))
        assert reader.problems(root, reader.managed(root)) == []
        passes = Passes(root)
        assert make_report(await passes.run(NEXT)).verdict.reason == "InPlace"
        assert reader.endpoints(root, "r0.test") == ["https://v2.test:5000"]
        assert make_report(await passes.delete()).verdict.reason == "NotConfigured"
        assert {"r0.test": FOREIGN, reader.STATE_FILE: Plain(content=b"[]\n")} == _entries(passes.node.registry)
        assert not list(passes.node.backup.iterdir())
        shutil.rmtree(root)
    print(f"\n{len(clean.made)} crash states")
    assert len(clean.made) >= 120


async def _life(root: Path, calls: Calls) -> None:
    passes = Passes(root, calls=calls)
    passes.node.make("r0.test", FOREIGN)
    for document in (ALL, NEXT):
        report = make_report(await passes.run(document))
        assert report.verdict.reason == "InPlace", report.verdict.message
    report = make_report(await passes.delete())
    assert report.verdict.reason == "NotConfigured", report.verdict.message


def _entries(path: Path) -> dict[str, folders.Entry]:
    found = folders.read(path)
    assert isinstance(found, Folder)
    return dict(found.entries)


async def test_a_stop_between_any_two_operations_is_finished_later(tmp_path: Path) -> None:
    """A stopped pass says Interrupted and leaves whole files; a new agent goes on where it ended."""
    for done in itertools.count():
        answers = itertools.chain(itertools.repeat(False, done), itertools.repeat(True))  # noqa: FBT003
        root = tmp_path / str(done)
        root.mkdir()
        report = make_report(await Passes(root, should_stop=lambda answers=answers: next(answers)).run(ALL))  # type: ignore[misc]
        assert reader.problems(root, reader.managed(root)) == []
        if report.verdict.is_ready:
            break
        assert (report.verdict.reason, report.applied_version) == ("Interrupted", "unknown")
        assert make_report(await Passes(root).run(ALL)).verdict.reason == "InPlace"
    assert done >= 5


async def test_a_stopped_release_is_finished_after_the_restart(tmp_path: Path) -> None:
    """Wherever it stopped, the next agent brings nothing back, confirms the deletion again and releases the rest."""
    for done in itertools.count():
        # Asked once in each of the two passes before the first operation of the release.
        answers = itertools.chain(itertools.repeat(False, 2 + done), itertools.repeat(True))  # noqa: FBT003
        root = tmp_path / str(done)
        root.mkdir()
        await Passes(root).run(ALL)
        passes = Passes(root, should_stop=lambda answers=answers: next(answers))  # type: ignore[misc]
        is_stopped = not (await passes.delete()).is_complete
        await _check_release_goes_on(passes)
        if not is_stopped:
            break
    assert done >= 3


@pytest.mark.timeout(40)
async def test_a_crash_in_a_release_brings_nothing_back(fast_dir: Path) -> None:
    """The same at each call: the deleted config is forgotten before the first file of it goes."""
    for at in itertools.count():
        root = fast_dir / str(at)
        root.mkdir()
        await Passes(root).run(ALL)
        calls = Calls(at=at)
        passes = Passes(root, calls=calls)
        with contextlib.suppress(Crash):
            await passes.delete()
        await _check_release_goes_on(passes)
        shutil.rmtree(root)
        if not calls.has_failed:
            break
    assert at >= 10


async def _check_release_goes_on(passes: Passes) -> None:
    """Restart with the document still deleted: no path comes back while it is confirmed, and then all of it goes."""
    root = passes.node.root
    before = folders.identities(passes.node.registry)
    await Passes(root).run()
    assert before == folders.identities(passes.node.registry)
    assert make_report(await Passes(root).delete()).verdict.reason == "NotConfigured"
    assert [path.name for path in passes.node.registry.iterdir()] == [reader.STATE_FILE]
