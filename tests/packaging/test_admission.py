"""The policies, expression by expression, over what the API server would ask.

Not by the API server itself, which no package holds: by Google's implementation of CEL.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from agent import approval
from agent.legacy import LABEL
from agent.node_status import CONDITION, SUMMARY_ANNOTATION, VERSION_ANNOTATION
from tests.packaging import cel
from tests.packaging.manifests import OVERLAYS, Manifest, overlay, user

NODE = "w1"
Object = dict[str, Any]
Change = Callable[[Object], object]


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    """Return each overlay in turn."""
    return overlay(request.param)


def node(name: str = NODE) -> Object:
    """Return a Node that the agent has reported on before."""
    return {
        "metadata": {
            "name": name,
            "uid": "u1",
            "resourceVersion": "7",
            "managedFields": [{"manager": "kubelet"}],
            "labels": {"kubernetes.io/hostname": name, "role": "worker", LABEL: "default"},
            "annotations": {VERSION_ANNOTATION: "v1", SUMMARY_ANNOTATION: "{}", approval.HOLD: "maintenance"},
        },
        "spec": {"podCIDR": "10.1.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {"cpu": "4", "memory": "16Gi"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.11"}],
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady"},
                {"type": CONDITION, "status": "True", "reason": "InPlace"},
            ],
            "nodeInfo": {"containerRuntimeVersion": "containerd://1.7.24"},
        },
    }


def judged(
    manifests: tuple[Manifest, ...],
    change: Change,
    *,
    old: Object | None = None,
    claim: str | None = NODE,
    who: str | None = None,
) -> list[str]:
    """Return why a change of a Node's status is refused."""
    before = old or node()
    after = copy.deepcopy(before)
    change(after)
    asked = cel.request("nodes", after, before, user=who or user(manifests), node=claim, subresource="status")
    return cel.refusals(manifests, asked)


def set_in(*path: str | int, value: Any) -> Change:
    """Return a change of one value."""

    def change(target: Any) -> None:
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return change


def remove(*path: str | int) -> Change:
    """Return the removal of one value."""

    def change(target: Any) -> None:
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


def report(target: Object) -> None:
    """Change all that the agent may."""
    target["metadata"]["labels"][LABEL] = "custom"
    del target["metadata"]["annotations"][VERSION_ANNOTATION]
    target["metadata"]["annotations"][SUMMARY_ANNOTATION] = '{"ready":false}'
    target["metadata"]["managedFields"].append({"manager": "registry-agent"})
    target["metadata"]["resourceVersion"] = "8"
    target["status"]["conditions"][1] = {"type": CONDITION, "status": "False", "reason": "LegacyRegistryConfig"}


def strip(target: Object) -> None:
    """Leave a Node as a kubelet has just registered it."""
    target["metadata"].pop("annotations")
    target["metadata"].pop("labels")
    target["status"].pop("conditions")


def test_an_agent_reports_on_its_own_node(manifests: tuple[Manifest, ...]) -> None:
    """Label, annotations and condition, all that it has."""
    assert [] == judged(manifests, report)


def test_an_agent_reports_on_a_node_that_has_nothing_yet(manifests: tuple[Manifest, ...]) -> None:
    """No labels, no annotations, no conditions."""
    bare = node()
    strip(bare)

    def change(target: Object) -> None:
        target["metadata"]["labels"] = {LABEL: "default"}
        target["metadata"]["annotations"] = {SUMMARY_ANNOTATION: "{}"}
        target["status"]["conditions"] = [{"type": CONDITION, "status": "True"}]

    assert [] == judged(manifests, change, old=bare)
    assert [] != judged(manifests, set_in("metadata", "labels", value={"role": "x"}), old=bare)


def test_an_agent_changes_no_other_node(manifests: tuple[Manifest, ...]) -> None:
    """Neither with the claim of another node, nor with none, nor with more than one."""
    refused = ["registry-agent may change the Node that its pod runs on, and no other"]
    assert refused == judged(manifests, report, old=node("w2"))
    assert refused == judged(manifests, report, claim="w2")
    assert refused == judged(manifests, report, claim=None)
    assert refused == judged(manifests, report, claim="")
    several = cel.request("nodes", node(), node(), user=user(manifests), node=NODE, subresource="status")
    several["request"]["userInfo"]["extra"][cel.NODE_CLAIM].append("w2")
    assert refused == cel.refusals(manifests, several)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (set_in("metadata", "labels", "role", value="master"), "label"),
        (set_in("metadata", "labels", "new", value=""), "label"),
        (remove("metadata", "labels", "role"), "label"),
        (remove("metadata", "labels"), "label"),
        (set_in("metadata", "annotations", approval.HOLD, value="false"), "annotations"),
        (remove("metadata", "annotations", approval.HOLD), "annotations"),
        (set_in("metadata", "annotations", approval.APPROVED, value=""), "annotations"),
        (set_in("metadata", "annotations", "update.node.deckhouse.io/disruption-approved", value=""), "annotations"),
        (set_in("metadata", "annotations", "registry.deckhouse.io/versions", value="v1"), "annotations"),
        (set_in("metadata", "finalizers", value=["a.b/c"]), "finalizers"),
        (set_in("metadata", "ownerReferences", value=[{"kind": "Pod", "name": "p"}]), "owners"),
        (set_in("spec", "unschedulable", value=True), "spec"),
        (set_in("spec", "taints", value=[]), "spec"),
        (set_in("status", "capacity", "cpu", value="400"), "status"),
        (set_in("status", "addresses", 0, "address", value="10.0.0.12"), "status"),
        (set_in("status", "images", value=[]), "status"),
        (remove("status", "nodeInfo"), "status"),
        (set_in("status", "conditions", 0, "status", value="False"), "status"),
        (set_in("status", "conditions", value=[]), "status"),
        (lambda each: each["status"]["conditions"].append({"type": "DiskPressure", "status": "True"}), "status"),
    ],
)
def test_an_agent_changes_nothing_else_of_its_node(manifests: tuple[Manifest, ...], change: Change, word: str) -> None:
    """Each of them alone, and beside a report that would be allowed."""
    (refused,) = judged(manifests, change)
    assert word in refused

    def both(target: Object) -> None:
        report(target)
        change(target)

    assert [refused] == judged(manifests, both)


