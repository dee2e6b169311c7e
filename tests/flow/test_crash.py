"""A pass that ends anywhere, by a crash or by a stop, is finished by the next agent."""

import contextlib
import itertools
import shutil
from pathlib import Path

import pytest

from agent.desired import Absent
from agent.report import make_report
from tests.support import configs, folders, reader
from tests.support.faults import Calls, Crash
from tests.support.folders import Folder, Plain
from tests.support.passes import SETTLE_S, Passes

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
    """The next agent brings nothing back, confirms the deletion once more and releases all that is left."""
    await Passes(tmp_path).run(ALL)
    answers = itertools.chain(itertools.repeat(False, 2), itertools.repeat(True))  # noqa: FBT003
    passes = Passes(tmp_path, should_stop=lambda: next(answers))
    passes.source.reading = Absent()
    await passes.run()
    passes.now_s += SETTLE_S
    assert not (await passes.run()).is_complete
    before = folders.identities(tmp_path)
    await Passes(tmp_path).run()
    assert before == folders.identities(tmp_path)
    assert make_report(await Passes(tmp_path).delete()).verdict.reason == "NotConfigured"
    assert [path.name for path in passes.node.registry.iterdir()] == [reader.STATE_FILE]
