"""What the real server does to an object between decoding and storing it: types, defaults, validation. Pure.

Covers what clients of these resources trip over: base64, times, labels, annotations, sizes, Event and Lease rules.
Unknown fields are kept, where the real server drops them.
"""

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.apidouble.refusal import Problem
from tests.apidouble.resources import Resource

Object = dict[str, Any]

MAX_SECRET_BYTES = 1024 * 1024
MAX_ANNOTATION_BYTES = 256 * 1024

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_PART = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = rf"({_NAME_PART})?"
_DATA_KEY = r"[-._a-zA-Z0-9]+"
_RULES = {
    _SUBDOMAIN: "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{}')",
    _NAME_PART: "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{}')",
    _LABEL_VALUE: "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '{}')",
    _DATA_KEY: "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
    "'KEY_NAME',  or 'key-name', regex used for validation is '{}')",
}


def decoded(resource: Resource, raw: Object) -> Object:
    """Return a copy of an object as the real server stores and returns it; raises ValueError in Go's words."""
    content: Object = json.loads(json.dumps(raw))
    for key in ("kind", "apiVersion"):
        content.pop(key, None)
    metadata = content.setdefault("metadata", {})
    for field in ("labels", "annotations"):
        _check_strings(metadata.get(field), f"ObjectMeta.metadata.{field}")
    _drop_empty(metadata, "labels", "annotations", "finalizers", "ownerReferences", "managedFields")
    _DECODERS.get(resource.name, _plain)(content)
    return content


def _check_strings(found: Any, field: str) -> None:
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"json: cannot unmarshal {_go_type(found)} into Go struct field {field} of type map")
    for value in (found or {}).values():
        if not isinstance(value, str):
            raise ValueError(f"json: cannot unmarshal {_go_type(value)} into Go struct field {field} of type string")  # noqa: TRY004


def _go_type(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "string")


def _drop_empty(parent: Object, *names: str) -> None:
    for name in names:
        if name in parent and not parent[name]:
            del parent[name]


def _plain(_: Object) -> None:
    """Take an object as it is."""


def _decode_secret(content: Object) -> None:
    given = content.pop("stringData", None) or {}
    _check_strings(given, "Secret.stringData")
    plain = {key: base64.b64encode(value.encode()).decode() for key, value in given.items()}
    data = content.pop("data", None) or {}
    content["data"] = {**{key: _canonical(value) for key, value in data.items()}, **plain}
    _drop_empty(content, "data")
    content["type"] = content.get("type") or "Opaque"


def _canonical(value: Any) -> str:
    """Return base64 as Go writes it: Go skips line ends, and nothing else, when it reads."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"json: cannot unmarshal {_go_type(value)} into Go struct field Secret.data of type []uint8")  # noqa: TRY004
    text = re.sub(r"[\r\n]", "", value)
    try:
        return base64.b64encode(binascii.a2b_base64(text.encode(), strict_mode=True)).decode()
    except ValueError:
        bad = re.search(r"[^A-Za-z0-9+/]", text)
        raise ValueError(f"illegal base64 data at input byte {bad.start() if bad else len(text)}") from None


def _time(value: Any) -> str:
    """Return a metav1.Time as Go writes it: UTC, whole seconds."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", value):
        at = dt.datetime.fromisoformat(re.sub(r"[.,]\d+", "", value))
        return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise ValueError(f'parsing time {json.dumps(value)} as "2006-01-02T15:04:05Z07:00": cannot parse')


