"""Why a request is refused, as the Status object that a real kube-apiserver answers with."""

import json
from typing import Any, NamedTuple

from tests.apidouble.resources import Resource

_CAUSES = {
    "Invalid value": "FieldValueInvalid",
    "Required value": "FieldValueRequired",
    "Too long": "FieldValueTooLong",
    "Forbidden": "FieldValueForbidden",
}


class Problem(NamedTuple):
    """One field that validation does not accept; `value` is quoted where the kind of problem shows it."""

    field: str
    kind: str
    detail: str
    value: str | None = None

    @property
    def text(self) -> str:
        """The problem without its field, as a Status cause has it."""
        shown = "" if self.value is None else f": {json.dumps(self.value)}"
        return f"{self.kind}{shown}: {self.detail}" if self.detail else f"{self.kind}{shown}"


class Refused(Exception):
    """A Status with status Failure, raised anywhere below the HTTP handler."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, reason, message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    @property
    def status(self) -> dict[str, Any]:
        """The Status object."""
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}

    @property
    def body(self) -> bytes:
        """The Status object as bytes, with the line end of Go's encoder."""
        return json.dumps(self.status, separators=(",", ":")).encode() + b"\n"


def _details(resource: Resource, name: str, kind: str | None = None) -> dict[str, Any]:
    found = {"name": name, "group": resource.group, "kind": kind or resource.name}
    return {key: value for key, value in found.items() if value}


def not_found(resource: Resource, name: str) -> Refused:
    """404: no such object."""
    return Refused(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def no_such_path() -> Refused:
    """404: no such resource."""
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> Refused:
    """409: create of an object that is there."""
    return Refused(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: Resource, name: str, why: str = MODIFIED) -> Refused:
    """409: a resourceVersion or uid of the past."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refused(409, "Conflict", message, _details(resource, name))


def invalid(resource: Resource | None, name: str, problems: list[Problem]) -> Refused:
    """422: validation failed; a patch that cannot be decoded is of no resource."""
    texts = [f"{problem.field}: {problem.text}" for problem in problems]
    whole = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = resource.qualified_kind if resource else " "
    causes = [{"reason": _CAUSES[each.kind], "message": each.text, "field": each.field} for each in problems]
    details = _details(resource, name, resource.kind) if resource else {}
    return Refused(422, "Invalid", f'{kind} "{name}" is invalid: {whole}', {**details, "causes": causes})


def bad_request(message: str) -> Refused:
    """400: the request or its body cannot be understood."""
    return Refused(400, "BadRequest", message)


def unauthorized() -> Refused:
    """401: no or unknown credentials."""
    return Refused(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, resource: Resource, *, name: str, namespace: str, subresource: str) -> Refused:
    """403: known, and not allowed."""
    whole = f"{resource.name}/{subresource}" if subresource else resource.name
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    what = f'{resource.qualified} "{name}"' if name else resource.qualified
    rule = f'User "{user}" cannot {verb} resource "{whole}" in API group "{resource.group}" {where}'
    return Refused(403, "Forbidden", f"{what} is forbidden: {rule}", _details(resource, name))


def expired(revision: int, oldest: int) -> Refused:
    """410: the watch starts before what is remembered."""
    return Refused(410, "Expired", f"too old resource version: {revision} ({oldest})")


def unsupported_media_type() -> Refused:
    """415: a kind of patch, or of body, that is not understood."""
    kinds = ("application/merge-patch+json", "application/strategic-merge-patch+json")
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(kinds)}"
    return Refused(415, "UnsupportedMediaType", message)


_OF_A_CODE = {
    400: ("BadRequest", "the server rejected our request for an unknown reason"),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    404: ("NotFound", "the server could not find the requested resource"),
    409: ("Conflict", f"Operation cannot be fulfilled: {MODIFIED}"),
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    429: ("TooManyRequests", "Too many requests, please try again later."),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within the allotted duration"),
}


def of_code(code: int) -> Refused:
    """Return a Status for a programmed fault."""
    reason, message = _OF_A_CODE.get(code, ("", f"unknown failure {code}"))
    return Refused(code, reason, message)
