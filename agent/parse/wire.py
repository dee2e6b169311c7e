"""The document's shape on the wire: names, types, what is required. The only door to pydantic here.

Rules about values live in `agent.parse.rules`. Extra keys are allowed and listed by name, because
newer controllers add fields. pydantic's own errors quote the input, so only their kind and their
place are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from agent.errors import ConfigInvalid, Problem

MAX_NAME_SHOWN = 128

_LOOKS_LIKE_A_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_NOT_PRINTABLE = re.compile(r"[^ -~]|\"")

#: Where keys of maps stand in a path, and what stands before: hosts.K, hosts.K.mirrors.N.headers.K.
_KEYED = {1: "hosts", 5: "headers"}
#: What pydantic puts behind the name of a header are its own words for the types it tried.
_HEADER_NAME = 5

_TEXT_TYPES = {"string_type": "must be text (in quotes, if it looks like a number or a date)"}
_RULES = _TEXT_TYPES | {
    "missing": "is required",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True, populate_by_name=False)


#: Null is Go's empty string; other writers than Deckhouse's may leave it so.
_Text = Annotated[StrictStr, BeforeValidator(lambda value: "" if value is None else value)]


class Auth(_Wire):
    """Credentials of a mirror: user and password, or `auth` as base64 of both."""

    username: _Text = ""
    password: _Text = Field(default="", repr=False)
    auth: _Text = Field(default="", repr=False)


class Rewrite(_Wire):
    """A repository path rewrite."""

    pattern: StrictStr = Field(alias="from")
    replacement: StrictStr = Field(alias="to")


class Client(_Wire):
    """Extension: client certificate and key, PEM."""

    cert: StrictStr
    key: StrictStr = Field(repr=False)


class Mirror(_Wire):
    """One mirror; everything after `rewrites` is our extension of the contract."""

    host: StrictStr
    scheme: StrictStr
    ca: StrictStr | None = None
    auth: Auth | None = None
    rewrites: list[Rewrite] | None = None
    capabilities: list[StrictStr] | None = None
    skip_verify: StrictBool = Field(default=False, alias="skipVerify")
    override_path: StrictBool = Field(default=False, alias="overridePath")
    client: Client | None = None
    headers: dict[str, StrictStr | list[StrictStr]] | None = Field(default=None, repr=False)
    dial_timeout: StrictStr | None = Field(default=None, alias="dialTimeout")


class Host(_Wire):
    """The mirrors of one registry host; `server` and `fallback` are our extension."""

    mirrors: list[Mirror]
    server: StrictStr | None = None
    fallback: StrictBool = True


class AgentBlock(_Wire):
    """Presence says that another agent owns registry.d. `layout` holds credentials: never kept."""

    endpoint: StrictStr


class Document(_Wire):
    """The whole document."""

    agent: AgentBlock | None = None
    mode: StrictStr
    version: StrictStr
    images_base: StrictStr = Field(alias="imagesBase")
    proxy_endpoints: list[StrictStr] | None = Field(default=None, alias="proxyEndpoints")
    hosts: dict[str, Host]


def read(loaded: Any) -> Document:
    """Return the typed document, or raise ConfigInvalid with the path of each field of wrong shape."""
    try:
        return Document.model_validate(loaded)
    except ValidationError as err:
        found = err.errors(include_url=False, include_input=False, include_context=False)
    # Outside the handler: a chained ValidationError would carry the input along.
    problems = (Problem(path=path(line["loc"]), rule=_RULES.get(line["type"], "has the wrong type")) for line in found)
    raise ConfigInvalid(tuple(dict.fromkeys(problems)))


def path(location: Sequence[str | int]) -> str:
    """Write a place in the document the way jq does: ``hosts["r.example.com"].mirrors[0].ca``."""
    text = ""
    for index, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif _KEYED.get(index) == location[index - 1]:
            text += f'["{_printable_host(part) if index == 1 else printable(part)}"]'
        elif index <= _HEADER_NAME or location[_HEADER_NAME - 1] != "headers":
            text += f".{printable(part)}" if text else printable(part)
    return text


def printable(name: str) -> str:
    """Return a foreign name if it looks like one; else it may be a secret (``{password:s3cret}``)."""
    return name if _LOOKS_LIKE_A_NAME.fullmatch(name) else "***"


def _printable_host(name: str) -> str:
    """Return a host key fit for a log: no user info, printable ASCII, bounded length."""
    name = f"***@{name.rpartition('@')[2]}" if "@" in name else name
    name = _NOT_PRINTABLE.sub("?", name)
    return name if len(name) <= MAX_NAME_SHOWN else f"{name[:MAX_NAME_SHOWN]}…"


def parts(value: object) -> Iterator[tuple[str | int, object]]:
    """Yield what a value consists of with its name on the wire; the agent block is opaque."""
    if isinstance(value, BaseModel) and not isinstance(value, AgentBlock):
        for name, field in type(value).model_fields.items():
            yield field.alias or name, getattr(value, name)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def unknown_fields(document: Document) -> tuple[str, ...]:
    """Return the paths of the keys that this version of the agent does not know."""
    return tuple(_unknown(document, ()))


def _unknown(value: object, location: tuple[str | int, ...]) -> Iterator[str]:
    if isinstance(value, BaseModel) and not isinstance(value, AgentBlock):
        yield from (path((*location, name)) for name in value.model_extra or {})
    for part, inner in parts(value):
        yield from _unknown(inner, (*location, part))
