"""Many nodes' cluster sides in one process, against the API double in another: what a fleet asks of the API.

The sides are the agent's own, clients and timing included; a pass is played: read, then publish what a pass that
has put it all in place would publish. The floor is as many bare watchers that wait as long and patch once. Plain
HTTP: what counts here is what is asked and when, and in Python TLS would only slow down the double.
"""

import argparse
import asyncio
import functools
import itertools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from agent import templates
from agent.daemon import Wakeup, joined
from agent.desired import Origin, Present, Reading, Unreadable
from agent.hosts_toml import Target
from agent.legacy import Legacy
from agent.outcome import Mode, Outcome, Standing
from agent.parse.document import parse
from agent.plan import Observed, Plan, make_plan
from agent.policy import rollout_delay_s
from agent.render import Renderer
from agent.report import Report, make_report
from agent.runtime import Containerd, Flavour
from agent.settings import Settings
from tests.bench import daemon, double, sample
from tests.bench.double import URGENT, Asked, Double
from tests.bench.figures import Figure, figures
from tests.bench.watcher import Watcher

SECRET = "registry-bashible-config"
HOSTS = 10
RESYNC_S = 300.0
AGENT, BARE = "agent", "bare"
#: The largest fleet that the agent is made for.
MANY = 5000

_POLL_S = 0.2
#: Nothing is asked for so long: a phase is over.
_QUIET_S = 1.5
_LIMIT_S = 120.0
#: All at once would measure how fast one Python process makes connections to another.
_STARTS_PER_S = 100


class NodeSide:
    """The cluster side of one node with a pass that writes nothing."""

    def __init__(self, index: int, kubeconfig: Path, *, spread_s: float) -> None:
        self._settings = Settings(
            kubeconfig=str(kubeconfig), secret_name=SECRET, node_name=double.node_name(index), rollout_spread_s=spread_s
        )
        self._wakeup = Wakeup()
        self._document: bytes | None = None

    async def run(self) -> None:
        """Follow the Secret and report, until cancelled."""
        async with joined(self._settings, self._wakeup.set, lambda _verb, _kind, _code: None) as side:
            while True:
                side.publish(self._report(await side.read(is_confirming=False)))
                await self._wakeup.wait(RESYNC_S)

    def _report(self, reading: Reading) -> Report:
        if not isinstance(reading, Present):
            errors = (reading.error,) if isinstance(reading, Unreadable) else ()
            return make_report(Outcome(mode=Mode.MANAGE, standing=Standing.UNKNOWN, steps=(), errors=errors))
        is_changed, self._document = reading.document != self._document, reading.document
        return _report(reading.document, is_changed=is_changed)


@functools.lru_cache(maxsize=8)
def _report(document: bytes, *, is_changed: bool) -> Report:
    config = parse(document).config
    containerd = Containerd(flavour=Flavour.STOCK, version=None)
    target = Target(containerd=containerd, registry_dir=PurePosixPath("/etc/containerd/registry.d"), origin="the bench")
    tree = Renderer(templates.read("hosts.toml.j2")).render(config, target).tree
    outcome = Outcome(
        mode=Mode.MANAGE,
        standing=Standing.CONFIGURED,
        steps=(),
        plan=make_plan(tree, Observed()) if is_changed else Plan(),
        config=config,
        origin=Origin.LIVE,
        legacy=Legacy(),
        is_in_place=True,
    )
    return make_report(outcome)


async def _bare_side(index: int, kubeconfig: Path, *, spread_s: float) -> None:
    """Be the floor of one node."""
    node, is_first = double.node_name(index), True
    async with Watcher(kubeconfig) as watcher:
        async for document, annotations in watcher.secret(SECRET):
            if not is_first and not URGENT.keys() & annotations.keys():
                await asyncio.sleep(rollout_delay_s(node, spread_s=spread_s))
            is_first = False
            await watcher.patch(node, document.splitlines()[-1].decode())


# From outside.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """What was asked in one phase, times counted from its beginning; `late_s` after the longest delay."""

    asked: tuple[Asked, ...]
    late_s: float

    @property
    def peak(self) -> int:
        """The most requests within one second."""
        return peak([each.at for each in self.asked])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rollouts:
    """A fleet that starts, follows a change at its own pace, and one at once. Memory is KB per node."""

    start: _Phase
    spread: _Phase
    urgent: _Phase
    own_kb: float
    double_kb: float