def _micro_time(value: Any) -> str:
    """Return a metav1.MicroTime as Go writes it; Go reads it with six digits after the point only."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)", value):
        at = dt.datetime.fromisoformat(value)
        return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    layout = "2006-01-02T15:04:05.000000Z07:00"
    raise ValueError(f'parsing time {json.dumps(value)} as "{layout}": cannot parse ".000000"')


def _times(parent: Object, read: Callable[[Any], str], *names: str, shown: bool = False) -> None:
    for name in names:
        if parent.get(name) is not None:
            parent[name] = read(parent[name])
        elif shown:
            parent[name] = None  # Go's omitempty does not omit structs
        else:
            parent.pop(name, None)


def _decode_node(content: Object) -> None:
    content.setdefault("spec", {})
    status = content.setdefault("status", {})
    for condition in status.get("conditions") or ():
        _times(condition, _time, "lastHeartbeatTime", "lastTransitionTime", shown=True)
    _drop_empty(status, "conditions", "addresses")


def _decode_event(content: Object) -> None:
    content.setdefault("involvedObject", {})
    content.setdefault("source", {})
    for name in ("reportingComponent", "reportingInstance"):
        content.setdefault(name, "")
    _times(content, _time, "firstTimestamp", "lastTimestamp", shown=True)
    _times(content, _micro_time, "eventTime", shown=True)
    if content.get("series"):
        _times(content["series"], _micro_time, "lastObservedTime", shown=True)


def _decode_lease(content: Object) -> None:
    _times(content.setdefault("spec", {}), _micro_time, "acquireTime", "renewTime")


_DECODERS: dict[str, Callable[[Object], None]] = {
    "secrets": _decode_secret,
    "nodes": _decode_node,
    "events": _decode_event,
    "leases": _decode_lease,
}


def problems(resource: Resource, new: Object, old: Object | None) -> list[Problem]:
    """Return what validation does not accept in an object that is created, or that replaces `old`."""
    found = list(_metadata_problems(new["metadata"], has_free_name=resource.name == "events"))
    if old is not None and new["metadata"]["uid"] != old["metadata"]["uid"]:
        found.append(Problem("metadata.uid", "Invalid value", "field is immutable", new["metadata"]["uid"]))
    found += _VALIDATORS.get(resource.name, _accept)(new, old)
    return found


def _rule(field: str, value: str, pattern: str, max_length: int) -> Iterator[Problem]:
    if len(value) > max_length:
        yield Problem(field, "Invalid value", f"must be no more than {max_length} bytes", value)
    if not re.fullmatch(pattern, value):
        yield Problem(field, "Invalid value", _RULES[pattern].format(pattern), value)


def _qualified(field: str, value: str) -> Iterator[Problem]:
    prefix, slash, name = value.rpartition("/")
    if slash:
        yield from _rule(field, prefix, _SUBDOMAIN, 253)
    yield from _rule(field, name, _NAME_PART, 63)


def _metadata_problems(metadata: Object, *, has_free_name: bool) -> Iterator[Problem]:
    name = metadata.get("name", "")
    if not name:
        yield Problem("metadata.name", "Required value", "name or generateName is required")
    elif not has_free_name:
        yield from _rule("metadata.name", name, _SUBDOMAIN, 253)
    elif name in {".", ".."} or "/" in name or "%" in name:
        yield Problem("metadata.name", "Invalid value", "may not be '.' or '..' or contain '/' or '%'", name)
    for key, value in metadata.get("labels", {}).items():
        yield from _qualified("metadata.labels", key)
        yield from _rule("metadata.labels", value, _LABEL_VALUE, 63)
    annotations = metadata.get("annotations", {})
    for key in annotations:
        yield from _qualified("metadata.annotations", key.lower())
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATION_BYTES:
        yield Problem("metadata.annotations", "Too long", f"may not be more than {MAX_ANNOTATION_BYTES} bytes")
    for finalizer in metadata.get("finalizers", ()):
        yield from _qualified("metadata.finalizers", finalizer)


def _accept(_: Object, __: Object | None) -> Iterator[Problem]:
    yield from ()


def _secret_problems(new: Object, old: Object | None) -> Iterator[Problem]:
    data: dict[str, str] = new.get("data", {})
    for key in data:
        yield from _rule(f"data[{key}]", key, _DATA_KEY, 253)
    if sum(len(base64.b64decode(value)) for value in data.values()) > MAX_SECRET_BYTES:
        yield Problem("data", "Too long", f"may not be more than {MAX_SECRET_BYTES} bytes")
    if old is None:
        return
    if new["type"] != old["type"]:
        yield Problem("type", "Invalid value", "field is immutable", new["type"])
    if old.get("immutable"):
        frozen = "field is immutable when `immutable` is set"
        if data != old.get("data", {}):
            yield Problem("data", "Forbidden", frozen)
        if not new.get("immutable"):
            yield Problem("immutable", "Forbidden", frozen)


def _event_problems(new: Object, _: Object | None) -> Iterator[Problem]:
    own, involved = new["metadata"].get("namespace", ""), new["involvedObject"].get("namespace", "")
    is_of_new_kind = new["eventTime"] is not None
    fits = {"default", "kube-system"} if is_of_new_kind else {"default"}
    if own not in fits if involved == "" else not is_of_new_kind and own != involved:
        yield Problem("involvedObject.namespace", "Invalid value", "does not match event.namespace", involved)
    if is_of_new_kind:
        yield from _new_event_problems(new)


def _new_event_problems(new: Object) -> Iterator[Problem]:
    for name, max_length in (("reportingInstance", 128), ("action", 128), ("reason", 128)):
        if not new.get(name):
            yield Problem(name, "Required value", "")
        elif len(new[name].encode()) > max_length:
            yield Problem(name, "Invalid value", f"can have at most {max_length} characters", "")
    if not new["reportingComponent"]:
        yield Problem("reportingController", "Required value", "")
    yield from _qualified("reportingController", new["reportingComponent"])
    if len(new.get("message", "").encode()) > 1024:
        yield Problem("message", "Invalid value", "can have at most 1024 characters", "")


def _lease_problems(new: Object, _: Object | None) -> Iterator[Problem]:
    spec = new["spec"]
    if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
        yield Problem("spec.leaseDurationSeconds", "Invalid value", "must be greater than 0")
    if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
        yield Problem("spec.leaseTransitions", "Invalid value", "must be greater than or equal to 0")


_VALIDATORS: dict[str, Callable[[Object, Object | None], Iterator[Problem]]] = {
    "secrets": _secret_problems,
    "events": _event_problems,
    "leases": _lease_problems,
}
