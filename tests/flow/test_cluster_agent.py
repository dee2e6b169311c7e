"""The real process against the API double: what happens in the cluster, on the node, and on the Node object.

The double serves TLS in a thread of the test; kubelet's kubeconfig lies below the agent's root.
"""

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.legacy import LABEL
from agent.node_status import CONDITION, SUMMARY_ANNOTATION, VERSION_ANNOTATION
from tests.apidouble.access import Rule
from tests.apidouble.cluster import SECRET, STRATEGIC_PATCH
from tests.apidouble.faults import End, Reset
from tests.support import configs, reader
from tests.support.agents import Agent
from tests.support.configs import CANARY
from tests.support.kube import NODE, Served, served
from tests.support.waiting import until

TOKEN = "t0ken-of-the-node-never-seen"
ROTATED = "r0tated-token-never-seen"

#: Everything that the agent may need, one name each: what the documentation tells to grant.
RIGHTS = (
    *(Rule(verb, "secrets", SECRET, "d8-system") for verb in ("get", "list", "watch")),
    *(Rule(verb, "nodes", NODE) for verb in ("list", "watch")),
    Rule("patch", "nodes/status", NODE),
    *(Rule(verb, "events", None, "default") for verb in ("create", "patch")),
)


class Site:
    """A cluster with one Node, and the agent that runs on it."""

    def __init__(self, api: Served, agent: Agent) -> None:
        self.api = api
        self.agent = agent
        self.kubeconfig = agent.root / "etc/kubernetes/kubelet.conf"

    def give_credentials(self, token: str = TOKEN) -> None:
        """Write kubelet's kubeconfig as kubelet does: whole, by a rename."""
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        new = self.api.double.write_kubeconfig(self.kubeconfig.with_name("new"), token=token)
        new.rename(self.kubeconfig)

    def start(self, *flags: str) -> None:
        """Start the agent with what all tests need; does not wait."""
        self.agent.start("--source", "kubernetes", *_defaults(flags), *flags)

    def run(self, *flags: str) -> None:
        """Start the agent and wait for its first pass."""
        self.agent.run("--source", "kubernetes", *_defaults(flags), *flags)

    def want(self, version: str | bytes, **annotations: str) -> None:
        """Put a config into the Secret."""
        document = configs.simple(version) if isinstance(version, str) else version
        self.api.do(lambda double: double.cluster.put_secret(document, annotations=annotations))

    def delete_secret(self) -> None:
        self.api.do(lambda double: double.cluster.delete_secret())

    def node(self, name: str = NODE) -> dict[str, Any]:
        return self.api.do(lambda double: double.cluster.node(name))

    def condition(self, name: str = NODE) -> dict[str, Any]:
        """The agent's condition, empty when there is none."""
        found = [each for each in self.node(name)["status"]["conditions"] if each["type"] == CONDITION]
        return dict(found[0]) if found else {}

    def shown(self, name: str = NODE) -> tuple[str | None, ...]:
        """Label, version, and status and reason of the condition on the Node."""
        metadata, condition = self.node(name)["metadata"], self.condition(name)
        version = metadata.get("annotations", {}).get(VERSION_ANNOTATION)
        return metadata["labels"].get(LABEL), version, condition.get("status"), condition.get("reason")

    def until_shown(self, *expected: str | None, name: str = NODE) -> None:
        """Wait until the Node says this."""
        started = time.monotonic()
        while self.shown(name) != expected:
            assert time.monotonic() - started < 8, f"the Node shows {self.shown(name)}; log:\n{self.agent.log}"
            time.sleep(0.01)

    def events(self) -> dict[str, str]:
        """Messages of all Events by reason."""
        return {event["reason"]: event["message"] for event in self.api.do(lambda double: double.cluster.events())}

    def until_told(self, reason: str) -> str:
        """Wait for an Event and return its message."""
        until(lambda: reason in self.events(), what=f"Event {reason}; log:\n{self.agent.log}")
        return self.events()[reason]

    def count(self) -> int:
        """How many requests there were."""
        return self.api.do(lambda double: len(double.requests))

    def status(self) -> dict[str, Any]:
        """What /status says."""
        return self.agent.ask("/status").json


