"""The real agent with exactly the rights that the manifests grant, and with their policies in force."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent import daemon, settings
from agent.approval import APPROVED, CHECKSUM, TAKEN, Granted, Waiting
from agent.daemon import Side
from agent.node_status import CONDITION, SUMMARY_ANNOTATION
from tests.apidouble import refusal
from tests.apidouble.access import Rule
from tests.apidouble.cluster import MERGE_PATCH, SECRET
from tests.apidouble.resources import Resource
from tests.packaging import cel, grants
from tests.packaging.manifests import NAMESPACES, OVERLAYS, Manifest, container, overlay, user
from tests.support import configs
from tests.support.agents import Agent, agent_on
from tests.support.kube import Served, served
from tests.support.waiting import until, until_async

TOKEN = "t0ken-of-the-pod"
NODE = "w1"
LEASE = "registry-agent-restart-0"


def environment(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """Return the settings that a pod would have on the test's Node."""
    fields = {
        "spec.nodeName": NODE,
        "status.hostIP": "10.0.0.11",
        "status.podIP": "10.0.0.11",
        "metadata.namespace": user(manifests).split(":")[2],
    }
    found: dict[str, str] = {}
    for variable in container(manifests)["env"]:
        value = variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[variable["name"]] = value
    return found


class Site:
    """A cluster with one Node, which lets in the agent with what an overlay grants it."""

    def __init__(self, name: str, api: Served, root: Path) -> None:
        self.manifests = overlay(name)
        self.namespace = NAMESPACES[name]
        self.rules = grants.rules(self.manifests, self.namespace)
        self.environment = environment(self.manifests)
        self.api = api
        self.root = root
        self.kubeconfig = root / "etc/kubernetes/kubelet.conf"
        self.kubeconfig.parent.mkdir(parents=True)
        api.double.write_kubeconfig(self.kubeconfig, token=TOKEN)
        api.double.tokens = {TOKEN: user(self.manifests)}
        api.double.rules = self.rules
        api.do(lambda double: double.cluster.add_namespace(self.namespace))
        for node in (NODE, "w2"):
            api.do(lambda double, node=node: double.cluster.add_node(node))  # type: ignore[misc]
        self.enforce(self.manifests)

    def enforce(self, policies: tuple[Manifest, ...]) -> None:
        """Let the double judge every write as the policies do."""

        def admit(resource: Resource, new: dict[str, Any], old: dict[str, Any] | None, subresource: str) -> None:
            who = {"user": user(self.manifests), "node": NODE, "subresource": subresource, "group": resource.group}
            refused = cel.refusals(policies, cel.request(resource.name, new, old, **who))
            if refused:
                raise refusal.Refused(403, "Forbidden", "; ".join(refused))

        self.api.do(lambda double: setattr(double.cluster, "admit", admit))

    @contextlib.asynccontextmanager
    async def side(self) -> AsyncIterator[Side]:
        """Run the agent's cluster side as the pod's settings have it."""
        flags = {"root": str(self.root), "rollout_spread_s": "0", "node_name": NODE}
        found = settings.load(flags, self.environment)
        async with daemon.joined(found, lambda _reason: None, lambda _verb, _resource, _code: None) as side:
            await side.read(is_confirming=False)
            yield side
        # A loop that ends sooner than its TLS connections leaves them open.
        await until_async(lambda: not self._connections(), what="the end of the connections")

    def _connections(self) -> list[Any]:
        found = psutil.Process().net_connections("tcp4")
        return [each for each in found if each.raddr and each.raddr.port == self.api.double.port]

    def annotate(self, annotations: dict[str, str | None]) -> None:
        """Write on the Node as Deckhouse does, whom no policy of ours concerns."""
        self.enforce(())
        patch = {"metadata": {"annotations": annotations}}
        self.api.do(lambda double: double.cluster.patch("nodes", NODE, patch, MERGE_PATCH))
        self.enforce(self.manifests)

    def annotations(self) -> dict[str, str]:
        """Return what is on the Node."""
        return dict(self.api.do(lambda double: double.cluster.node(NODE))["metadata"].get("annotations", {}))

    def has_asked(self, verb: str, resource: str) -> bool:
        return bool(self.api.do(lambda double: double.count(verb, resource)))

    def reason(self) -> str:
        """Return the reason of the agent's condition."""
        conditions = self.api.do(lambda double: double.cluster.node(NODE))["status"]["conditions"]
        return next((each["reason"] for each in conditions if each["type"] == CONDITION), "")

    def used(self) -> set[Rule]:
        """Return which rules the requests have needed; every request must have been allowed."""
        requests = self.api.do(lambda double: double.requests)
        assert [] == [each for each in requests if each.code in {401, 403}]
        return {rule for rule in self.rules for each in requests if _fits(rule, each)}


def _fits(rule: Rule, asked: Any) -> bool:
    scope = rule.name in {None, asked.name} and rule.namespace in {None, asked.namespace}
    return scope and (rule.verb, rule.resource) == (asked.verb, asked.resource)


