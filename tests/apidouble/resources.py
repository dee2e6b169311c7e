"""The resources that the double serves, and how a request's path and query name them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource with those of its traits that clients can tell."""

    name: str
    kind: str
    short: str
    group: str = ""
    is_namespaced: bool = True
    #: PUT creates what is not there.
    puts_create: bool = False
    #: PUT without a resourceVersion overwrites whatever is there.
    puts_blindly: bool = True
    fields: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """What `apiVersion` says."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def qualified(self) -> str:
        """The name in messages: ``leases.coordination.k8s.io``."""
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def qualified_kind(self) -> str:
        """The kind in messages: ``Lease.coordination.k8s.io``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
RESOURCES = {
    resource.name: resource
    for resource in (
        Resource(name="namespaces", kind="Namespace", short="ns", is_namespaced=False, fields=("status.phase",)),
        Resource(name="nodes", kind="Node", short="no", is_namespaced=False, fields=("spec.unschedulable",)),
        Resource(name="secrets", kind="Secret", short="", fields=("type",)),
        Resource(
            name="events",
            kind="Event",
            short="ev",
            puts_create=True,
            fields=(*(f"involvedObject.{name}" for name in _INVOLVED), "reason", "reportingComponent", "type"),
        ),
        Resource(
            name="leases", kind="Lease", short="", group="coordination.k8s.io", puts_create=True, puts_blindly=False
        ),
        # Always empty: `kubectl describe node` lists the node's pods.
        Resource(name="pods", kind="Pod", short="po", fields=("spec.nodeName", "status.phase")),
    )
}
SUBRESOURCES = {"nodes": ("status",)}


class Term(NamedTuple):
    """One term of a field selector."""

    field: str
    value: str
    is_equal: bool


class Call(NamedTuple):
    """What a request asks for, as authorization, faults and records see it."""

    verb: str
    resource: str
    name: str = ""
    namespace: str = ""
    subresource: str = ""
    path: str = ""
    user_agent: str = ""

    @property
    def target(self) -> str:
        """The resource with its subresource: ``nodes/status``."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


_OF_A_NAME = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OF_ALL = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


def call_of(method: str, path: str, query: Mapping[str, str], user_agent: str) -> Call | None:
    """Return what the request asks for, or nothing when its path names no resource."""
    match path.strip("/").split("/"):
        case ["api", "v1", *rest] | ["apis", "coordination.k8s.io", "v1", *rest] if rest:
            group = path.strip("/").split("/")[1] if path.startswith("/apis") else ""
        case _:
            return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] in RESOURCES:
        namespace, rest = rest[1], rest[2:]
    resource = RESOURCES.get(rest[0])
    if resource is None or resource.group != group or len(rest) > 3:
        return None
    _, name, subresource = (*rest, "", "")[:3]
    if subresource and subresource not in SUBRESOURCES.get(resource.name, ()):
        return None
    verb = (_OF_A_NAME if name else _OF_ALL).get(method, "")
    if verb == "list":
        verb = "watch" if query.get("watch", "") in {"1", "t", "T", "true", "True", "TRUE"} else "list"
        # The real server authorizes a list or watch of one name as that name.
        exact = re.search(r"(?:^|,)metadata\.name==?([^,]*)", query.get("fieldSelector", ""))
        name = exact[1] if exact else ""
    return Call(verb, resource.name, name, namespace, subresource, path, user_agent) if verb else None


def terms(selector: str, resource: Resource) -> tuple[Term, ...]:
    """Return the terms of a field selector; raises ValueError for a field that the resource has no selector for."""
    found = []
    for text in filter(None, selector.split(",")):
        for operator in ("!=", "==", "="):
            field, is_there, value = text.partition(operator)
            if is_there:
                found.append(Term(field, value, operator != "!="))
                break
        else:
            raise ValueError(f"invalid selector: '{selector}'; can't understand '{text}'")
        if found[-1].field not in {"metadata.name", "metadata.namespace", *resource.fields}:
            raise ValueError(f"field label not supported: {found[-1].field}")
    return tuple(found)


def exact_name(selector: tuple[Term, ...]) -> str:
    """Return the only name that a field selector can match, if there is one."""
    return next((term.value for term in selector if term.field == "metadata.name" and term.is_equal), "")
