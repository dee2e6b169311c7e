"""Another agent owns registry.d: once a document has said so, nothing there is touched, whatever comes after."""

import contextlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.desired import Absent
from agent.outcome import Standing
from agent.report import make_report
from tests.support import configs, folders, reader
from tests.support.faults import Calls, Crash
from tests.support.folders import Folder, Plain
from tests.support.passes import UNREADABLE, Passes

OURS = configs.simple("v1", hosts=2)
AGENT_BLOCK = configs.config(
    {"r9.test": [configs.mirror("m9.test")]}, version="v9", agent={"endpoint": "127.0.0.1:5001", "layout": "opaque"}
)
FOREIGN = Folder(mode=0o750, entries={"hosts.toml": Plain(content=b"# mine\n", mode=0o640)})
PASSES = 3


async def _invalid(passes: Passes) -> set[Standing]:
    return {(await passes.run(b"mode: [")).standing for _ in range(PASSES)}


async def _unreadable(passes: Passes) -> set[Standing]:
    passes.source.reading = UNREADABLE
    return {(await passes.run()).standing for _ in range(PASSES)}


async def _restarted(passes: Passes) -> set[Standing]:
    return await _unreadable(Passes(passes.node.root))


async def _restarted_invalid(passes: Passes) -> set[Standing]:
    return await _invalid(Passes(passes.node.root))


async def _deleted(passes: Passes) -> set[Standing]:
    """Confirm, release, and what a restart makes of it."""
    passes.source.reading = Absent()
    standings = {(await passes.run()).standing for _ in range(PASSES)}
    assert (await passes.delete()).standing is Standing.NOT_CONFIGURED
    assert (await Passes(passes.node.root).delete()).standing is Standing.NOT_CONFIGURED
    await _unreadable(Passes(passes.node.root))
    return standings


async def _one_after_the_other(passes: Passes) -> set[Standing]:
    standings = [await trouble(passes) for trouble in (_invalid, _unreadable, _restarted, _deleted)]
    return set().union(*standings)


TROUBLES = [_invalid, _unreadable, _restarted, _restarted_invalid, _deleted, _one_after_the_other]


async def _handed_over(root: Path) -> Passes:
    """Return an agent that has taken over r0.test, written r1.test and then met an agent block."""
    passes = Passes(root)
    passes.node.make("r0.test", FOREIGN)
    assert make_report(await passes.run(OURS)).verdict.reason == "InPlace"
    before = folders.identities(passes.node.registry.parent)
    report = make_report(await passes.run(AGENT_BLOCK))
    assert (False, "OtherAgent") == (report.verdict.is_ready, report.verdict.reason)
    assert before == folders.identities(passes.node.registry.parent)
    return passes


def _let_the_other_agent_write(passes: Passes) -> None:
    """Replace, add and remove, and write the state file in another layout."""
    registry = passes.node.registry
    (registry / "r0.test" / "hosts.toml").write_text("# the other agent's")
    (registry / "r1.test" / "hosts.toml").unlink()
    passes.node.make("other.test/hosts.toml", Plain(content=b"# the other agent's"))
    passes.node.state_file.write_text('[ "r0.test", "r1.test", "other.test" ]')


def _given_up(passes: Passes) -> list[folders.Entry]:
    return [folders.read(path) for path in passes.node.state_dir.glob("backup-given-up-*")]


@pytest.mark.parametrize("has_written", [False, True], ids=["as-left", "overwritten"])
@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.__name__.strip("_") for trouble in TROUBLES])
async def test_nothing_is_touched_after_an_agent_block(
    tmp_path: Path, trouble: Callable[[Passes], Awaitable[set[Standing]]], *, has_written: bool
) -> None:
    """Neither the last good config nor a release comes back over what the other agent owns by now."""
    passes = await _handed_over(tmp_path)
    if has_written:
        _let_the_other_agent_write(passes)
    before = folders.identities(passes.node.registry.parent)
    assert {Standing.OTHER_AGENT} == await trouble(passes)
    assert before == folders.identities(passes.node.registry.parent)


@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.__name__.strip("_") for trouble in TROUBLES])
async def test_saved_originals_are_given_up_but_not_lost(
    tmp_path: Path, trouble: Callable[[Passes], Awaitable[set[Standing]]]
) -> None:
    """They lie under a name that no plan looks at, once, with every byte and mode."""
    passes = await _handed_over(tmp_path)
    expected = [Folder(mode=0o700, entries={"r0.test": FOREIGN})]
    assert expected == _given_up(passes)
    await trouble(passes)
    assert expected == _given_up(passes)
    assert not passes.node.backup.exists() or not list(passes.node.backup.iterdir())


async def test_a_crash_while_standing_down_is_survived(tmp_path: Path) -> None:
    """From the moment the agent block is kept, no crash lets the next agent write; the originals are somewhere."""
    kept = 0
    for at in range(1000):
        root = tmp_path / str(at)
        root.mkdir()
        passes = Passes(root)
        passes.node.make("r0.test", FOREIGN)
        await passes.run(OURS)
        calls = Calls(at=at)
        with contextlib.suppress(Crash):
            await Passes(root, calls=calls).run(AGENT_BLOCK)
        before = folders.identities(passes.node.registry.parent)
        if (passes.node.state_dir / "last-good.yaml").read_bytes() == AGENT_BLOCK:
            kept += 1
            assert {Standing.OTHER_AGENT} == await _one_after_the_other(Passes(root))
        else:
            await Passes(root).run(AGENT_BLOCK)
        assert before == folders.identities(passes.node.registry.parent)
        assert [Folder(mode=0o700, entries={"r0.test": FOREIGN})] == _given_up(passes)
        shutil.rmtree(root)
        if not calls.has_failed:
            break
    assert kept >= 3


async def test_a_document_without_the_block_makes_the_agent_go_on(tmp_path: Path) -> None:
    """Standing down ends with the block: the tree is put in place again, whatever was left there."""
    passes = await _handed_over(tmp_path)
    _let_the_other_agent_write(passes)
    assert make_report(await passes.run(OURS)).verdict.reason == "InPlace"
    assert reader.endpoints(tmp_path, "r0.test") == ["https://v1.test:5000"]
    assert reader.state(tmp_path) == ["other.test", "r0.test", "r1.test"]
