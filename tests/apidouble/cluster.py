"""A cluster's state in memory: objects, their versions and histories, and those who watch. No HTTP, no tasks.

Behaves as kube-apiserver over etcd: one revision for everything, conflicts, no write without a change, finalizers,
`nodes` and `nodes/status` as two doors to one object; `admit` judges writes. Not covered: garbage collection,
managedFields and server-side apply, quotas, dropping of unknown fields, generation.
"""

import base64
import collections
import datetime as dt
import itertools
import json
import random
import uuid
from collections.abc import Callable, Mapping

from tests.apidouble import kubelet, patching, refusal, schema
from tests.apidouble.resources import RESOURCES, SUBRESOURCES, Resource, Term, exact_name
from tests.apidouble.stored import Change, Key, Object, Stored, Watch

__all__ = ["MERGE_PATCH", "NAMESPACES", "SECRET", "STRATEGIC_PATCH", "Change", "Cluster", "Stored", "Watch", "now"]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "d8-system")
SECRET = "registry-bashible-config"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_KEY_FIELDS = {"metadata.name", "metadata.namespace"}
_MANY = ""  # in the place of a name or namespace: all of them


class Cluster:
    """All objects. Verbs raise Refused; `name` and `namespace` are those of the URL."""

    def __init__(self, *, history_limit: int = 10_000) -> None:
        self.revision = 1
        self.on_change: Callable[[], None] = lambda: None
        #: Asked before anything is written: resource, new, old, subresource. Refuses by raising.
        self.admit: Callable[[Resource, Object, Object | None, str], None] = lambda *_: None
        self._objects: dict[str, dict[tuple[str, str], Stored]] = {name: {} for name in RESOURCES}
        self._history: dict[str, collections.deque[Change]] = {
            name: collections.deque(maxlen=history_limit) for name in RESOURCES
        }
        self._oldest = dict.fromkeys(RESOURCES, 0)
        self._watches: dict[Key, dict[Watch, None]] = collections.defaultdict(dict)
        for namespace in NAMESPACES:
            self.add_namespace(namespace)

    # What the API offers.

    def find(self, resource: str, name: str, namespace: str = "") -> Stored | None:
        """Return one object, if it is there."""
        return self._objects[resource].get((namespace, name))

    def get(self, resource: str, name: str, namespace: str = "") -> Stored:
        """Return one object."""
        stored = self.find(resource, name, namespace)
        if stored is None:
            raise refusal.not_found(RESOURCES[resource], name)
        return stored

    def select(self, resource: str, namespace: str = _MANY, terms: tuple[Term, ...] = ()) -> list[Stored]:
        """Return objects in the order of their keys (list), of one namespace or all."""
        found = self._objects[resource]
        name = exact_name(terms)
        if name and (namespace or not RESOURCES[resource].is_namespaced):
            one = self.find(resource, name, namespace)  # thousands may ask this at once
            return [one] if one and one.matches(terms) else []
        keys = [key for key in sorted(found) if namespace in {_MANY, key[0]}]
        return [found[key] for key in keys if found[key].matches(terms)]

    def create(self, resource: str, raw: Object, namespace: str = "", *, uid: str | None = None) -> Stored:
        """Create an object; its name may be generated, and its uid is unless a test says it."""
        kind = RESOURCES[resource]
        content = self._decoded(kind, raw, namespace)
        metadata = content["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        name = metadata.get("name", "")
        if metadata.get("resourceVersion") not in {None, "", "0"}:
            raise refusal.Refused(500, "", "resourceVersion should not be set on objects to be created")
        if kind.is_namespaced and not self.find("namespaces", namespace):
            raise refusal.not_found(RESOURCES["namespaces"], namespace)
        for field in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(field, None)
        metadata.update(uid=uid or str(uuid.uuid4()), creationTimestamp=now())
        self._validate(kind, content, None)
        self.admit(kind, content, None, "")
        if self.find(resource, name, namespace):
            raise refusal.already_exists(kind, name)
        return self._commit("ADDED", kind, content)

    def update(self, resource: str, name: str, raw: Object, *, namespace: str = "", subresource: str = "") -> Stored:
        """Replace an object (PUT); a resourceVersion or uid in it must be the present one."""
        kind = RESOURCES[resource]
        content = self._decoded(kind, raw, namespace)
        _check_name(content, name)
        uid = content["metadata"].get("uid")
        old = self.find(resource, name, namespace)
        if old is None and kind.puts_create and not uid:
            content["metadata"].pop("resourceVersion", None)
            return self.create(resource, content, namespace)
        if old is None:
            raise refusal.not_found(kind, name)
        if uid and uid != old.content["metadata"]["uid"]:
            raise refusal.conflict(kind, name, _precondition(uid, old))
        if content["metadata"].get("resourceVersion", "0") in {"", "0"} and not kind.puts_blindly:
            missing = refusal.Problem("metadata.resourceVersion", "Invalid value", "must be specified for an update")
            raise refusal.invalid(kind, name, [missing])
        return self._replace(old, content, subresource)

    def patch(
        self, resource: str, name: str, patch: Object, media_type: str, *, namespace: str = "", subresource: str = ""
    ) -> Stored:
        """Patch an object; a resourceVersion in the patch must be the present one, a uid may not differ."""
        kind = RESOURCES[resource]
        old = self.get(resource, name, namespace)
        try:
            if media_type == STRATEGIC_PATCH:
                raw = patching.merge_strategically(old.content, patch)
            else:
                raw = patching.merge(old.content, patch)
        except ValueError as err:
            raise refusal.Refused(500, "", str(err)) from err
        try:
            content = schema.decoded(kind, raw)
        except ValueError as err:
            problem = refusal.Problem("patch", "Invalid value", str(err), json.dumps(raw))
            raise refusal.invalid(None, "", [problem]) from err
        _check_namespace(content, namespace)
        _check_name(content, name)
        return self._replace(old, content, subresource)

    def delete(self, resource: str, name: str, *, namespace: str = "", options: Object | None = None) -> Stored | None:
        """Delete an object; return it if finalizers keep it, nothing if it is gone."""
        stored = self.get(resource, name, namespace)
        metadata = stored.content["metadata"]
        for field, wanted in ((options or {}).get("preconditions") or {}).items():
            if wanted != metadata.get(field):
                raise refusal.conflict(stored.resource, name, _precondition(wanted, stored, field))
        if not metadata.get("finalizers"):
            self._commit("DELETED", stored.resource, stored.content)
            return None
        if "deletionTimestamp" in metadata:
            return stored
        marked = {**metadata, "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
        return self._commit("MODIFIED", stored.resource, {**stored.content, "metadata": marked})

    def watch(
        self, resource: str, *, namespace: str = _MANY, terms: tuple[Term, ...] = (), since: int | None = None
    ) -> Watch:
        """Start a watch after a revision, or with everything there is; end it with `unwatch`."""
        exact = {term.field: term.value for term in terms if term.is_equal}
        places = (namespace or exact.get("metadata.namespace", _MANY), exact.get("metadata.name", _MANY))
        watch = Watch(RESOURCES[resource], (resource, *places), terms, since or 0)
        for change in self._after(resource, since) if since else map(_added, self.select(resource, namespace, terms)):
            if namespace in {_MANY, change.stored.namespace}:
                watch.offer(change)
        # From here on the key says what these would.
        watch.terms = tuple(term for term in terms if not (term.is_equal and term.field in _KEY_FIELDS))
        self._watches[watch.key][watch] = None
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch."""
        watches = self._watches[watch.key]
        watches.pop(watch, None)
        if not watches:
            del self._watches[watch.key]

    def compact(self) -> None:
        """Forget the past: a watch from any revision before this one is answered with 410."""
        for name, history in self._history.items():
            history.clear()
            self._oldest[name] = self.revision

    # What tests say and ask.

    def add_namespace(self, name: str) -> None:
        """Add a namespace if it is not there."""
        if not self.find("namespaces", name):
            labels = {"kubernetes.io/metadata.name": name}
            self.create("namespaces", {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}})

    def put_secret(
        self,
        document: bytes,
        *,
        annotations: Mapping[str, str] | None = None,
        name: str = SECRET,
        namespace: str = "d8-system",
        key: str = "config",
    ) -> Stored:
        """Create the Secret, or replace its data and annotations."""
        self.add_namespace(namespace)
        metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
        secret = {"metadata": metadata, "type": "Opaque", "data": {key: base64.b64encode(document).decode()}}
        if self.find("secrets", name, namespace):
            return self.update("secrets", name, secret, namespace=namespace)
        return self.create("secrets", secret, namespace)

    def delete_secret(self, *, name: str = SECRET, namespace: str = "d8-system") -> None:
        """Delete the Secret."""
        self.delete("secrets", name, namespace=namespace)

    def add_node(
        self,
        name: str,
        *,
        internal_ip: str = "10.0.0.11",
        uid: str | None = None,
        runtime_version: str = "containerd://1.7.24",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Stored:
        """Add a Node as a kubelet registers it; `uid` overrides the one it gets."""
        node = kubelet.node(name, internal_ip, runtime_version, now())
        node["metadata"]["labels"].update(labels or {})
        node["metadata"]["annotations"].update(annotations or {})
        return self.create("nodes", node, uid=uid)

    def delete_node(self, name: str) -> None:
        """Delete a Node."""
        self.delete("nodes", name)

    def node(self, name: str) -> Object:
        """Return a copy of a Node."""
        return self.get("nodes", name).copy()

    def events(self, namespace: str = _MANY) -> list[Object]:
        """Return copies of the Events."""
        return [stored.copy() for stored in self.select("events", namespace)]

    def lease(self, name: str, namespace: str = "d8-system") -> Object | None:
        """Return a copy of a Lease, if there is one."""
        stored = self.find("leases", name, namespace)
        return stored.copy() if stored else None

    # How it is done.

    def _after(self, resource: str, revision: int) -> list[Change]:
        if revision < self._oldest[resource]:
            raise refusal.expired(revision, self._oldest[resource])
        newest_first = reversed(self._history[resource])
        return list(itertools.takewhile(lambda change: change.stored.revision > revision, newest_first))[::-1]

    def _decoded(self, resource: Resource, raw: Object, namespace: str) -> Object:
        for field, expected in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if raw.get(field, expected) != expected:
                message = f"the {field} in the data ({raw[field]}) does not match the expected {field} ({expected})"
                raise refusal.bad_request(message)
        try:
            content = schema.decoded(resource, raw)
        except ValueError as err:
            version = f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}'
            raise refusal.bad_request(f"{version}: {err}") from err
        if resource.is_namespaced:
            content["metadata"].setdefault("namespace", namespace)
        else:
            content["metadata"].pop("namespace", None)
        _check_namespace(content, namespace)
        return content

    def _replace(self, old: Stored, content: Object, subresource: str) -> Stored:
        metadata, before = content["metadata"], old.content["metadata"]
        if metadata.get("resourceVersion", "0") not in {"", "0", str(old.revision)}:
            raise refusal.conflict(old.resource, old.name)
        metadata["uid"] = metadata.get("uid") or before["uid"]
        metadata["resourceVersion"] = before["resourceVersion"]
        for field in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(field, None)
            if field in before:
                metadata[field] = before[field]
        if old.resource.name in SUBRESOURCES:
            kept = "spec" if subresource == "status" else "status"
            content[kept] = old.content[kept]
        self._validate(old.resource, content, old.content)
        self.admit(old.resource, content, old.content, subresource)
        if content == old.content:
            return old
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            return self._commit("DELETED", old.resource, content)
        return self._commit("MODIFIED", old.resource, content)

    def _validate(self, resource: Resource, content: Object, old: Object | None) -> None:
        problems = schema.problems(resource, content, old)
        if problems:
            raise refusal.invalid(resource, content["metadata"].get("name", ""), problems)

    def _commit(self, kind: str, resource: Resource, content: Object) -> Stored:
        self.revision += 1
        metadata = {**content["metadata"], "resourceVersion": str(self.revision)}
        stored = Stored(resource, self.revision, {**content, "metadata": metadata})
        if kind == "DELETED":
            del self._objects[resource.name][stored.namespace, stored.name]
        else:
            self._objects[resource.name][stored.namespace, stored.name] = stored
        history = self._history[resource.name]
        if len(history) == history.maxlen:
            self._oldest[resource.name] = history[0].stored.revision
        change = Change(kind, stored)
        history.append(change)
        for namespace in {stored.namespace, _MANY}:
            for name in (stored.name, _MANY):
                for watch in self._watches.get((resource.name, namespace, name), ()):
                    watch.offer(change)
        self.on_change()
        return stored


def _added(stored: Stored) -> Change:
    return Change("ADDED", stored)


def now() -> str:
    """Return the present as a metav1.Time."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_name(content: Object, name: str) -> None:
    own = content["metadata"].get("name")
    if not own:
        raise refusal.bad_request("name must be provided")
    if own != name:
        raise refusal.bad_request(f"the name of the object ({own}) does not match the name on the URL ({name})")


def _check_namespace(content: Object, namespace: str) -> None:
    if content["metadata"].get("namespace", "") != namespace:
        raise refusal.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def _precondition(wanted: str, stored: Stored, field: str = "uid") -> str:
    word = "UID" if field == "uid" else "ResourceVersion"
    present = stored.content["metadata"].get(field)
    return f"Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {present}"
