"""Passes in this process: one that finds nothing to do, and one that writes everything."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from agent.daemon import FileSide, build_reconciler
from agent.disk.legacy import LegacyReader
from agent.settings import Settings
from tests.bench import bare, sample
from tests.bench.figures import Figure, figures, in_turns, ms

#: Runs what is measured and returns its milliseconds or its calls of fsync.
Meter = Callable[[Callable[[], None]], float]


def unchanged(place: Path, runner: asyncio.Runner, *, hosts: int, runs: int) -> list[Figure]:
    """Measure a pass that changes nothing, with and without the memory of the pass before."""
    root = sample.fresh(place / "unchanged", sample.document(hosts)[0])
    _pass(runner, root, is_change_expected=True)()
    again = _pass(runner, root, is_change_expected=False)
    paths = [str(path) for path in root.rglob("*") if path.is_file()]
    warm, first, floor = in_turns(
        runs,
        lambda: ms(again),
        lambda: ms(_pass(runner, root, is_change_expected=False)),
        lambda: ms(lambda: bare.read_all(paths)),
    )
    floors = {f"stat and read of {len(paths)} files": floor}
    return [
        *figures(f"no-op pass, {hosts} hosts", "ms", warm, floors),
        *figures(f"no-op pass, {hosts} hosts, first of a process", "ms", first, floors),
    ]


def full_apply(place: Path, runner: asyncio.Runner, *, hosts: int, runs: int) -> list[Figure]:
    """Measure a pass that fills an empty registry.d."""
    document = sample.document(hosts)[0]

    def apply(meter: Meter) -> float:
        return meter(_pass(runner, sample.fresh(place / "applied", document), is_change_expected=True))

    def write(meter: Meter) -> float:
        root = sample.fresh(place / "written", document)
        return meter(lambda: bare.write_all(root, groups))

    agent_fsyncs = apply(_fsyncs)
    groups = bare.written(place / "applied", sample.REGISTRY, sample.STATE, is_edit=False)
    floor_is = f"the same bytes, {write(_fsyncs)} fsyncs (agent {agent_fsyncs})"
    samples, floor = in_turns(runs, lambda: apply(ms), lambda: write(ms))
    return figures(f"full apply, {hosts} hosts", "ms", samples, {floor_is: floor})


def _pass(runner: asyncio.Runner, root: Path, *, is_change_expected: bool) -> Callable[[], None]:
    """Return one pass of one reconciler, to be run as often as wanted."""
    settings = Settings(root=root, source="file")
    side = FileSide(settings.on_node(settings.source_file))
    reconciler = build_reconciler(settings, side, LegacyReader(root))

    async def run() -> None:  # returns nothing: asyncio.Runner makes a repr of the task with its result
        outcome = await reconciler.run_pass()
        if not outcome.is_in_place or outcome.errors or bool(outcome.plan.operations) is not is_change_expected:
            raise RuntimeError(f"the pass did not do what is measured: {outcome.errors}")

    return lambda: runner.run(run())


def _fsyncs(action: Callable[[], None]) -> int:
    with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
        action()
    return fsync.call_count
