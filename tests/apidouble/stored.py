"""Objects and changes as they are kept and sent: serialised once, never changed; and the queue of one who watches."""

import asyncio
import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.apidouble.resources import Resource, Term

Object = dict[str, Any]
#: Resource, namespace, name; empty for all of them.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Stored:
    """One version of one object; `content` is never changed, and is without kind and apiVersion."""

    resource: Resource
    revision: int
    content: Object

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.content["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace, empty for what is in none."""
        return str(self.content["metadata"].get("namespace", ""))

    @functools.cached_property
    def as_listed(self) -> bytes:
        """Its JSON as an element of a list."""
        return json.dumps(self.content, separators=(",", ":"), ensure_ascii=False).encode()

    @functools.cached_property
    def body(self) -> bytes:
        """Its JSON as an answer."""
        head = f'{{"kind":"{self.resource.kind}","apiVersion":"{self.resource.api_version}",'
        return head.encode() + self.as_listed[1:]

    def copy(self) -> Object:
        """Return it as a client sees it, free to be changed."""
        return dict(json.loads(self.body))

    def matches(self, terms: Iterable[Term]) -> bool:
        """Tell whether a field selector accepts it."""
        return all((self._field(term.field) == term.value) is term.is_equal for term in terms)

    def _field(self, path: str) -> str:
        value: Any = self.content
        for part in path.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        return str(value).lower() if isinstance(value, bool) else str(value or "")


@dataclass(frozen=True)
class Change:
    """One event of a watch; serialised once for all who watch."""

    kind: str
    stored: Stored

    @functools.cached_property
    def line(self) -> bytes:
        """The event as one line of a watch."""
        return b'{"type":"%s","object":%s}\n' % (self.kind.encode(), self.stored.body)


class Watch:
    """The changes that one watch has still to send; other things may be put between them."""

    def __init__(self, resource: Resource, key: Key, terms: tuple[Term, ...], since: int) -> None:
        """`since` may be in the future, as after a restore of etcd: until then there is nothing to say."""
        self.resource = resource
        self.key = key
        self.terms = terms
        self.since = since
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def offer(self, change: Change) -> None:
        """Queue a change if it is new and the field selector accepts it."""
        if change.stored.revision > self.since and (not self.terms or change.stored.matches(self.terms)):
            self.queue.put_nowait(change)
