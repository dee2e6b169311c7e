"""A day with an API that flaps, in fake time: nothing wrong is ever done, and everything is right in the end.

The node is a small one: it decides with the agent's own rules and "applies" by remembering the document.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from agent.desired import Absent, Confirm, Origin, Present, Release, Unreadable, Use, choose
from agent.kube import resources
from agent.kube.client import Client
from agent.kube.cluster import Cluster
from agent.kube.recorder import MAX_SERIES, MAX_WAITING
from agent.legacy import LABEL
from agent.node_status import CONDITION, VERSION_ANNOTATION
from agent.outcome import Standing
from agent.report import Report
from tests.apidouble import cluster as double_cluster
from tests.apidouble.cluster import SECRET, STRATEGIC_PATCH
from tests.apidouble.faults import (
    Answer,
    Cut,
    End,
    ErrorEvent,
    Fault,
    Freeze,
    Hang,
    Line,
    Reset,
    Truncated,
    too_many_requests,
)
from tests.support import reports
from tests.support.faketime import jumping, now
from tests.support.kube import NODE, alive, running
from tests.support.memory_api import MemoryApi

SETTLE_S = 5.0
SPREAD_S = 10.0
RESYNC_S = 300.0
HOUR_S = 3600.0
STRIKES = (Cut(), End(), Freeze(), ErrorEvent(), ErrorEvent(code=500), Line(), Reset())
FAULTS: tuple[Fault, ...] = (
    *(Answer(code=code) for code in (401, 403, 404, 409, 410, 500, 503, 504)),
    too_many_requests(5),
    Hang(),
    Reset(),
    Truncated(),
)


class SmallNode:
    """Reads, decides and reports as the reconciler does; what it must never do is checked as it does it."""

    def __init__(self, state: double_cluster.Cluster, api: MemoryApi, seed: int) -> None:
        self.state = state
        self.wake = asyncio.Event()
        self.applied: bytes | None = None
        self.releases = 0
        self._absent_since: float | None = None
        self.side = Cluster(
            cast(Client, api),
            node=NODE,
            secret=resources.secret("d8-system", SECRET),
            key="config",
            spread_s=SPREAD_S,
            wake=lambda _: self.wake.set(),
            rng=random.Random(seed),
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=now()),
        )

    async def run(self) -> None:
        """Make pass after pass."""
        is_confirming = False
        while True:
            reading = await self.side.read(is_confirming=is_confirming)
            choice = choose(
                reading,
                last_good=self.applied,
                is_managing=self.applied is not None,
                absent_for_s=None if self._absent_since is None else now() - self._absent_since,
                settle_s=SETTLE_S,
            )
            is_confirming = isinstance(choice, Confirm) or (is_confirming and isinstance(reading, Unreadable))
            self._absent_since = (self._absent_since or now()) if isinstance(choice, Confirm) else None
            self.side.publish(self._carry_out(choice, reading))
            await self._woken(choice.wait_s if isinstance(choice, Confirm) else RESYNC_S)

    async def _woken(self, within_s: float) -> None:
        self.wake.clear()
        try:
            async with asyncio.timeout(within_s):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _carry_out(self, choice: Use | Confirm | Release, reading: Present | Absent | Unreadable) -> Report:
        match choice:
            case Use(candidates=candidates, error=error):
                is_new = bool(candidates) and candidates[0].document != self.applied
                self.applied = candidates[0].document if candidates else self.applied
                origin = candidates[0].origin if candidates else Origin.LAST_GOOD
                return self._report(Standing.CONFIGURED, (error,) if error else (), origin, is_new=is_new)
            case Confirm():
                return self._report(Standing.CONFIRMING_DELETION, (), Origin.LAST_GOOD)
            case Release():
                assert isinstance(reading, Absent)
                if self.applied is not None:
                    assert self.state.find("secrets", SECRET, "d8-system") is None, "released although it is there"
                    self.releases += 1
                self.applied = None
                return reports.report(standing=Standing.NOT_CONFIGURED, config=None)

    def _report(self, standing: Standing, errors: tuple[Any, ...], origin: Origin, *, is_new: bool = False) -> Report:
        config = reports.config(self.applied.decode(), "a") if self.applied else None
        plan = reports.plan("a") if is_new else reports.plan()
        is_in_place = config is not None
        return reports.report(
            standing=standing, errors=errors, origin=origin, config=config, plan=plan, is_in_place=is_in_place
        )


class Chaos:
    """Everything that happens to a cluster in a day, drawn by chance."""

    def __init__(self, state: double_cluster.Cluster, api: MemoryApi, rng: random.Random) -> None:
        self.state = state
        self.api = api
        self.rng = rng
        self.versions = 1

    async def run(self, duration_s: float) -> None:
        """Let something happen every few minutes, and leave everything in order."""
        actions = (
            *((self.outage, self.faults, self.strike, self.change) * 3),
            *(self.compact, self.delete, self.replace, self.register_anew, self.meddle, self.slow_down),
        )
        ends_at = now() + duration_s
        while now() < ends_at:
            await asyncio.sleep(self.rng.expovariate(1 / 120))
            await self.rng.choice(actions)()
        self.api.faults.clear()
        self.api.latency_s = 0.0
        self.api.come_up()
        if self.state.find("nodes", NODE) is None:
            self.state.add_node(NODE)
        if self.rng.random() < 0.8:
            await self.change()

    async def outage(self) -> None:
        self.api.go_down()
        await asyncio.sleep(self.rng.expovariate(1 / 60))
        if self.rng.random() < 0.3:
            self.state.compact()
        self.api.come_up()

    async def faults(self) -> None:
        fault = self.rng.choice(FAULTS)
        verb = self.rng.choice([None, "list", "watch", "get", "patch", "create"])
        self.api.faults.add(fault, verb=verb, times=self.rng.randint(1, 20))

    async def strike(self) -> None:
        self.api.faults.strike(self.rng.choice(STRIKES))

    async def change(self) -> None:
        self.versions += 1
        urgent = {"registry-agent.io/urgent": ""} if self.rng.random() < 0.2 else {}
        self.state.put_secret(b"v%d" % self.versions, annotations=urgent)

    async def compact(self) -> None:
        self.state.compact()

    async def delete(self) -> None:
        if self.state.find("secrets", SECRET, "d8-system"):
            self.state.delete_secret()

    async def replace(self) -> None:
        await self.delete()
        await asyncio.sleep(self.rng.expovariate(1 / 10))
        await self.change()

    async def register_anew(self) -> None:
        if self.state.find("nodes", NODE):
            self.state.delete_node(NODE)
        await asyncio.sleep(self.rng.expovariate(1 / 30))
        self.state.add_node(NODE)

    async def meddle(self) -> None:
        if self.state.find("nodes", NODE):
            taken = {"labels": {LABEL: None}, "annotations": {VERSION_ANNOTATION: "wrong"}}
            self.state.patch("nodes", NODE, {"metadata": taken}, STRATEGIC_PATCH)

    async def slow_down(self) -> None:
        self.api.latency_s = self.rng.choice([0.0, 0.0, 0.5, 3.0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.timeout(60)
@jumping
async def test_after_a_day_of_flapping_everything_is_as_it_should_be(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Outages, compactions, faults, changes: never a wrong release, few requests, no growth, and right in the end."""
    caplog.set_level("CRITICAL", logger="agent")  # pytest keeps every record, and with it the errors
    state = double_cluster.Cluster(history_limit=1000)
    state.add_node(NODE)
    state.put_secret(b"v1")
    api = MemoryApi(state)
    node = SmallNode(state, api, seed)
    chaos = Chaos(state, api, random.Random(seed))
    async with running(node.side.run(), node.run()):
        await chaos.run(8 * HOUR_S)
        tasks, living = len(asyncio.all_tasks()), alive("agent")
        api.requests.clear()
        await chaos.run(15 * HOUR_S)
        asked = len(api.requests)
        await asyncio.sleep(HOUR_S)
        assert tasks == len(asyncio.all_tasks())
        assert alive("agent") < living + 200
        assert 2 == api.watching()
        assert len(node.side._recorder._waiting) <= MAX_WAITING
        assert len(node.side._recorder._series) <= MAX_SERIES

        secret = state.find("secrets", SECRET, "d8-system")
        assert (b"v%d" % chaos.versions if secret else None) == node.applied
        shown = state.node(NODE)
        (condition,) = [each for each in shown["status"]["conditions"] if each["type"] == CONDITION]
        assert ("default", f"v{chaos.versions}" if secret else "unknown", "True") == (
            shown["metadata"]["labels"][LABEL],
            shown["metadata"]["annotations"][VERSION_ANNOTATION],
            condition["status"],
        )
        assert (None, False) == (node.side.facts()["problem"], node.side.facts()["report_pending"])
    assert node.releases > 0
    assert asked < 15 * 60 * 4, "more than four requests a minute"
