"""Which objects of the API the agent works with, and what is asked of them. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CORE = "/api/v1"
COORDINATION = "/apis/coordination.k8s.io/v1"

#: Events about objects without a namespace live here, as those of kubelet do.
EVENTS_NAMESPACE = "default"


class Verb(Enum):
    """What RBAC calls the kinds of requests."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"


class Patch(Enum):
    """Patch types by their content type."""

    MERGE = "application/merge-patch+json"
    #: Merges lists by key: conditions by their type. Built-in kinds only.
    STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One named object."""

    plural: str
    name: str
    namespace: str | None = None
    api: str = CORE
    subresource: str = ""

    @property
    def collection(self) -> str:
        """Path of the collection that the object is in."""
        namespace = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{self.api}{namespace}/{self.plural}"

    @property
    def path(self) -> str:
        """Path of the object itself."""
        subresource = f"/{self.subresource}" if self.subresource else ""
        return f"{self.collection}/{self.name}{subresource}"

    @property
    def kind(self) -> str:
        """The name that RBAC rules use."""
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural

    def __str__(self) -> str:
        place = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.kind} {self.name}{place}"


def secret(namespace: str, name: str) -> Resource:
    """Return a Secret's place."""
    return Resource(plural="secrets", namespace=namespace, name=name)


def node(name: str) -> Resource:
    """Return a Node's place."""
    return Resource(plural="nodes", name=name)


def node_status(name: str) -> Resource:
    """Return a Node's status. A patch of it also takes labels and annotations, as kubelet's do."""
    return Resource(plural="nodes", name=name, subresource="status")


def event(name: str) -> Resource:
    """Return the place of an Event about a Node."""
    return Resource(plural="events", namespace=EVENTS_NAMESPACE, name=name)


def lease(namespace: str, name: str) -> Resource:
    """Return a Lease's place."""
    return Resource(plural="leases", namespace=namespace, name=name, api=COORDINATION)
