"""`make bench`: prints what the agent costs beside the floor under each figure. Asserts nothing about time."""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import cluster, daemon, fleet, idle, imports, passes
from tests.bench.figures import HEADER, Figure, markdown, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetitions:
    """How often each figure is measured, after one round that warms up."""

    hosts: tuple[int, ...]
    starts: int
    memory: int
    settle_s: float
    passes: int
    applies: int
    edits: int
    secret_edits: int
    idle_nodes: int
    idle_hours: int
    fleet: int
    spread_s: float
    imports: int


FULL = Repetitions(
    hosts=(10, 100, 1000),
    starts=9,
    memory=3,
    settle_s=2,
    passes=15,
    applies=5,
    edits=100,
    secret_edits=100,
    idle_nodes=2,
    idle_hours=12,
    fleet=200,
    spread_s=10,
    imports=5,
)
QUICK = Repetitions(
    hosts=(10, 100),
    starts=1,
    memory=1,
    settle_s=0.2,
    passes=2,
    applies=1,
    edits=5,
    secret_edits=3,
    idle_nodes=1,
    idle_hours=2,
    fleet=20,
    spread_s=2,
    imports=1,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as docs/performance.md has them")
    parser.add_argument("--date", default="", help="the date to save with them")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where to write; must be a real disk")
    parser.add_argument("--fleet", type=int, metavar="NODES", help=f"nodes of the fleet; {FULL.fleet} by default")
    options = parser.parse_args()
    repetitions = QUICK if options.quick else FULL
    if options.fleet:
        repetitions = dataclasses.replace(repetitions, fleet=options.fleet)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ra-bench-", dir=options.dir) as name:
        place = Path(name).resolve()
        about = {"date": options.date, "quick": options.quick, **_machine(place)}
        print("  ".join(f"{key}: {value}" for key, value in about.items()), flush=True)
        figures = list(_figures(place, repetitions))
    costs = imports.rows(runs=repetitions.imports)
    traced_ms = imports.importtime_ms("agent.daemon")
    load_after = f"{os.getloadavg()[0]:.1f}"
    shown = markdown if options.markdown else table
    print(f"\n{shown([HEADER, *(figure.cells for figure in figures)])}\n")
    print(shown([("import", "ms", "MB"), *((name, f"{took:.0f}", f"{size:.1f}") for name, took, size in costs)]))
    print(f"\npython -X importtime of agent.daemon: {traced_ms:.0f} ms with the cost of tracing")
    print(f"took {time.monotonic() - started:.0f} s; load at the end {load_after}")
    if options.json:
        saved = {**about, "load_after": load_after, "figures": [dataclasses.asdict(figure) for figure in figures]}
        saved |= {"imports": [{"module": name, "ms": took, "mb": size} for name, took, size in costs]}
        options.json.write_text(f"{json.dumps(saved, indent=2)}\n")
    return 0


def _figures(place: Path, repetitions: Repetitions) -> Iterator[Figure]:
    yield from daemon.start_to_ready(place, runs=repetitions.starts)
    yield from daemon.memory(place, runs=repetitions.memory, settle_s=repetitions.settle_s)
    with asyncio.Runner() as runner:
        for hosts in repetitions.hosts:
            yield from passes.unchanged(place, runner, hosts=hosts, runs=repetitions.passes)
        for hosts in repetitions.hosts:
            yield from passes.full_apply(place, runner, hosts=hosts, runs=repetitions.applies)
    yield from daemon.edits(place, runs=repetitions.edits)
    yield from cluster.changes(place, runs=repetitions.secret_edits)
    yield from cluster.memory(place, runs=repetitions.memory, settle_s=repetitions.settle_s)
    yield from idle.requests(place, nodes=repetitions.idle_nodes, hours=repetitions.idle_hours)
    yield from fleet.rollouts(place / "fleet", nodes=repetitions.fleet, spread_s=repetitions.spread_s)


def _machine(place: Path) -> dict[str, Any]:
    with open("/proc/self/mounts") as file:
        mounts = [line.split()[1:3] for line in file]
    file_system = max((len(path), kind) for path, kind in mounts if place.is_relative_to(path))[1]
    if file_system in {"tmpfs", "ramfs"}:
        print(f"warning: {place} is on {file_system}, where fsync costs nothing; use --dir", file=sys.stderr)
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "file_system": file_system,
        "load_before": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    sys.exit(main())
