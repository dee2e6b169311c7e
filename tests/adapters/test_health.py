"""The health endpoint's answers from a board that the test fills, and its sockets."""

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from agent.board import Board, Posted
from agent.desired import Origin
from agent.errors import ListenFailed, Obstructed
from agent.health import make_app, serving
from agent.metrics import Metrics
from agent.outcome import Mode, Outcome, Standing
from agent.parse.document import parse
from agent.plan import FixDirectory, Plan
from agent.report import Report, make_report
from agent.settings import Settings
from tests.support import configs

CONFIG = parse(configs.simple("v1", hosts=2)).config


class Clock:
    """Time that stands still until the test moves it."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


class Endpoint:
    """A board, its metrics and a client that asks."""

    def __init__(self) -> None:
        """A pass may take 120 s."""
        self.clock = Clock()
        self.board = Board(pass_timeout_s=120, clock=self.clock)
        self.metrics = Metrics()
        self.client: TestClient[Any, Any] = TestClient(TestServer(make_app(self.board, self.metrics, lambda: None)))

    async def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    await endpoint.client.start_server()
    yield endpoint
    await endpoint.client.close()


def report(**changes: Any) -> Report:
    """Return the report of a pass that found all in place, unless something is changed."""
    outcome: dict[str, Any] = {
        "mode": Mode.MANAGE,
        "standing": Standing.CONFIGURED,
        "steps": (),
        "config": CONFIG,
        "origin": Origin.LIVE,
        "is_in_place": True,
    }
    return make_report(Outcome(**{**outcome, **changes}))


def posted(found: Report, *, number: int = 1) -> Posted:
    """Return the report as the loop posts it."""
    return Posted(report=found, number=number, trigger="start", finished_at=1e9, duration_s=0.02, next_in_s=300)


FAILED = {
    "is_in_place": False,
    "errors": (Obstructed("something is in the way", remedy="move it"),),
    "plan": Plan(operations=(FixDirectory(host="r0.test"),)),
}


async def test_before_the_first_pass_the_node_is_starting(endpoint: Endpoint) -> None:
    """Alive, but not ready, and /status has the same few words."""
    assert await endpoint.ask("/healthz") == (200, {"healthy": True})
    status, body = await endpoint.ask("/readyz")
    assert (503, "Starting") == (status, body["reason"])
    status, body = await endpoint.ask("/status")
    assert (200, False, "Starting") == (status, body["ready"], body["reason"])


async def test_readyz_follows_the_last_report(endpoint: Endpoint) -> None:
    """200 when in place, 503 with reason and remedy when not."""
    endpoint.board.post(posted(report()))
    assert (await endpoint.ask("/readyz"))[0] == 200
    endpoint.board.post(posted(report(**FAILED)))
    message = "something is in the way; move it"
    expected = {
        "ready": False,
        "reason": "PathObstructed",
        "message": message,
        "applied_version": "unknown",
        "desired": {"origin": "live", "age_s": None},
    }
    assert await endpoint.ask("/readyz") == (503, expected)


async def test_a_pass_that_hangs_makes_the_agent_unhealthy(endpoint: Endpoint) -> None:
    """/healthz fails only while a pass runs longer than it may; readiness stays the last report's."""
    endpoint.board.post(posted(report()))
    endpoint.clock.now_s += 100_000  # no pass runs: however long ago the last one was
    assert (await endpoint.ask("/healthz"))[0] == 200
    endpoint.board.begin_pass()
    endpoint.clock.now_s += 120
    assert (await endpoint.ask("/healthz"))[0] == 200
    endpoint.clock.now_s += 1
    expected = {"healthy": False, "message": "a pass has been running for 121 s"}
    assert await endpoint.ask("/healthz") == (503, expected)
    assert (await endpoint.ask("/readyz"))[0] == 200
    endpoint.board.post(posted(report(), number=2))
    assert (await endpoint.ask("/healthz"))[0] == 200


async def test_nothing_is_served_but_get(endpoint: Endpoint) -> None:
    """405 names what is allowed, in JSON."""
    async with endpoint.client.post("/status", data=b"x") as answer:
        assert (405, {"error": "Method Not Allowed"}) == (answer.status, await answer.json())
        assert "GET" in answer.headers["Allow"]
    assert await endpoint.ask("/nothing") == (404, {"error": "Not Found"})


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return the exposition as Prometheus reads it."""
    return {
        (sample.name.removeprefix("registry_agent_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_metrics_follow_each_report() -> None:
    """Gauges are those of the last report, counters add up, and a reason that is over disappears."""
    metrics = Metrics()
    plan = Plan(operations=(FixDirectory(host="r0.test"), FixDirectory(host="r1.test")))
    for found in (report(plan=plan), report(plan=plan, is_drift=True), report(), report(**FAILED)):
        metrics.update(posted(found))
    said = values(metrics)
    assert {("passes_total", "changed"): 2, ("passes_total", "unchanged"): 1, ("passes_total", "failed"): 1} == {
        key: value for key, value in said.items() if key[0] == "passes_total"
    }
    assert (4, 1, 0) == tuple(said[name,] for name in ("paths_changed_total", "drift_repairs_total", "ready"))
    assert {("ready_reason", "PathObstructed"): 1} == {k: v for k, v in said.items() if k[0] == "ready_reason"}
    assert (1, 1) == (said["hosts", "in_place"], said["hosts", "differs"])
    assert (4, 1e9) == (said["pass_duration_seconds_count",], said["last_pass_timestamp_seconds",])


def test_counters_are_there_before_the_first_pass() -> None:
    """`rate` works from the first scrape: series begin at 0, not at their first increment."""
    found = values(Metrics())
    names = {("passes_total", result): 0 for result in ("unchanged", "changed", "failed")}
    assert names == {key: value for key, value in found.items() if key[0] == "passes_total"}


def test_metrics_do_not_share_anything() -> None:
    """Two agents in one process would not count together."""
    first, second = Metrics(), Metrics()
    first.update(posted(report()))
    assert (1, 0) == (values(first)["passes_total", "unchanged"], values(second)["passes_total", "unchanged"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings for a root with a run directory."""
    (tmp_path / "run/registry-agent").mkdir(parents=True)
    return Settings(root=tmp_path, health_listen="")


async def test_the_socket_is_0600_and_goes_when_serving_ends(settings: Settings) -> None:
    """Also where a killed agent has left one."""
    path = settings.on_node(settings.run_dir) / "agent.sock"
    path.write_text("left over")
    async with serving(make_app(Board(pass_timeout_s=1), Metrics(), lambda: None), settings):
        assert (0o600, True) == (stat.S_IMODE(path.stat().st_mode), path.is_socket())
        connector = aiohttp.UnixConnector(path=str(path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://localhost/healthz") as answer,
        ):
            assert json.loads(await answer.text()) == {"healthy": True}
    assert not path.exists()


async def test_an_address_that_is_not_the_nodes_is_refused_clearly(settings: Settings) -> None:
    """The message names address and cause; the unix socket does not stay behind."""
    elsewhere = settings.model_copy(update={"health_listen": "192.0.2.1:9781"})
    with pytest.raises(ListenFailed, match=r"192\.0\.2\.1:9781: Cannot assign"):
        async with serving(make_app(Board(pass_timeout_s=1), Metrics(), lambda: None), elsewhere):
            pass
    assert not (settings.on_node(settings.run_dir) / "agent.sock").exists()
