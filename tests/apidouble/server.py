"""The API double: an HTTP server in the test's event loop that a client takes for kube-apiserver.

It covers secrets, nodes with nodes/status, events, leases and namespaces: get, list, watch, create, update, patch
(merge and strategic merge), delete; authentication by bearer token and client certificate, rules, TLS, and faults.
It does NOT cover: RBAC objects and their aggregation, priority and fairness, etcd's timing of compaction,
server-side apply and managedFields, JSON patch, dry runs, label selectors, pages of lists (limit, continue), waiting
for a resourceVersion of the future, protobuf, other versions and groups (events.k8s.io), expiry of Events.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from aiohttp import web

from tests.apidouble import access, answers, connections, discovery, refusal, resources, streaming
from tests.apidouble.cluster import Cluster, Watch
from tests.apidouble.faults import Answer, Fault, Faults, Garbage, Hang, Line, Reset, Strike, Truncated
from tests.apidouble.resources import Call

ANONYMOUS = "system:anonymous"
#: The real server closes connections that are idle for so long.
IDLE_S = 90.0
_MIN_WATCH_S = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, recorded when its answer begins; code 0 for those that get none."""

    at: float
    verb: str
    resource: str
    name: str
    namespace: str
    code: int
    user_agent: str
    path: str


class ApiDouble:
    """One API server on 127.0.0.1; `async with` starts and stops it. Its attributes may be changed while it runs."""

    def __init__(
        self,
        cluster: Cluster | None = None,
        *,
        tls: bool = False,
        needs_client_certificate: bool = False,
        port: int = 0,
    ) -> None:
        """`needs_client_certificate` refuses TLS handshakes without one; else they are optional."""
        self.cluster = cluster or Cluster()
        self.faults = Faults(lambda: self._streams)
        #: Valid bearer tokens and their users; none means that everybody is let in.
        self.tokens: dict[str, str] = {}
        self.rules: Iterable[access.Rule] | None = None
        self.bookmark_interval_s = 60.0
        #: A watch from the forgotten past gets 200 and an ERROR event, as today's servers do; else 410.
        self.expires_in_stream = True
        self.port = port
        self.ca = trustme.CA(organization_name="API double") if tls else None
        self._ssl = self._context(needs=needs_client_certificate)
        self._streams: dict[Watch, None] = {}
        self._requests: collections.deque[Request] = collections.deque(maxlen=500_000)
        self._counts: dict[tuple[str, str], collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self._news = asyncio.Event()
        self._reserved: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._server = web.Server(self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=IDLE_S)

    async def __aenter__(self) -> Self:
        self.cluster.on_change = self._news.set
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", self.port))
        self.port = self._reserved.getsockname()[1]
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()
        await self._server.shutdown(1.0)
        assert self._reserved is not None
        self._reserved.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """What was asked until now, oldest first."""
        return tuple(self._requests)

    def count(self, verb: str, resource: str, *, code: int | None = None) -> int:
        """Count requests."""
        counts = self._counts[verb, resource]
        return counts.total() if code is None else counts[code]

    def watching(self, resource: str | None = None) -> int:
        """Count the watches that are open."""
        return sum(resource in {None, watch.resource.name} for watch in self._streams)

    async def until(self, is_so: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
        """Wait until something is so; asked after every request, change and end of a watch."""
        async with asyncio.timeout(timeout_s):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def down(self) -> None:
        """Stop listening and reset all connections; the port stays reserved."""
        if self._listener is not None:
            self._listener.close()
            for protocol in self._server.connections:
                connections.reset_transport(protocol.transport)
            await self._listener.wait_closed()
            self._listener = None

    async def up(self) -> None:
        """Listen (again) on the same port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._server, "127.0.0.1", self.port, ssl=self._ssl, reuse_port=True, backlog=8192
        )

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Be down for a while."""
        await self.down()
        yield
        await self.up()

    def write_kubeconfig(
        self,
        path: Path,
        *,
        token: str = "",
        token_file: Path | None = None,
        certificate_user: str = "",
        is_inline: bool = True,
    ) -> Path:
        """Write a kubeconfig with a token, or with a client certificate for a user; does not make a token valid."""
        certificate = None
        if certificate_user:
            assert self.ca is not None, "client certificates need TLS"
            # Python 3.13 does not take certificates whose list of other names is empty.
            certificate = self.ca.issue_cert("user@double.test", common_name=certificate_user)
        credentials = access.Credentials(token=token, token_file=token_file, certificate=certificate)
        ca = self.ca.cert_pem.bytes() if self.ca else None
        content = access.kubeconfig(path, self.url, ca=ca, credentials=credentials, is_inline=is_inline)
        access.write_kubeconfig(path, content)
        return path

    def service_account(self, folder: Path, *, token: str, namespace: str = "d8-system") -> dict[str, str]:
        """Write a service account's volume, or rotate its token; return the environment of a Pod."""
        assert self.ca is not None, "service accounts need TLS"
        files = {"token": token.encode(), "ca.crt": self.ca.cert_pem.bytes(), "namespace": namespace.encode()}
        access.write_service_account(folder, files)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def _context(self, *, needs: bool) -> ssl.SSLContext | None:
        if self.ca is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc").configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED if needs else ssl.CERT_OPTIONAL
        return context

    # From a request to its answer.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        user_agent = request.headers.get("User-Agent", "")
        call = resources.call_of(request.method, request.path, request.query, user_agent)
        asked = call or Call("get", "", path=request.path, user_agent=user_agent)
        fault = self.faults.take(asked)
        try:
            answer = await self._befall(request, asked, fault) or await self._serve(request, call, fault)
        except refusal.Refused as err:
            answer = web.Response(status=err.code, body=err.body, content_type="application/json")
        if not isinstance(answer, web.Response):
            return answer  # a watch, which has ended
        self._record(asked, answer.status)
        if isinstance(fault, Truncated) and not fault.closes:
            answers.halve(answer)
        answers.dress(answer, request)
        if isinstance(fault, Truncated) and fault.closes:
            return await answers.send_half(request, answer)
        return answer

    async def _befall(self, request: web.BaseRequest, call: Call, fault: Fault | None) -> web.Response | None:
        match fault:
            case Hang():
                self._record(call, 0)
                await connections.gone()
            case Reset():
                self._record(call, 0)
                connections.reset(request)
                await connections.gone()
            case Answer():
                body = refusal.of_code(fault.code).body if fault.body is None else fault.body
                headers = {"Content-Type": "application/json", **fault.headers}
                return web.Response(status=fault.code, body=body, headers=headers)
            case Garbage():
                return web.Response(body=fault.body, content_type="application/json")
            case _:
                pass
        return None

    def _user(self, request: web.BaseRequest) -> str:
        certificate = request.transport and request.transport.get_extra_info("peercert")
        for part in (certificate or {}).get("subject", ()):
            for name, value in part:
                if name == "commonName":
                    return str(value)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if not self.tokens:
            return ANONYMOUS
        if kind.lower() == "bearer" and token in self.tokens:
            return self.tokens[token]
        raise refusal.unauthorized()

    async def _serve(self, request: web.BaseRequest, call: Call | None, fault: Fault | None) -> web.StreamResponse:
        user = self._user(request)
        if call is None:
            return discovery.answer(request)
        access.check(call, user, self.rules)
        try:
            terms = resources.terms(request.query.get("fieldSelector", ""), resources.RESOURCES[call.resource])
        except ValueError as err:
            raise refusal.bad_request(str(err)) from err
        if request.query.get("dryRun"):
            raise refusal.bad_request("the API double makes no dry runs")
        if call.verb == "watch":
            return await self._watch(request, call, terms, fault)
        return await answers.answer(request, self.cluster, call, terms)

    async def _watch(
        self, request: web.BaseRequest, call: Call, terms: tuple[resources.Term, ...], fault: Fault | None
    ) -> web.StreamResponse:
        query = request.query
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        sends_all = query.get("sendInitialEvents") == "true"
        try:
            since = None if sends_all else int(query.get("resourceVersion") or 0)
            timeout_s = float(query.get("timeoutSeconds") or 0) or _MIN_WATCH_S * (1 + random.random())
        except ValueError as err:
            raise refusal.bad_request(f"invalid resource version or timeout: {err}") from err
        try:
            watch = self.cluster.watch(call.resource, namespace=call.namespace, terms=terms, since=since)
        except refusal.Refused as err:
            if not self.expires_in_stream:
                raise
            await self._begin(request, response, call)
            await response.write(streaming.error(err))
            return response
        self._streams[watch] = None
        try:
            if sends_all:
                end = streaming.bookmark(watch.resource, self.cluster.revision, ends_initial_events=True)
                watch.queue.put_nowait(Line(end))
            if isinstance(fault, Strike):
                watch.queue.put_nowait(fault)
            await self._begin(request, response, call)
            has_bookmarks = query.get("allowWatchBookmarks") in {"1", "true", "True"}
            interval_s = self.bookmark_interval_s if has_bookmarks else None
            pace = streaming.Pace(timeout_s=timeout_s, bookmark_interval_s=interval_s)
            await streaming.Stream(request, response, watch).run(pace, lambda: self.cluster.revision)
        except ConnectionError:  # the client, or a strike, has ended it
            pass
        finally:
            self.cluster.unwatch(watch)
            del self._streams[watch]
            self._news.set()
        return response

    async def _begin(self, request: web.BaseRequest, response: web.StreamResponse, call: Call) -> None:
        self._record(call, 200)
        answers.dress(response, request)
        await response.prepare(request)

    def _record(self, call: Call, code: int) -> None:
        self._counts[call.verb, call.target][code] += 1
        self._requests.append(
            Request(
                at=asyncio.get_running_loop().time(),
                verb=call.verb,
                resource=call.target,
                name=call.name,
                namespace=call.namespace,
                code=code,
                user_agent=call.user_agent,
                path=call.path,
            )
        )
        self._news.set()
