"""Hundreds of broken watches, changes and patches over real sockets: no file, no task and no memory is lost."""

import asyncio
import dataclasses
import os
import random

import pytest

from agent.kube import reporter, resources
from agent.kube.cluster import Cluster
from agent.policy import Backoff
from tests.apidouble import cluster as double_cluster
from tests.apidouble.cluster import SECRET
from tests.apidouble.faults import Cut, End, ErrorEvent, Line, Reset
from tests.apidouble.server import ApiDouble
from tests.support.kube import FAST, NODE, Bell, alive, client_of, running
from tests.support.reports import INVALID, report

STRIKES = (Cut(), End(), ErrorEvent(), Line(), Reset())
WARM_ROUNDS = 100
ROUNDS = 600


class Soak:
    """One round after the other: both watches break, the Secret changes, and something else is reported."""

    def __init__(self, double: ApiDouble) -> None:
        self.double = double
        self.bell = Bell()
        self.answers: dict[tuple[str, str], int] = {}
        self._number = 0

    def observe(self, verb: str, kind: str, code: int) -> None:
        if code == 200:
            self.answers[verb, kind] = self.answers.get((verb, kind), 0) + 1
            self.bell.ring()

    async def rounds(self, side: Cluster, count: int) -> None:
        """Go on when everything of a round has arrived."""
        for _ in range(count):
            self._number += 1
            patches = self.answers.get(("patch", "nodes/status"), 0)
            self.double.faults.strike(STRIKES[self._number % len(STRIKES)])
            secret = self.double.cluster.put_secret(b"v%d" % self._number).copy()
            side.publish(report(errors=(INVALID,) if self._number % 2 else ()))
            await self._until_settled(side, secret["data"]["config"], patches + 1)

    async def _until_settled(self, side: Cluster, encoded: str, patches: int) -> None:
        def is_settled() -> bool:
            found = side._source.watch.found
            is_seen = found is not None and found.encoded == encoded
            is_said = self.answers.get(("patch", "nodes/status"), 0) >= patches
            return is_seen and is_said and self.double.watching() >= 2

        await self.bell.until(is_settled)

    def in_use(self) -> tuple[int, int, int]:
        """Return objects, open files and tasks, without what the double remembers."""
        self.double._requests.clear()
        return (
            alive("agent", "aiohttp", "asyncio", "_asyncio", "ssl", "_ssl", "yarl", "multidict"),
            len(os.listdir("/proc/self/fd")),
            len(asyncio.all_tasks()),
        )


@pytest.mark.timeout(60)
async def test_thousands_of_reconnects_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two watches broken in hundreds of rounds, each with a change and a patch: files, tasks and memory stay flat."""
    monkeypatch.setattr(reporter, "MIN_SPACING_S", 0.0)
    timing = dataclasses.replace(FAST, backoff=Backoff(base_s=1e-3, cap_s=5e-3))
    async with ApiDouble(double_cluster.Cluster(history_limit=50)) as double:
        double.cluster.add_node(NODE)
        soak = Soak(double)
        async with client_of(double, observe=soak.observe) as client:
            side = Cluster(
                client,
                node=NODE,
                secret=resources.secret("d8-system", SECRET),
                key="config",
                spread_s=0,
                wake=lambda _: soak.bell.ring(),
                timing=timing,
                rng=random.Random(1),
            )
            async with running(side.run()):
                await soak.rounds(side, WARM_ROUNDS)
                objects, files, tasks = soak.in_use()
                await soak.rounds(side, ROUNDS)
                objects_after, files_after, tasks_after = soak.in_use()
    assert soak.answers["watch", "secrets"] > ROUNDS
    assert soak.answers["patch", "nodes/status"] >= ROUNDS
    assert abs(files_after - files) <= 2
    assert abs(tasks_after - tasks) <= 2
    # What is kept in each round would be there ROUNDS times.
    assert objects_after - objects < ROUNDS / 2