def _defaults(flags: tuple[str, ...]) -> tuple[str, ...]:
    name = () if "--node-name" in flags else ("--node-name", NODE)
    return (*name, *(() if "--rollout-spread-s" in flags else ("--rollout-spread-s", "0")))


@pytest.fixture
def api() -> Iterator[Served]:
    """Serve a cluster with one Node, which lets in one token."""
    with served(tls=True) as api:
        api.double.tokens = {TOKEN: f"system:node:{NODE}"}
        api.do(lambda double: double.cluster.add_node(NODE, internal_ip="10.0.0.11"))
        yield api


@pytest.fixture
def site(api: Served, agent: Agent) -> Site:
    """Return a node with credentials, on which the agent is not running yet."""
    site = Site(api, agent)
    site.give_credentials()
    return site


@pytest.fixture
def running(site: Site) -> Site:
    """Return a node on which the agent has put version v1 in place and said so."""
    site.want("v1")
    site.run()
    site.until_shown("default", "v1", "True", "InPlace")
    site.until_told("RegistryConfigApplied")
    return site


# The Secret is followed, and the Node says so.


def test_a_secret_that_is_created_is_followed_to_the_node_object(site: Site) -> None:
    """From nothing to files, label, annotation, condition and Event."""
    site.run()
    site.until_shown("default", "unknown", "True", "NotConfigured")
    site.want("v1")
    site.agent.until_has("v1")
    site.until_shown("default", "v1", "True", "InPlace")
    assert "mode Direct, version v1 is in place: r0.test" in site.until_told("RegistryConfigApplied")
    summary = json.loads(site.node()["metadata"]["annotations"][SUMMARY_ANNOTATION])
    assert ("v1", "v1", "live", {"total": 1, "inPlace": 1}) == tuple(
        summary[key] for key in ("desired", "applied", "origin", "hosts")
    )


def test_a_change_is_followed(running: Site) -> None:
    """Without any request but the one that says so."""
    before = running.count()
    running.want("v2")
    running.agent.until_has("v2")
    running.until_shown("default", "v2", "True", "InPlace")
    running.agent.until_idle()
    verbs = running.api.do(lambda double: [request.verb for request in double.requests[before:]])
    assert {"patch": 1, "create": 1} == {verb: verbs.count(verb) for verb in verbs}


def test_an_idle_agent_asks_nothing(running: Site) -> None:
    """No polling: two open watches, and silence."""
    running.agent.until_idle()
    before = running.count()
    running.agent.until_idle()
    assert before == running.count()
    assert 2 == running.api.do(lambda double: double.watching())


def test_a_wrong_config_is_refused_and_the_last_good_one_stays(running: Site) -> None:
    """The condition names the field, the version is still true, and correcting the Secret corrects everything."""
    running.want(configs.config({}, version="broken"))
    running.until_shown("default", "v1", "False", "ConfigInvalid")
    assert "hosts: must have at least one entry" in running.condition()["message"]
    assert "hosts: must have at least one entry" in running.until_told("ConfigInvalid")
    assert running.agent.has("v1")
    running.want("v2")
    running.until_shown("default", "v2", "True", "InPlace")


def test_a_secret_without_its_key_is_refused(running: Site) -> None:
    """It is not absent: the node keeps what it has."""
    metadata = {"name": SECRET, "namespace": "d8-system"}
    secret = {"metadata": metadata, "type": "Opaque", "data": {"other": "djE="}}
    running.api.do(lambda double: double.cluster.update("secrets", SECRET, secret, namespace="d8-system"))
    running.until_shown("default", "v1", "False", "ConfigInvalid")
    assert "data.config: is missing from the Secret" in running.condition()["message"]
    assert running.agent.has("v1")


def test_a_secret_that_is_deleted_releases_the_node(running: Site) -> None:
    """After the settle time and a second look; the version is unknown then, as the contract wants it."""
    running.delete_secret()
    running.until_shown("default", "unknown", "True", "NotConfigured")
    assert not (running.agent.node.registry / "r0.test").exists()
    assert [] == reader.state(running.agent.root)
    assert "the desired config is gone" in running.until_told("RegistryConfigReleased")
    assert 1 == running.api.do(lambda double: double.count("get", "secrets"))


