"""What goes wrong on purpose: faults that answer requests, and strikes that befall running watches. Pure values."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.apidouble.cluster import Watch
from tests.apidouble.resources import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer with this code; the body is a Status that fits it unless one is given."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """Take the request and never answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the TCP connection: before an answer, or in a running watch."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer 200 with something that is not JSON."""

    body: bytes = b"<html><body>It works!</body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """Do what is asked, and answer with half of the JSON; `closes`: a connection that ends before its length."""

    closes: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """End the watch's TCP connection in the middle of an object."""


@dataclass(frozen=True, slots=True)
class End:
    """End the watch as its timeout does."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Keep the watch's connection open and say no more, not even bookmarks: a half-open connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent:
    """Send an ERROR event with a Status of this code, then end the watch."""

    code: int = 410


@dataclass(frozen=True, slots=True)
class Line:
    """Send these bytes as a line."""

    body: bytes = b"garbage that is not JSON\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drip:
    """Send everything that follows in small chunks."""

    chunk_bytes: int = 100
    pause_s: float = 0.0


Strike = Cut | End | Freeze | ErrorEvent | Line | Drip | Reset
Fault = Answer | Hang | Reset | Garbage | Truncated | Strike


def too_many_requests(retry_after_s: int = 1) -> Answer:
    """Return the 429 of priority and fairness, whose body is plain text."""
    headers = {"Retry-After": str(retry_after_s), "Content-Type": "text/plain; charset=utf-8"}
    return Answer(code=429, headers=headers, body=b"Too many requests, please try again later.\n")


@dataclass(slots=True, kw_only=True, eq=False)
class Programmed:
    """A fault with what it befalls: `remaining` times, or until it is removed."""

    fault: Fault
    matches: Callable[[Call], bool]
    remaining: int | None
    hits: int = 0


class Faults:
    """The faults of one double. A strike that is programmed befalls the watch after its initial events."""

    def __init__(self, watches: Callable[[], Iterable[Watch]]) -> None:
        """`watches` returns those that run."""
        self._watches = watches
        self._programmed: list[Programmed] = []

    def add(
        self,
        fault: Fault,
        *,
        verb: str | None = None,
        resource: str | None = None,
        when: Callable[[Call], bool] = lambda _: True,
        times: int | None = None,
    ) -> Programmed:
        """Program a fault for a verb, a resource (``nodes/status``) and a condition; the oldest that matches wins."""

        def matches(call: Call) -> bool:
            return verb in {None, call.verb} and resource in {None, call.target} and when(call)

        programmed = Programmed(fault=fault, matches=matches, remaining=times)
        self._programmed.append(programmed)
        return programmed

    def remove(self, programmed: Programmed) -> None:
        """Take a fault back; one that is used up is gone already."""
        if programmed in self._programmed:
            self._programmed.remove(programmed)

    def clear(self) -> None:
        """Take all faults back."""
        self._programmed.clear()

    def take(self, call: Call) -> Fault | None:
        """Return the fault that befalls a request, and count it."""
        for programmed in self._programmed:
            if not programmed.matches(call):
                continue
            programmed.hits += 1
            if programmed.remaining is not None:
                programmed.remaining -= 1
                if programmed.remaining <= 0:
                    self._programmed.remove(programmed)
            return programmed.fault
        return None

    def strike(self, strike: Strike, *, resource: str | None = None) -> int:
        """Let something befall all running watches (of a resource), after what they have queued; return how many."""
        struck = [watch for watch in self._watches() if resource in {None, watch.resource.name}]
        for watch in struck:
            watch.queue.put_nowait(strike)
        return len(struck)
