"""Strict YAML: one document of plain maps, lists and scalars, and nothing that can surprise.

Refused: tags, anchors and aliases (so no alias bombs), duplicate keys, several documents, NUL,
non-UTF-8, deep nesting, more than `max_bytes`. The only module that opens PyYAML. PyYAML's error
texts quote the input, so they are never passed on: a line and a column only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from agent.errors import ConfigInvalid, Problem

MAX_DEPTH = 16

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Unquoted:
    """A plain scalar that YAML reads as a number, a date or the like, where text was meant."""


UNQUOTED = Unquoted()


def load(raw: bytes, *, max_bytes: int) -> Any:
    """Return the document as dict, list, str, bool, None and `UNQUOTED`.

    Raises ConfigInvalid naming the line; the text of the document is never part of the error.
    """
    text = _decode(raw, max_bytes=max_bytes)
    # Raised after the handler has ended: a chained YAMLError would carry the input along.
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER)).document()
    except _Refused as refused:
        rule = f"line {refused.line}: {refused.rule}"
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        rule = f"not valid YAML{where}"
    except yaml.YAMLError:
        rule = "not valid YAML: a character that YAML does not allow"
    raise ConfigInvalid((Problem(path="", rule=rule),))


def _decode(raw: bytes, *, max_bytes: int) -> str:
    if len(raw) > max_bytes:
        rule = f"the document has {len(raw)} bytes, more than the limit of {max_bytes}"
    elif b"\0" in raw:
        rule = "the document holds a NUL byte"
    else:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            rule = f"the document is not UTF-8 at byte {err.start}"
    raise ConfigInvalid((Problem(path="", rule=rule),))


class _Refused(Exception):
    def __init__(self, line: int, rule: str) -> None:
        super().__init__(rule)
        self.line = line
        self.rule = rule


class _Builder:
    """Builds values straight from parser events, so that nothing is resolved behind our back."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events

    def document(self) -> Any:
        next(self._events)  # StreamStart
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            raise _Refused(1, "the document is empty")
        value = self._value(next(self._events), depth=0)
        next(self._events)  # DocumentEnd
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Refused(_line(after), "a second YAML document begins here; one is expected")
        return value

    def _value(self, event: yaml.Event, *, depth: int) -> Any:
        if getattr(event, "anchor", None) is not None:
            raise _Refused(_line(event), "YAML anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise _Refused(_line(event), "YAML tags are not allowed")
        if depth > MAX_DEPTH:
            raise _Refused(_line(event), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth=depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(depth=depth)
        return _scalar(event)

    def _mapping(self, *, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise _Refused(_line(event), "a key must be a plain string, without tag or anchor")
            if event.value in mapping:
                raise _Refused(_line(event), "a key stands twice in one map")
            if event.value == "<<" and event.implicit[0]:
                raise _Refused(_line(event), "YAML merge keys are not allowed")
            mapping[event.value] = self._value(next(self._events), depth=depth + 1)
        return mapping

    def _sequence(self, *, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, depth=depth + 1))
        return values


def _scalar(event: Any) -> str | bool | Unquoted | None:
    if not event.implicit[0]:  # quoted or block style: text whatever it looks like
        return str(event.value)
    tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, (True, False))
    if tag == f"{_TAG}str":
        return str(event.value)
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return event.value.lower() in {"yes", "true", "on"}
    return UNQUOTED


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