def test_a_secret_that_is_replaced_within_the_settle_time_never_releases_the_node(site: Site) -> None:
    """Deleted and created again, as some tools do it: the node goes from one config to the next."""
    site.want("v1")
    site.run("--absent-settle-s", "30")
    site.until_shown("default", "v1", "True", "InPlace")
    site.delete_secret()
    site.until_shown("default", "v1", "True", "ConfirmingDeletion")
    assert site.agent.has("v1")
    site.want("v2")
    site.until_shown("default", "v2", "True", "InPlace")
    assert site.agent.has("v2")
    assert "RegistryConfigReleased" not in site.events()


def test_drift_is_repaired_and_told(running: Site) -> None:
    """The Node object needs no word of it, people do."""
    running.agent.until_idle()
    shutil.rmtree(running.agent.node.registry / "r0.test")
    assert "drift repaired: r0.test" in running.until_told("RegistryConfigDriftRepaired")
    assert running.agent.has("v1")
    assert ("default", "v1", "True", "InPlace") == running.shown()


def test_legacy_configuration_blocks_the_version_until_it_goes_away(site: Site) -> None:
    """Label custom, no version, a condition that names file and key; and all of it flips when the file is removed."""
    legacy = site.agent.root / "etc/containerd/conf.d/mirrors.toml"
    legacy.parent.mkdir(parents=True)
    legacy.write_text('[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://m"]\n')
    site.want("v1")
    site.run()
    site.until_shown("custom", None, "False", "LegacyRegistryConfig")
    assert "/etc/containerd/conf.d/mirrors.toml" in site.condition()["message"]
    assert "registry" in site.until_told("LegacyRegistryConfig")
    assert site.agent.has("v1")
    legacy.unlink()
    site.until_shown("default", "v1", "True", "InPlace")
    legacy.write_text("[plugins.cri.registry]\n")
    site.until_shown("custom", None, "False", "LegacyRegistryConfig")


def test_an_observer_leaves_label_and_version_alone(site: Site) -> None:
    """Mode observe reports what it would do, and nothing that the cluster acts on."""
    site.want("v1")
    site.run("--mode", "observe")
    site.until_shown(None, None, "False", "WouldChange")
    assert not site.agent.node.registry.exists()
    site.want("v2")
    until(lambda: '"desired":"v2"' in site.node()["metadata"]["annotations"][SUMMARY_ANNOTATION], what="v2 seen")
    assert (None, None, "False", "WouldChange") == site.shown()


@pytest.mark.parametrize("key", ["labels", "annotations"])
def test_what_somebody_removes_from_the_node_is_put_back(running: Site, key: str) -> None:
    """A missing label blocks the whole cluster's switch."""
    names = {"labels": LABEL, "annotations": VERSION_ANNOTATION}
    patch = {"metadata": {key: {names[key]: None}}}
    running.api.do(lambda double: double.cluster.patch("nodes", NODE, patch, STRATEGIC_PATCH))
    running.until_shown("default", "v1", "True", "InPlace")


def test_a_node_that_is_registered_anew_is_told_everything(running: Site) -> None:
    """Another uid, and nothing of the old one's."""
    running.api.do(lambda double: double.cluster.delete_node(NODE))
    running.api.do(lambda double: double.cluster.add_node(NODE, uid="another"))
    running.until_shown("default", "v1", "True", "InPlace")


# A fleet's manners.


def test_a_change_waits_for_the_nodes_turn_and_an_urgent_one_does_not(site: Site) -> None:
    """The wait can be seen in /status; an annotation on the Secret ends it."""
    site.want("v1")
    site.run("--rollout-spread-s", "3600")
    site.agent.until_has("v1")
    assert site.status()["cluster"]["change_waits_s"] is None
    site.want("v2")
    until(lambda: site.status()["cluster"]["change_waits_s"] is not None, what="the wait")
    assert 1600 < site.status()["cluster"]["change_waits_s"] < 1700
    assert site.agent.has("v1")
    site.want("v2", **{"registry-agent.io/urgent": ""})
    site.agent.until_has("v2")
    site.until_shown("default", "v2", "True", "InPlace")
    assert site.status()["cluster"]["change_waits_s"] is None


# Names.


