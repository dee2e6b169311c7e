"""What the real process tells over HTTP and in its log, and what it never tells anybody."""

import base64
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import __version__
from tests.support import agents, configs
from tests.support.agents import Agent, Answer, agent_on
from tests.support.waiting import until


@pytest.fixture(scope="module")
def port() -> int:
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Agent]:
    """Return an agent with a config in place, on its socket and on TCP."""
    with agent_on(tmp_path_factory.mktemp("running")) as agent:
        agent.want(configs.simple("v1", hosts=2))
        agent.run("--health-listen", f"127.0.0.1:{port}", "--log-level", "debug")
        agent.until_has("v1", hosts=2)
        agent.until_idle()
        yield agent


def test_healthz_is_well(running: Agent) -> None:
    """200 and JSON while passes end."""
    answer = running.ask("/healthz")
    assert (200, {"healthy": True}) == (answer.status, answer.json)


def test_readyz_says_that_the_node_is_ready(running: Agent) -> None:
    """200 with the reason and the version in place."""
    answer = running.ask("/readyz")
    assert answer.status == 200
    assert answer.json | {"desired": {}} == {
        "ready": True,
        "reason": "InPlace",
        "message": "registry.d is what the desired config says",
        "applied_version": "v1",
        "desired": {},
    }
    assert (answer.json["desired"]["origin"], answer.json["desired"]["age_s"] < 10) == ("live", True)


def test_readyz_says_why_not(agent: Agent) -> None:
    """503 with the reason and a message that names the field; 200 again once it is corrected."""
    agent.want(configs.config({}, version="broken"))
    agent.run()
    answer = agent.ask("/readyz")
    assert (503, "ConfigInvalid") == (answer.status, answer.json["reason"])
    assert "hosts: must have at least one entry" in answer.json["message"]
    agent.want(configs.simple("v1"))
    until(lambda: agent.ask("/readyz").status == 200, what="ready")


def test_status_has_the_whole_story(running: Agent) -> None:
    """The shape of /status: agent, verdict, desired, hosts with mirrors, steps and the last pass."""
    found = running.ask("/status").json
    assert found["agent"] == {"version": __version__, "pid": running.process.pid}
    assert found["desired"] == {
        "version": "v1",
        "mode": "Direct",
        "images_base": "registry.d8-system.svc:5001/system/deckhouse",
        "origin": "live",
    }
    assert ("manage", "configured", "v1", [], []) == tuple(
        found[key] for key in ("mode", "standing", "applied_version", "pending", "errors")
    )
    mirror = {
        "url": "https://v1.test:5000",
        "capabilities": ["pull", "resolve"],
        "ca": True,
        "client_certificate": False,
        "user": "robot",
        "rewrites": 0,
    }
    assert found["hosts"] == [
        {"host": name, "in_place": True, "taken_over": False, "server": None, "fallback": True, "mirrors": [mirror]}
        for name in ("r0.test", "r1.test")
    ]
    assert [step["name"] for step in found["steps"]] == ["desired", "legacy", "observe", "registry.d", "containerd"]
    assert set(found["last_pass"]) == {"number", "trigger", "finished_at", "duration_s", "next_in_s"}
    assert 270 <= found["last_pass"]["next_in_s"] <= 330


def test_metrics_are_what_prometheus_reads(running: Agent) -> None:
    """The exposition parses, and its values are those of the status."""
    answer = running.ask("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert values["registry_agent_ready",] == 1
    assert values["registry_agent_ready_reason", "InPlace"] == 1
    assert values["registry_agent_applied_version_info", "v1"] == 1
    assert values["registry_agent_build_info", __version__] == 1
    assert (values["registry_agent_hosts", "in_place"], values["registry_agent_hosts", "differs"]) == (2, 0)
    assert values["registry_agent_passes_total", "changed"] == 1
    assert values["registry_agent_passes_total", "failed"] == 0
    assert values["registry_agent_paths_changed_total",] == 4
    assert values["registry_agent_drift_repairs_total",] == 0
    number = running.ask("/status").json["last_pass"]["number"]
    assert values["registry_agent_pass_duration_seconds_count",] == number


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/status/", "GET", 404), ("/status", "POST", 405), ("/healthz", "DELETE", 405)],
)
def test_wrong_requests_get_json(running: Agent, path: str, method: str, status: int) -> None:
    """An unknown path and a wrong method are told apart, in JSON like everything else."""
    answer = running.ask(path, method)
    assert (status, ["error"]) == (answer.status, list(answer.json))
    assert answer.headers["Content-Type"].startswith("application/json")


def test_tcp_says_the_same_as_the_socket(running: Agent, port: int) -> None:
    """The probes of a pod come over loopback."""

    def ask(path: str) -> Answer:
        return agents.ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), path)

    assert (ask("/status").json["hosts"], ask("/healthz").body) == (
        running.ask("/status").json["hosts"],
        running.ask("/healthz").body,
    )


def test_only_loopback_is_listened_on(running: Agent, port: int) -> None:
    """/status names the node's registries: nobody outside the node may read it."""
    net = Path(f"/proc/{running.process.pid}/net")
    lines = [*(net / "tcp").read_text().splitlines(), *(net / "tcp6").read_text().splitlines()]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_the_log_says_what_changed(running: Agent) -> None:
    """One line for the change with its paths, one for the verdict."""
    lines = running.log.splitlines()
    paths = (
        "r0.test/https-v1.test:5000-ca.crt, r0.test/hosts.toml, r1.test/https-v1.test:5000-ca.crt, r1.test/hosts.toml"
    )
    assert f"INFO registry.d changed: {paths}" in lines
    assert "INFO ready (InPlace): version in place v1" in lines


def test_no_secret_is_told_anybody(running: Agent) -> None:
    """Neither the password nor its base64 form is in the log at debug, any answer, the arguments or the environment."""
    running.want(configs.simple("v1", hosts=2).replace(b'"r0.test"', b'"r0 .test"'))  # refused, and said why
    until(lambda: running.ask("/readyz").json["reason"] == "ConfigInvalid", what="the refusal")
    (running.node.registry / "r1.test" / "hosts.toml").write_text("# drift")
    until(lambda: "drift repaired" in running.log, what="the repair")
    running.want(configs.simple("v1", hosts=2))
    until(lambda: running.ask("/readyz").status == 200, what="ready again")
    process = Path(f"/proc/{running.process.pid}")
    told = [running.ask(path).body.decode() for path in ("/healthz", "/readyz", "/status", "/metrics", "/none")]
    told += [running.log, (process / "cmdline").read_text(), (process / "environ").read_text()]
    encoded = base64.b64encode(f"robot:{configs.CANARY}".encode()).decode()
    assert [configs.CANARY in text or encoded in text for text in told] == [False] * len(told)
    toml = (running.node.registry / "r0.test" / "hosts.toml").read_text()
    assert encoded in toml, "the canary has to be somewhere, or this test proves nothing"