def test_only_deckhouses_overlay_allows_its_protocol() -> None:
    """What the agent writes to be approved, and never the approval."""
    changes = {**approval.request({approval.CHECKSUM: "c"}), **approval.settle({approval.TAKEN: "c"})}
    assert {approval.WAITING, approval.CHECKSUM, approval.TAKEN} == set(changes)
    for key in changes:
        change = set_in("metadata", "annotations", key, value="")
        assert [] == judged(overlay("deckhouse"), change), key
        assert [] != judged(overlay("vanilla"), change), key


def test_others_are_none_of_the_policies_business(manifests: tuple[Manifest, ...]) -> None:
    """kubelet, people, and an account of the same name elsewhere."""
    for who in ("system:node:w1", "admin", "system:serviceaccount:default:registry-agent"):
        assert [] == judged(manifests, set_in("spec", "unschedulable", value=True), who=who, claim=None)


def event(of: str = NODE, **more: Any) -> Object:
    """Return an Event as the agent writes it."""
    return {
        "metadata": {"name": f"{of}.1", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": of, "uid": "u1"},
        "source": {"component": "registry-agent", "host": of},
        "count": 1,
        **more,
    }


def test_an_agent_tells_events_about_its_own_node(manifests: tuple[Manifest, ...]) -> None:
    """Created and counted; not about others, not in another's name, not those of others."""
    who = user(manifests)

    def told(new: Object, old: Object | None = None, claim: str | None = NODE) -> bool:
        return not cel.refusals(manifests, cel.request("events", new, old, user=who, node=claim))

    assert told(event())
    assert told(event(count=2), event())
    kubelets = event(source={"component": "kubelet", "host": NODE})
    for new, old in (
        (event("w2"), None),
        (event(involvedObject={"kind": "Pod", "name": NODE}), None),
        (event(source={"component": "kubelet"}), None),
        (kubelets, kubelets),
        (event(), kubelets),
        (event(), event("w2")),
    ):
        assert not told(new, old), (new, old)
    assert not told(event(), claim=None)
    assert not told(event(), claim="w2")


def lease(holder: str, name: str = "registry-agent-restart-0", owners: tuple[str, ...] = ()) -> Object:
    """Return a Lease as the agent writes it."""
    references = [{"apiVersion": "v1", "kind": "Node", "name": owner, "uid": "u"} for owner in owners]
    metadata = {"name": name, "namespace": "registry-agent", "ownerReferences": references}
    return {"metadata": metadata, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 120}}


@pytest.mark.parametrize(
    ("new", "old", "is_allowed"),
    [
        (lease(NODE, owners=(NODE,)), None, True),
        (lease(NODE, owners=(NODE,)), lease(""), True),
        (lease(NODE), lease("dead"), True),
        (lease(NODE), lease(NODE), True),
        (lease(""), lease(NODE, owners=(NODE,)), True),
        (lease("w2"), None, False),
        (lease("w2"), lease(NODE), False),
        (lease(""), lease("w2"), False),
        (lease(""), None, False),
        (lease(NODE, owners=("w2",)), None, False),
        (lease(NODE, name="registry-agent-restart-x"), None, False),
        (lease(NODE, name="kube-controller-manager"), lease("", name="kube-controller-manager"), False),
    ],
)
def test_an_agent_takes_a_lease_for_its_own_node_and_gives_back_its_own(
    new: Object, old: Object | None, *, is_allowed: bool
) -> None:
    """Where Leases are used at all."""
    manifests = overlay("vanilla")
    asked = cel.request("leases", new, old, user=user(manifests), node=NODE, group="coordination.k8s.io")
    assert is_allowed is (cel.refusals(manifests, asked) == [])
    stranger = cel.request("leases", new, old, user=user(manifests), node=None, group="coordination.k8s.io")
    assert [] != cel.refusals(manifests, stranger)