def test_the_environment_names_the_node(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The downward API of a pod; a Node that registers late is waited for, and said to be missing."""
    monkeypatch.setenv("NODE_NAME", "w7")
    site.want("v1")
    site.agent.run("--source", "kubernetes", "--rollout-spread-s", "0")
    site.agent.until_has("v1")
    problem = "there is no Node w7: set NODE_NAME or node_name if that is wrong; it may still register"
    until(lambda: site.status()["cluster"]["problem"] == problem, what="the problem")
    assert 1 == site.agent.log.count(problem)
    assert ("w7", True) == (site.status()["cluster"]["node"], site.status()["cluster"]["report_pending"])
    site.api.do(lambda double: double.cluster.add_node("w7"))
    site.until_shown("default", "v1", "True", "InPlace", name="w7")
    until(lambda: site.status()["cluster"]["problem"] is None, what="no problem")
    assert (None, None, None, None) == site.shown()
    site.until_told("RegistryConfigApplied")


# Outages and credentials.


def test_an_agent_without_the_api_converges_from_the_last_good_config(running: Site) -> None:
    """Started in an outage it repairs the node, says what it goes by, and goes on with the API when that is back."""
    agent = running.agent
    agent.end()
    running.api.down()
    shutil.rmtree(agent.node.registry / "r0.test")
    running.want("v2")
    running.start()
    agent.until_has("v1")
    until(lambda: agent.ask("/readyz").json.get("desired", {}).get("origin") == "last-good", what="the origin")
    ready = agent.ask("/readyz")
    assert (200, "LastGoodInPlace", "v1") == (ready.status, ready.json["reason"], ready.json["applied_version"])
    assert 0 < ready.json["desired"]["age_s"] < 60
    assert "cannot connect" in running.status()["cluster"]["api_error"]
    running.api.up()
    agent.until_has("v2")
    running.until_shown("default", "v2", "True", "InPlace")
    until(lambda: agent.ask("/readyz").json["desired"]["origin"] == "live", what="live")
    assert agent.ask("/readyz").json["desired"]["age_s"] < 10


def test_an_outage_in_between_is_survived(running: Site) -> None:
    """Connections are reset, the server is away, the Secret changes: one new watch, and no word of it on the Node."""
    running.api.down()
    running.want("v2")
    running.agent.until_idle()
    assert ("default", "v1", "True", "InPlace") == running.shown()
    running.api.up()
    running.agent.until_has("v2")
    running.until_shown("default", "v2", "True", "InPlace")
    assert 1 == running.api.do(lambda double: double.count("list", "secrets"))


def test_a_kubeconfig_that_comes_late_is_waited_for(site: Site) -> None:
    """The agent may be there before kubelet has registered its node."""
    site.want("v1")
    site.kubeconfig.unlink()
    site.run()
    ready = site.agent.ask("/readyz")
    assert (503, "CredentialsUnusable") == (ready.status, ready.json["reason"])
    assert f"kubeconfig {site.kubeconfig}: No such file or directory" in ready.json["message"]
    site.give_credentials()
    site.agent.until_has("v1")
    site.until_shown("default", "v1", "True", "InPlace")


def test_a_token_that_is_rotated_is_followed_without_a_restart(running: Site) -> None:
    """kubelet has written the new one by the time that the old one ends: not one request is refused."""
    running.api.do(lambda double: double.tokens.update({ROTATED: "system:node:w0"}))
    running.give_credentials(ROTATED)
    running.api.do(lambda double: double.tokens.pop(TOKEN))
    running.api.do(lambda double: double.faults.strike(End()))
    running.want("v2")
    running.agent.until_has("v2")
    running.until_shown("default", "v2", "True", "InPlace")
    assert 401 not in running.api.do(lambda double: [request.code for request in double.requests])


def test_credentials_that_have_expired_and_come_back_need_no_restart(running: Site) -> None:
    """401 until kubelet has new ones."""
    running.api.do(lambda double: setattr(double, "tokens", {ROTATED: "system:node:w0"}))
    running.api.do(lambda double: double.faults.strike(Reset()))
    until(lambda: "renew the token" in (running.status()["cluster"]["api_error"] or ""), what="401")
    running.want("v2")
    running.give_credentials(ROTATED)
    running.agent.until_has("v2")
    running.until_shown("default", "v2", "True", "InPlace")


def test_a_client_certificate_is_as_good_as_a_token(site: Site) -> None:
    """kubelet's usual credentials: the API server knows the node by its certificate."""
    site.api.double.write_kubeconfig(site.kubeconfig, certificate_user="system:node:w0")
    site.api.do(lambda double: setattr(double, "rules", RIGHTS))
    site.want("v1")
    site.run()
    site.until_shown("default", "v1", "True", "InPlace")


def test_a_forbidden_secret_is_said_on_the_node_with_what_to_grant(site: Site) -> None:
    """Unknown: nobody can say whether the node is right; granting it is enough."""
    site.api.do(lambda double: setattr(double, "rules", [rule for rule in RIGHTS if rule.resource != "secrets"]))
    site.want("v1")
    site.run()
    site.until_shown("default", None, "Unknown", "ApiForbidden")
    message = site.condition()["message"]
    assert f"grant the verb list on secrets {SECRET} in namespace d8-system to the agent's account (RBAC)" in message
    site.api.do(lambda double: setattr(double, "rules", RIGHTS))
    site.agent.until_has("v1")
    site.until_shown("default", "v1", "True", "InPlace")


def test_the_agent_needs_no_more_rights_than_it_says(site: Site) -> None:
    """Everything it does, from the first report to the release, with one name each."""
    site.api.do(lambda double: setattr(double, "rules", RIGHTS))
    site.want("v1")
    site.run()
    site.until_shown("default", "v1", "True", "InPlace")
    site.delete_secret()
    site.until_shown("default", "unknown", "True", "NotConfigured")
    site.until_told("RegistryConfigReleased")
    assert 403 not in site.api.do(lambda double: [request.code for request in double.requests])


# Ends, and what is never told.


@pytest.mark.parametrize("is_down", [False, True])
def test_the_agent_ends_within_two_seconds(running: Site, *, is_down: bool) -> None:
    """With open watches, or in the middle of an outage; the server is told at once."""
    if is_down:
        running.api.down()
        running.want("v2")
    started = time.monotonic()
    assert 0 == running.agent.end(signal.SIGTERM)
    assert time.monotonic() - started < 2
    until(lambda: running.api.do(lambda double: double.watching()) == 0, what="no watch left")
    assert "Traceback" not in running.agent.log


def test_no_secret_is_told_anywhere(site: Site) -> None:
    """Neither a token nor a registry's password: log, endpoint, Node, Events."""
    site.want("v1")
    site.run("--log-level", "debug")
    site.until_shown("default", "v1", "True", "InPlace")
    site.want(configs.simple("v2").replace(b'"robot"', b'"robot\\u0007"'))
    site.until_shown("default", "v1", "False", "ConfigInvalid")
    site.api.do(lambda double: setattr(double, "tokens", {ROTATED: "system:node:w0"}))
    site.api.do(lambda double: double.faults.strike(Reset()))
    until(lambda: "renew the token" in (site.status()["cluster"]["api_error"] or ""), what="401")
    said = [site.agent.log, json.dumps(site.status()), json.dumps(site.node()), json.dumps(site.events())]
    said += [site.agent.ask(path).body.decode() for path in ("/readyz", "/healthz", "/metrics")]
    assert not re.search(f"{CANARY}|{TOKEN}", "\n".join(said))


def test_paths_of_the_kubeconfig_lie_below_the_root(site: Site, tmp_path: Path) -> None:
    """kubelet.conf names its certificate by an absolute path of the node."""
    pki = site.agent.root / "var/lib/kubelet/pki"
    pki.mkdir(parents=True)
    site.api.double.write_kubeconfig(tmp_path / "conf", certificate_user="system:node:w0", is_inline=False)
    for name in ("certificate-authority", "client-certificate", "client-key"):
        shutil.copy(tmp_path / f"conf.{name}.pem", pki / f"{name}.pem")
    text = (tmp_path / "conf").read_text().replace('"conf.', '"/var/lib/kubelet/pki/')
    site.kubeconfig.write_text(text)
    site.api.do(lambda double: setattr(double, "rules", RIGHTS))
    site.want("v1")
    site.run()
    site.until_shown("default", "v1", "True", "InPlace")
