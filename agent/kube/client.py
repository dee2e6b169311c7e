"""A small Kubernetes client: named objects only, no discovery, no cache. A door to aiohttp.

Full clients cost 40 MB a node. Credentials are asked for before each request, so that a rotated
token, certificate or CA is used at once. Redirects are not followed: a token goes to one server.
No answer's body and no library's error text gets into an error, except the server's own message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import aiohttp

from agent import __version__, threads
from agent.errors import ApiFailed
from agent.kube.credentials import Access
from agent.kube.resources import Patch, Resource, Verb
from agent.kube.stream import Stream, cause, read_all

#: One request with its answer. Above the API server's own limit for a hanging write (34 s).
REQUEST_TIMEOUT_S = 35.0
CONNECT_TIMEOUT_S = 5.0

#: Above the minute that an exec plugin may take.
CREDENTIALS_TIMEOUT_S = 65.0

#: A server that asks for more patience than this is asked again anyway.
MAX_RETRY_AFTER_S = 120.0

#: A foreign message is cut here.
MAX_MESSAGE = 256

#: Seconds of silence until TCP asks whether the peer is there, between questions, and how often.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))

_OK, _CREATED, _UNAUTHORIZED, _NOT_FOUND = 200, 201, 401, 404

_T = TypeVar("_T")

_METHODS = {Verb.CREATE: "POST", Verb.UPDATE: "PUT", Verb.PATCH: "PATCH"}
Object = Mapping[str, Any]

#: Told about each answer: verb, resource kind, HTTP code (0 without one).
Observer = Callable[[str, str, int], None]


class Credentials(Protocol):
    """Where the server is and who we are; blocking, called from a thread."""

    def access(self, *, is_refused: bool) -> Access:
        """Return what the next request needs; raises CredentialsUnusable.

        `is_refused` says that the server did not accept the last one: nothing cached may be used.
        """

    def close(self) -> None:
        """End what still runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The answer to a list for one name: the object, if it is there, and where to watch from."""

    found: Object | None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    verb: Verb
    resource: Resource
    path: str
    params: Mapping[str, str] | None = None
    body: Object | None = None
    content_type: str = "application/json"

    def failed(self, reason: str, why: str, *, remedy: str = "the agent tries again by itself") -> ApiFailed:
        return ApiFailed(reason, f"{self.verb.value} {self.resource}: {why}", remedy=remedy)


class Client:
    """Use as an asynchronous context manager: one session for its whole life.

    Every method raises ApiFailed and CredentialsUnusable.
    """

    def __init__(self, credentials: Credentials, *, observe: Observer = lambda _verb, _kind, _code: None) -> None:
        """`observe` is called on the event loop."""
        self._credentials = credentials
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=8, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            # Uncompressed: what is compressed could inflate beyond any limit (aiohttp before 3.14.5).
            headers={"User-Agent": user_agent(), "Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._credentials.close()
        if self._session is not None:
            await self._session.close()

    async def get(self, resource: Resource) -> Object:
        """Return the object as etcd has it; ApiFailed with code 404 when there is none."""
        return await self._request(_Call(verb=Verb.GET, resource=resource, path=resource.path))

    async def list(self, resource: Resource) -> Listing:
        """Return the object, if there is one, and the version of the collection.

        Without a resourceVersion: the answer is never older than the question. For one name the API
        server reads one key (its registry turns the selector into a get), so this is cheap.
        """
        call = _Call(verb=Verb.LIST, resource=resource, path=resource.collection, params=_only(resource))
        answer = await self._request(call)
        items, metadata = answer.get("items"), answer.get("metadata")
        items = [] if items is None else items  # as Go writes an empty list
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        is_list = str(answer.get("kind")).endswith("List") and "items" in answer and isinstance(items, list)
        if not is_list or not isinstance(version, str) or not version:
            raise call.failed("ApiGarbled", "the answer is no list")
        named = [item for item in items if _name(item) == resource.name]
        return Listing(found=named[0] if named else None, version=version)

    async def patch(self, resource: Resource, body: Object, kind: Patch) -> Object:
        """Change an object and return it as it is then."""
        call = _Call(verb=Verb.PATCH, resource=resource, path=resource.path, body=body, content_type=kind.value)
        return await self._request(call)

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create an object; ApiFailed with code 409 when it exists."""
        return await self._request(_Call(verb=Verb.CREATE, resource=resource, path=resource.collection, body=body))

    async def update(self, resource: Resource, body: Object) -> Object:
        """Replace an object; ApiFailed with code 409 when its resourceVersion is not the present one."""
        return await self._request(_Call(verb=Verb.UPDATE, resource=resource, path=resource.path, body=body))

    @contextlib.asynccontextmanager
    async def watch(self, resource: Resource, version: str, *, timeout_s: int) -> AsyncIterator[Stream]:
        """Open a watch that begins after `version` and that the server ends after `timeout_s`."""
        params = {
            **_only(resource),
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_s),
        }
        call = _Call(verb=Verb.WATCH, resource=resource, path=resource.collection, params=params)
        response = await self._open(call)
        try:
            if response.status != _OK:
                status = _decode(await _answered(call, read_all(response.content)))
                raise _refusal(call, response.status, response.headers.get("Retry-After", ""), status or {})
            yield Stream(response.content, call.failed)
        finally:
            response.close()

    async def _request(self, call: _Call) -> Object:
        response = await self._open(call)
        try:
            body = await _answered(call, read_all(response.content))
        finally:
            response.release()
        answer = _decode(body)
        if response.status not in {_OK, _CREATED}:
            raise _refusal(call, response.status, response.headers.get("Retry-After", ""), answer or {})
        if answer is None:
            raise call.failed("ApiGarbled", "the answer is no JSON object")
        return answer

    async def _open(self, call: _Call) -> aiohttp.ClientResponse:
        """Send the request; one that is refused with 401 is sent again with fresh credentials."""
        access = await self._access(call, is_refused=False)
        response = await self._send(call, access)
        if response.status == _UNAUTHORIZED:
            fresh = await self._access(call, is_refused=True)
            if fresh != access:
                response.release()
                response = await self._send(call, fresh)
        return response

    async def _access(self, call: _Call, *, is_refused: bool) -> Access:
        try:
            async with asyncio.timeout(CREDENTIALS_TIMEOUT_S):
                return await threads.run("credentials", lambda: self._credentials.access(is_refused=is_refused))
        except TimeoutError:
            why = f"the credentials could not be read within {CREDENTIALS_TIMEOUT_S:.0f} s"
        raise call.failed("ApiUnreachable", why)

    async def _send(self, call: _Call, access: Access) -> aiohttp.ClientResponse:
        assert self._session is not None, "the client was not entered"
        headers = {"Authorization": access.authorization.reveal()} if access.authorization else {}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        request = self._session.request(
            _METHODS.get(call.verb, "GET"),
            access.server + call.path,
            params=call.params,
            data=None if call.body is None else json.dumps(call.body, separators=(",", ":")).encode(),
            headers=headers,
            ssl=access.tls or True,
            server_hostname=access.server_hostname,
            proxy=access.proxy,
            allow_redirects=False,
        )
        code = 0
        try:
            response = await _answered(call, request, at=f" ({access.server})")
            code = response.status
        finally:
            self._observe(call.verb.value, call.resource.kind, code)
        return response