def rollouts(place: Path, *, nodes: int, spread_s: float) -> list[Figure]:
    """Measure what a change costs the API, and what a node costs the double's memory and the fleet's."""
    ours, floor = (_measure(place / kind, kind, nodes=nodes, spread_s=spread_s) for kind in (AGENT, BARE))
    name, floor_is = f"fleet of {nodes}", "bare watchers of the Secret, one PATCH each"
    rows: Sequence[tuple[str, str, float, float]] = (
        ("requests per node at start", "req", len(ours.start.asked) / nodes, len(floor.start.asked) / nodes),
        ("requests per node and change", "req", len(ours.spread.asked) / nodes, len(floor.spread.asked) / nodes),
        (f"peak, spread over {spread_s:g} s", "1/s", ours.spread.peak, floor.spread.peak),
        ("peak, urgent: no jitter", "1/s", ours.urgent.peak, floor.urgent.peak),
        ("last report after the last jitter", "s", ours.spread.late_s, floor.spread.late_s),
        ("last report, urgent: no jitter", "s", ours.urgent.late_s, floor.urgent.late_s),
        ("memory of one side in one process", "KB", ours.own_kb, floor.own_kb),
        ("memory of the double, per node", "KB", ours.double_kb, floor.double_kb),
    )
    return [
        *(
            Figure(name=f"{name}, {what}", unit=unit, value=value, floor=least, floor_is=floor_is, samples=1)
            for what, unit, value, least in rows
        ),
        *computed_peak(requests=len(ours.spread.asked) / nodes, spread_s=spread_s),
    ]


def computed_peak(*, requests: float, spread_s: float) -> list[Figure]:
    """Compute, not measure, the peak of the largest fleet: every request at the end of its node's delay."""
    delays = [rollout_delay_s(double.node_name(index), spread_s=spread_s) for index in range(MANY)]
    floors = {"evenly spread": [requests * MANY / max(spread_s, 1.0)]}
    return figures(
        f"fleet of {MANY}, peak, spread over {spread_s:g} s, computed", "1/s", [requests * peak(delays)], floors
    )


def peak(times: Sequence[float], *, window_s: float = 1.0) -> int:
    """Return the most of these times that any window holds."""
    held: deque[float] = deque()
    most = 0
    for at in sorted(times):
        held.append(at)
        while held[0] <= at - window_s:
            held.popleft()
        most = max(most, len(held))
    return most


def _measure(place: Path, kind: str, *, nodes: int, spread_s: float) -> _Rollouts:
    delay_s = max(rollout_delay_s(double.node_name(index), spread_s=spread_s) for index in range(nodes))
    revisions = itertools.count()
    with double.running(place, nodes=nodes, is_plain=True) as api:
        api.create(SECRET, sample.document(HOSTS, revision=next(revisions))[0])
        arguments = ("-m", "tests.bench.fleet", kind, str(api.kubeconfig), str(nodes), str(spread_s))
        with sample.running(*arguments, commands=subprocess.PIPE) as process:
            daemon.until_ready(None, process)
            before = _kb(process.pid), _kb(api.pid)
            assert process.stdin
            process.stdin.write(b"go\n")
            process.stdin.flush()
            start = _until_all(api, nodes, time.monotonic(), 0, delay_s=0.0)
            after = _kb(process.pid), _kb(api.pid)
            return _Rollouts(
                start=start,
                spread=_change(api, nodes, next(revisions), {}, delay_s=delay_s),
                urgent=_change(api, nodes, next(revisions), URGENT, delay_s=0.0),
                own_kb=(after[0] - before[0]) / nodes,
                double_kb=(after[1] - before[1]) / nodes,
            )


def _change(api: Double, nodes: int, revision: int, annotations: Mapping[str, str], *, delay_s: float) -> _Phase:
    known = len(api.asked())
    with api.put(SECRET, sample.document(HOSTS, revision=revision)[0], annotations) as started:
        pass
    return _until_all(api, nodes, started, known, delay_s=delay_s)


def _until_all(api: Double, nodes: int, started: float, known: int, *, delay_s: float) -> _Phase:
    """Wait until every Node was patched and nothing more is asked."""
    asked: list[Asked] = []
    while True:
        news = api.asked(known)
        known += len(news)
        asked += [each for each in news if not each.is_bench]
        patched = {each.name: each.at for each in asked if (each.resource, each.code) == ("nodes/status", 200)}
        now = time.monotonic()
        if len(patched) == nodes and now - asked[-1].at > _QUIET_S:
            return _Phase(asked=tuple(asked), late_s=max(patched.values()) - started - delay_s)
        if now - started > _LIMIT_S + delay_s:
            raise RuntimeError(f"{len(patched)} of {nodes} Nodes were patched")
        time.sleep(_POLL_S)


def _kb(pid: int) -> float:
    return daemon.memory_mb(pid)[0] * 1024


def _side(kind: str, index: int, kubeconfig: Path, *, spread_s: float) -> Coroutine[Any, Any, None]:
    if kind == BARE:
        return _bare_side(index, kubeconfig, spread_s=spread_s)
    return NodeSide(index, kubeconfig, spread_s=spread_s).run()


async def _run(options: argparse.Namespace) -> None:
    _report(sample.document(HOSTS)[0], is_changed=True)  # what is made once for all belongs to no side
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with asyncio.TaskGroup() as sides:
        for index in range(options.nodes):
            sides.create_task(_side(options.kind, index, options.kubeconfig, spread_s=options.spread_s))
            await asyncio.sleep(1 / _STARTS_PER_S)


def main() -> None:
    """Start the sides after a line on the standard input; run until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("kind", choices=(AGENT, BARE))
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("nodes", type=int)
    parser.add_argument("spread_s", type=float)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
