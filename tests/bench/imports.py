"""What each library costs at import, alone in a new interpreter that has asyncio already."""

import re
import statistics
import subprocess
import sys

from tests.bench.sample import REPOSITORY

MODULES = (
    "aiohttp.web",
    "jinja2",
    "prometheus_client",
    "pydantic",
    "re2",
    "tomlkit",
    "watchdog.observers",
    "yaml",
    "agent.daemon",
    "agent.cli.main",
)
_PROGRAM = """
import asyncio, importlib, sys, time
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return int(next(line for line in file if line.startswith("Rss")).split()[1])
before, started = resident(), time.perf_counter()
importlib.import_module(sys.argv[1])
print((time.perf_counter() - started) * 1000, (resident() - before) / 1024)
"""


def rows(*, runs: int) -> list[tuple[str, float, float]]:
    """Return module, milliseconds and MB of resident memory, medians of several processes in turns."""
    rounds = [[_python("-c", _PROGRAM, module).stdout.split() for module in MODULES] for _ in range(runs)]
    costs = [zip(*(map(float, pair) for pair in pairs), strict=True) for pairs in zip(*rounds, strict=True)]
    return [(module, *map(statistics.median, cost)) for module, cost in zip(MODULES, costs, strict=True)]


def importtime_ms(module: str) -> float:
    """Return the sum that `python -X importtime` gives: above the plain time, because tracing costs too."""
    text = _python("-X", "importtime", "-c", f"import {module}").stderr
    return sum(int(own) for own in re.findall(r"^import time: +(\d+) \|", text, re.MULTILINE)) / 1000


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
