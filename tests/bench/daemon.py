"""The real daemon from outside: how soon it is ready, what it holds in memory, how fast it follows an edit."""

import itertools
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from agent.cli import ask
from agent.errors import AgentUnreachable
from tests.bench import bare, sample
from tests.bench.figures import Figure, figures, in_turns, p99

POLL_S = 0.001
#: Between two edits, so that the passes that the agent's own writes wake are over.
PAUSE_S = 0.1
HOSTS = 10


def start_to_ready(place: Path, *, runs: int) -> list[Figure]:
    """Measure from spawn until the agent says ready, on a node in order and on an empty one."""
    document = sample.document(HOSTS)[0]
    prepared, empty = sample.fresh(place / "prepared", document), place / "empty"
    unchanged, first, loop, libraries = in_turns(  # the round that warms up prepares the node
        runs,
        lambda: _start_ms(prepared, *agent(prepared)),
        lambda: _start_ms(sample.fresh(empty, document), *agent(empty)),
        lambda: _start_ms(None, "-c", bare.LOOP),
        lambda: _start_ms(None, "-c", bare.LIBRARIES),
    )
    floors = {"python + asyncio": loop, "python + the same libraries": libraries}
    return [
        *figures(f"start to ready, {HOSTS} hosts, nothing to do", "ms", unchanged, floors),
        *figures(f"start to ready, {HOSTS} hosts, first apply", "ms", first, floors),
    ]


def memory(place: Path, *, runs: int, settle_s: float) -> list[Figure]:
    """Measure resident (RSS) and unshared (USS) memory with the file as source."""
    root = sample.fresh(place / "memory", sample.document(HOSTS)[0])
    socket = str(place / "bare.sock")
    floors = {
        "python + asyncio": ("-c", bare.LOOP),
        "python + an aiohttp server": ("-c", bare.SERVER, socket),
    }
    return idle_memory(f"{HOSTS} hosts", root, agent(root), floors, runs=runs, settle_s=settle_s)


def idle_memory(
    what: str,
    root: Path,
    command: Sequence[str],
    floors: Mapping[str, Sequence[str]],
    *,
    runs: int,
    settle_s: float,
) -> list[Figure]:
    """Measure an agent that has `root` and its floors, `settle_s` after ready."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("agent", *floors)}
    for _ in range(runs):
        with sample.running(*command) as process:
            until_ready(root, process)
            found["agent"].append(memory_mb(process.pid, settle_s))
        for name, program in floors.items():
            with sample.running(*program) as process:
                until_ready(None, process)
                found[name].append(memory_mb(process.pid, settle_s))
    made = []
    for index, kind in enumerate(("RSS", "USS")):
        ours, *theirs = ([sizes[index] for sizes in seen] for seen in found.values())
        made += figures(f"idle memory, {kind}, {what}", "MB", ours, dict(zip(floors, theirs, strict=True)))
    return made


def edits(place: Path, *, runs: int) -> list[Figure]:
    """Measure from the rename that publishes an edit of all hosts until every file of it is durable."""
    root, copy = sample.fresh(place / "edited", sample.document(HOSTS)[0]), sample.fresh(place / "copy", b"")
    floor_program = ("-m", "tests.bench.bare", str(root), str(copy), sample.SOURCE, sample.REGISTRY, sample.STATE)
    with sample.running(*agent(root, log_level="info"), errors=subprocess.PIPE) as process:
        until_ready(root, process)
        with sample.running(*floor_program) as floor:
            until_ready(None, floor)
            revisions = itertools.count(1)
            ours, theirs = in_turns(
                runs,
                lambda: _edit_ms(root, process.stderr, next(revisions)),
                lambda: _edit_ms(copy, floor.stdout, next(revisions)),
            )
    name, floors = f"edit to durable, {HOSTS} hosts", {"inotify + the same bytes and fsyncs": theirs}
    return [
        *figures(f"{name}, p50", "ms", ours, floors),
        *figures(f"{name}, p99", "ms", ours, floors, statistic=p99),
    ]


def _edit_ms(root: Path, output: IO[bytes] | None, revision: int) -> float:
    """Edit the source; the agent and its floor both print the version once all files of it are durable."""
    assert output
    document, version = sample.document(HOSTS, revision=revision)
    draft = root / f"{sample.SOURCE}.draft"
    draft.write_bytes(document)
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    draft.rename(root / sample.SOURCE)
    until_said(output, version)
    return (time.perf_counter() - started) * 1000


def agent(root: Path, *flags: str, log_level: str = "error") -> list[str]:
    """Return the command for an agent on `root`: with the file as source unless `flags` say otherwise."""
    source = () if "--source" in flags else ("--source", "file")
    settings = ("--root", str(root), "--health-listen", "", "--log-level", log_level)
    return ["-m", "agent", "run", *source, *settings, *flags]


def until_said(output: IO[bytes] | None, version: str) -> None:
    """Wait for the line that says that a version is in place."""
    assert output
    while version.encode() not in (line := output.readline()):
        if not line:
            raise RuntimeError("an edit was not followed")


def _start_ms(root: Path | None, *program: str) -> float:
    started = time.perf_counter()
    with sample.running(*program) as process:
        until_ready(root, process)
        return (time.perf_counter() - started) * 1000


def until_ready(root: Path | None, process: subprocess.Popen[bytes]) -> None:
    """Wait for the agent on `root`, or for a floor that prints a line."""
    if root is None:
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("a floor did not start")
        return
    while not _is_ready(root):
        if process.poll() is not None:
            raise RuntimeError("the agent did not start")
        time.sleep(POLL_S)


def _is_ready(root: Path) -> bool:
    try:
        return bool(ask.status(root / "run/registry-agent")["ready"])
    except AgentUnreachable:
        return False


def memory_mb(pid: int, settle_s: float = 0.0) -> tuple[float, float]:
    """Return resident and unshared memory of a process after a while."""
    time.sleep(settle_s)
    with open(f"/proc/{pid}/smaps_rollup") as file:
        kb = {name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", file.read())}
    return kb["Rss"] / 1024, (kb["Private_Clean"] + kb["Private_Dirty"]) / 1024