@pytest.fixture(params=OVERLAYS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Return a site for each overlay in turn."""
    with served(tls=True) as api:
        yield Site(request.param, api, tmp_path / "node")


def follow(site: Site, agent: Agent) -> None:
    """Run the real process through a change, two repairs, and the deletion of the Secret."""

    def put(version: str) -> None:
        site.api.do(lambda double: double.cluster.put_secret(configs.simple(version), namespace=site.namespace))

    put("v1")
    flags = ("source", "node_name", "secret_namespace", "approval", "containerd", "rollout_spread_s")
    found = settings.load({"root": str(site.root), "rollout_spread_s": "0"}, site.environment).model_dump()
    found["node_name"] = NODE
    agent.run(*(word for flag in flags for word in (f"--{flag.replace('_', '-')}", str(found[flag]))))
    until(lambda: site.reason() == "InPlace", what="the report")
    for _ in range(2):
        agent.until_idle()
        shutil.rmtree(agent.node.registry / "r0.test")
        agent.until_has("v1")
    until(lambda: site.has_asked("patch", "events"), what="the counted Event")
    put("v2")
    until(lambda: '"applied":"v2"' in site.annotations().get(SUMMARY_ANNOTATION, ""), what="v2")
    site.api.do(lambda double: double.cluster.delete_secret(namespace=site.namespace))
    until(lambda: site.reason() == "NotConfigured", what="the release")
    assert 0 == agent.end()


async def wait_for_a_lease(site: Site) -> None:
    """Take the Lease, keep it, give it back; and wait while another node has it."""
    async with site.side() as side:
        assert isinstance(await side.approval.ask(), Granted)
        await side.approval.keep()
        await side.approval.release()

        def take(double: Any) -> None:
            held = double.cluster.lease(LEASE, site.namespace)
            held["spec"]["holderIdentity"] = "w2"
            double.cluster.update("leases", LEASE, held, namespace=site.namespace)

        site.enforce(())
        site.api.do(take)
        site.enforce(site.manifests)
        assert isinstance(await side.approval.ask(), Waiting)
        await until_async(lambda: site.has_asked("watch", "leases"), what="the watch of the Lease")
        await side.approval.release()


async def be_approved_by_deckhouse(site: Site) -> None:
    """Ask, be approved, and let the hook see that the node is ready again."""
    site.annotate({CHECKSUM: "c1"})
    async with site.side() as side:
        assert isinstance(await side.approval.ask(), Waiting)
        assert {TAKEN: "c1"} == {key: value for key, value in site.annotations().items() if key in {TAKEN, CHECKSUM}}
        site.annotate({APPROVED: ""})
        assert isinstance(await side.approval.ask(), Granted)
        await side.approval.keep()
        await side.approval.release()
        site.annotate({CHECKSUM: "c1"})  # as bashible's idle run does
        await until_async(lambda: TAKEN not in site.annotations(), what="the end of the agent's part")


@pytest.mark.timeout(60)
def test_the_roles_grant_what_the_agent_asks_for_and_nothing_else(site: Site) -> None:
    """No verb is missing, and none is spare: every rule is used, and no request is refused."""
    with agent_on(site.root) as agent:
        follow(site, agent)
    approve = {"lease": wait_for_a_lease, "bashible": be_approved_by_deckhouse}
    asyncio.run(approve[site.environment["REGISTRY_AGENT_APPROVAL"]](site))
    assert set(site.rules) == site.used()
    assert len(set(site.rules)) == len(site.rules)
    assert {SECRET} == {rule.name for rule in site.rules if rule.resource == "secrets"}


def test_an_agent_that_says_it_is_on_another_node_is_refused(site: Site) -> None:
    """By the policies alone: the roles would let it. The reason is the one that alerts look for."""
    site.api.do(lambda double: double.cluster.put_secret(configs.simple(), namespace=site.namespace))
    with agent_on(site.root) as agent:
        agent.run("--source", "kubernetes", "--node-name", "w2", "--secret-namespace", site.namespace)
        until(lambda: bool(site.api.do(lambda double: double.count("patch", "nodes/status", code=403))), what="a 403")
        until(lambda: "and no other" in str(agent.ask("/status").json["cluster"]["problem"]), what="the problem")
    assert SUMMARY_ANNOTATION not in str(site.api.do(lambda double: double.cluster.node("w2")))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_variable_of_the_pod_is_a_setting(name: str) -> None:
    """With values that the agent accepts; the rest is Kubernetes'."""
    found = environment(overlay(name))
    known = {option.variable for option in settings.options()}
    ours = {variable for variable in found if variable.startswith(settings.ENVIRONMENT_PREFIX)}
    assert ours <= known
    assert found.keys() - ours <= {"NODE_NAME", "POD_IP", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}
    loaded = settings.load({}, found)
    assert (NAMESPACES[name], "manage", "/host") == (loaded.secret_namespace, loaded.containerd, str(loaded.root))
    assert NODE == daemon.node_name(loaded, found)