async def _answered(call: _Call, action: Awaitable[_T], *, at: str = "") -> _T:
    """Await one exchange with the server; a library's exception becomes ApiFailed. `at` says where it is.

    Raised after the handler has ended: aiohttp's exceptions carry the request with its token.
    """
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            return await action
    except aiohttp.ServerTimeoutError:
        why = f"cannot connect within {CONNECT_TIMEOUT_S:.0f} s"
    except TimeoutError:
        why = f"no answer within {REQUEST_TIMEOUT_S:.0f} s"
    except (aiohttp.ClientError, OSError, ValueError) as err:
        why = cause(err)
    raise call.failed("ApiUnreachable", f"{why}{at}")


def user_agent() -> str:
    """Return the name in the API server's audit log."""
    return f"registry-agent/{__version__} ({platform.system().lower()}/{platform.machine()})"


def _only(resource: Resource) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={resource.name}"}


def _name(found: object) -> object:
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return metadata.get("name") if isinstance(metadata, dict) else None


def _decode(body: bytes) -> dict[str, Any] | None:
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _refusal(call: _Call, code: int, retry_after: str, status: Mapping[str, Any]) -> ApiFailed:
    """Make an error of a Status object, or of an answer that is none."""
    message = status.get("message")
    said = _printable(message)[:MAX_MESSAGE] if isinstance(message, str) else ""
    what, right = call.resource, _right(call)
    reasons = {
        401: ("ApiUnauthorized", "the credentials are not accepted: renew the token or the client certificate"),
        403: ("ApiForbidden", f"grant the verb {right} to the agent's account (RBAC)"),
        404: ("ApiNotFound", "it has gone, or its name in the settings is wrong; the agent looks again by itself"),
        409: ("ApiConflict", "somebody else changed the object; the agent reads it again"),
        429: ("ApiThrottled", "the API server is busy; the agent waits"),
    }
    other = ("ApiFailed", "the agent tries again by itself; see the API server's log")
    reason, remedy = reasons.get(code, other)
    if code == _NOT_FOUND and not _is_about(what, status):  # a proxy's 404, or of another server
        reason, remedy = other
    wait_s = min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdecimal() else None
    return ApiFailed(
        reason,
        f"{call.verb.value} {what}: HTTP {code}{f', {said}' if said else ''}",
        remedy=remedy,
        code=code,
        retry_after_s=wait_s,
    )


def _right(call: _Call) -> str:
    """Name what RBAC has to allow."""
    what = call.resource
    place = f" in namespace {what.namespace}" if what.namespace else ""
    name = "" if call.verb is Verb.CREATE or what.plural == "events" else f" {what.name}"
    return f"{call.verb.value} on {what.kind}{name}{place}"


def _printable(text: str) -> str:
    """Return foreign text as one line that no terminal obeys."""
    return "".join(each if each.isprintable() else " " for each in text)


def _is_about(resource: Resource, status: Mapping[str, Any]) -> bool:
    """Tell whether a Status says of this very object that there is none."""
    details = status.get("details")
    return status.get("reason") == "NotFound" and isinstance(details, dict) and details.get("name") == resource.name


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket that notices a dead peer although nobody writes."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
