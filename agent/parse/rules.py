"""The rules about values: which documents the contract refuses, each with the path of its field.

A rule never quotes the value it refuses. What is accepted and refused follows the contract,
section 1; the extensions at the end of a mirror are ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from agent import address
from agent.errors import Problem
from agent.model import Capability, Scheme
from agent.parse import wire
from agent.parse.certificates import CaChecker, key_pair_problem
from agent.parse.encoding import canonical_base64
from agent.parse.go_regexp import RewriteChecker

MAX_HOSTS = 1000
MAX_VERSION_LENGTH = 256

#: Fields in PEM, where line breaks are part of the format.
_PEM_FIELDS = {"ca", "cert", "key"}

#: Unicode's control characters and lone surrogates; in PEM, tab and line breaks are allowed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_IN_PEM = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GO_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
MAX_DIAL_TIMEOUT_S = 24 * 3600

_Place = tuple[str | int, ...]


def problems(document: wire.Document) -> tuple[Problem, ...]:
    """Return every broken rule in document order; an empty tuple means accepted."""
    found = (*_texts(document, ()), *_top_level(document), *_hosts(document))
    return tuple(Problem(path=wire.path(place), rule=rule) for place, rule in found if rule is not None)


_Found = Iterator[tuple[_Place, str | None]]


def _texts(value: object, place: _Place) -> _Found:
    """Refuse control characters and lone surrogates in every string of the known fields."""
    if isinstance(value, str):
        yield place, _text_problem(value, is_pem=bool(place) and place[-1] in _PEM_FIELDS)
    for part, inner in wire.parts(value):
        if isinstance(part, str):  # a key of a map is a string of the document too
            yield (*place, part), _text_problem(part, is_pem=False)
        yield from _texts(inner, (*place, part))


def _text_problem(value: str, *, is_pem: bool) -> str | None:
    if (_CONTROL_IN_PEM if is_pem else _CONTROL).search(value):
        return "must not contain control characters or line breaks"
    return None


def _top_level(document: wire.Document) -> _Found:
    yield ("mode",), _blank(document.mode)
    yield ("version",), _blank(document.version)
    yield ("imagesBase",), _blank(document.images_base)
    if len(document.version) > MAX_VERSION_LENGTH:
        yield ("version",), f"must be at most {MAX_VERSION_LENGTH} characters long"
    if document.agent is not None:
        yield ("agent", "endpoint"), _blank(document.agent.endpoint)
    for index, endpoint in enumerate(document.proxy_endpoints or ()):
        yield ("proxyEndpoints", index), _blank(endpoint) or address.proxy_endpoint_problem(endpoint)


def _hosts(document: wire.Document) -> _Found:
    if not document.hosts:
        yield ("hosts",), "must have at least one entry"
    if len(document.hosts) > MAX_HOSTS:
        yield ("hosts",), f"must have at most {MAX_HOSTS} entries, has {len(document.hosts)}"
    certificates, rewrites = CaChecker(), RewriteChecker()
    for name, host in document.hosts.items():
        place = ("hosts", name)
        yield place, _blank(name) or address.host_key_problem(name)
        yield from _host(host, place)
        for index, mirror in enumerate(host.mirrors):
            mirror_place = (*place, "mirrors", index)
            yield from _mirror(mirror, mirror_place, certificates)
            yield from _rewrites(mirror, mirror_place, rewrites)
            yield from _extensions(mirror, mirror_place)


def _host(host: wire.Host, place: _Place) -> _Found:
    if not host.mirrors:
        yield (*place, "mirrors"), "must have at least one entry"
    seen: set[tuple[str, str]] = set()
    for index, mirror in enumerate(host.mirrors):
        endpoint = (mirror.scheme, mirror.host.strip("[]"))
        if endpoint in seen:
            yield (*place, "mirrors", index), "is a duplicate: scheme and host stand twice"
        seen.add(endpoint)
    if host.server is not None:
        yield (*place, "server"), address.server_url_problem(host.server)
        if not host.fallback:
            yield (*place, "fallback"), "must not be false beside `server`: choose one"


def _mirror(mirror: wire.Mirror, place: _Place, certificates: CaChecker) -> _Found:
    yield (*place, "host"), _blank(mirror.host) or address.mirror_host_problem(mirror.host)
    if mirror.scheme not in {scheme.value for scheme in Scheme}:
        yield (*place, "scheme"), _blank(mirror.scheme) or "must be exactly http or https, in lower case"
    if mirror.ca:
        yield (*place, "ca"), certificates.problem(mirror.ca)
    if mirror.auth is not None:
        yield from _auth(mirror.auth, (*place, "auth"))


def _rewrites(mirror: wire.Mirror, place: _Place, rewrites: RewriteChecker) -> _Found:
    for index, rule in enumerate(mirror.rewrites or ()):
        bad_pattern, bad_replacement = rewrites.problems(rule.pattern, rule.replacement)
        yield (*place, "rewrites", index, "from"), bad_pattern
        yield (*place, "rewrites", index, "to"), bad_replacement


def _auth(auth: wire.Auth, place: _Place) -> _Found:
    if auth.password and not auth.username:
        yield (*place, "password"), "is set, but `username` is not"
    if ":" in auth.username:
        yield (*place, "username"), "must not contain ':', which ends the user name in Basic authentication"
    if auth.auth:
        decoded = decode_auth(auth.auth)
        if decoded is None:
            yield (*place, "auth"), "must be base64 of user:password"
        else:
            yield (*place, "auth"), _text_problem(decoded, is_pem=False)


def decode_auth(encoded: str) -> str | None:
    """Return ``user:password`` from its base64 form, or None when it is something else."""
    try:
        decoded = (canonical_base64(encoded) or b"").decode()
    except UnicodeDecodeError:
        return None
    return decoded if decoded.partition(":")[0] and ":" in decoded else None


def _extensions(mirror: wire.Mirror, place: _Place) -> _Found:
    if mirror.capabilities is not None:
        yield (*place, "capabilities"), _capabilities_problem(mirror.capabilities)
    if mirror.client is not None:
        is_https = mirror.scheme == Scheme.HTTPS.value
        rule = key_pair_problem(mirror.client.cert, mirror.client.key) if is_https else "needs scheme https"
        yield (*place, "client"), rule
    if mirror.dial_timeout is not None:
        yield (*place, "dialTimeout"), _duration_problem(mirror.dial_timeout)
    yield from _headers(mirror, (*place, "headers"))


def _capabilities_problem(words: list[str]) -> str | None:
    known = [capability.value for capability in Capability]
    if not words or len(set(words)) != len(words) or not set(words) <= set(known):
        return f"must be a list of different words out of {', '.join(known)}"
    return None


def _duration_problem(text: str) -> str | None:
    if text and not _GO_DURATION.sub("", text):
        seconds = sum(float(part["number"]) * _UNIT_S[part["unit"]] for part in _GO_DURATION.finditer(text))
        if 0 < seconds <= MAX_DIAL_TIMEOUT_S:
            return None
    return "must be a positive duration with a unit, such as 200ms or 5s, and at most 24h"


def _headers(mirror: wire.Mirror, place: _Place) -> _Found:
    headers = mirror.headers or {}
    has_auth = mirror.auth is not None and bool(mirror.auth.username or mirror.auth.auth)
    twice = {name for name, count in Counter(map(str.lower, headers)).items() if count > 1}
    for name, values in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield (*place, name), "is not a valid header name"
        if name.lower() in twice:
            yield (*place, name), "stands twice (header names ignore upper and lower case)"
        if name.lower() == "authorization" and has_auth:
            yield (*place, name), "must not stand beside `auth`: choose one"
        if not values or not all(_as_list(values)):
            yield (*place, name), "must not be empty"


def _as_list(values: str | list[str]) -> Iterable[str]:
    return (values,) if isinstance(values, str) else values


def _blank(value: str) -> str | None:
    return None if value.strip() else "must not be empty"
