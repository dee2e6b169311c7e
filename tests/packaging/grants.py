"""What the bindings of some manifests grant an account, as rules that the API double enforces."""

from collections.abc import Iterator

from tests.apidouble.access import Rule
from tests.packaging.manifests import Manifest, of_kind, one

_GROUPS = {"secrets": "", "nodes": "", "nodes/status": "", "events": "", "leases": "coordination.k8s.io"}


def rules(manifests: tuple[Manifest, ...], namespace: str, account: str = "registry-agent") -> tuple[Rule, ...]:
    """Return the rules; each verb of each resource and name is one."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    found: list[Rule] = []
    for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding"):
        assert [subject] == binding["subjects"], binding["metadata"]["name"]
        role = one(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        where = binding["metadata"].get("namespace")
        assert where == role["metadata"].get("namespace")
        found += _rules(role, where)
    return tuple(found)


def _rules(role: Manifest, namespace: str | None) -> Iterator[Rule]:
    for rule in role["rules"]:
        assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
        for resource in rule["resources"]:
            assert [_GROUPS[resource]] == rule["apiGroups"]
            for verb in rule["verbs"]:
                yield from (Rule(verb, resource, name, namespace) for name in rule.get("resourceNames", (None,)))
