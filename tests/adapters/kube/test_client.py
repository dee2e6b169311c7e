"""The real client on real sockets: what it sends, what it makes of every answer, and what it never tells."""

import asyncio
import base64
import contextlib
import datetime as dt
import gzip
import logging
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from agent import __version__
from agent.errors import ApiFailed, CredentialsUnusable
from agent.kube import client, resources
from agent.kube.client import MAX_MESSAGE, MAX_RETRY_AFTER_S, Client, user_agent
from agent.kube.credentials import InCluster, KubeconfigFile
from agent.kube.resources import Patch
from agent.kube.stream import MAX_BYTES
from agent.kube.tls import KeyPair, Pem
from tests.apidouble.access import Rule
from tests.apidouble.cluster import SECRET
from tests.apidouble.faults import Answer, Fault, Freeze, Garbage, Hang, Reset, Truncated
from tests.apidouble.server import ApiDouble
from tests.support.kube import NODE, Tickets, client_of, trusting
from tests.support.kubeconfigs import CANARY, identity, told

PLACE = resources.secret("d8-system", SECRET)
STATUS = resources.node_status(NODE)


@pytest.fixture
async def double() -> AsyncIterator[ApiDouble]:
    """Return a double with a Node and the Secret, without TLS and open to everybody."""
    async with ApiDouble() as double:
        double.cluster.add_node(NODE)
        double.cluster.put_secret(CANARY.encode())
        yield double


@pytest.fixture(params=[False, True], ids=["http", "https"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[ApiDouble]:
    """Return the same without TLS, then with it."""
    async with ApiDouble(tls=request.param) as double:
        double.cluster.add_node(NODE)
        double.cluster.put_secret(CANARY.encode())
        yield double


@pytest.fixture
async def secured() -> AsyncIterator[ApiDouble]:
    """Return the same with TLS only."""
    async with ApiDouble(tls=True) as double:
        double.cluster.add_node(NODE)
        double.cluster.put_secret(CANARY.encode())
        yield double


@dataclass(kw_only=True)
class Recorder:
    """A server that notes every request whole and gives one answer to all."""

    url: str
    answer: bytes = b'{"kind":"List","metadata":{"resourceVersion":"7"},"items":[]}'
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[web.BaseRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.bodies.append(await request.read())
        self.requests.append(request)
        return web.Response(body=self.answer, content_type="application/json", headers=self.headers)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """Return a server that records."""
    found = Recorder(url="")
    server = web.Server(found.handle, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield found
    listener.close()
    await server.shutdown(0.1)
    await listener.wait_closed()


@contextlib.asynccontextmanager
async def _answering(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve TCP with a function, without any HTTP of its own; give the address."""

    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refused(tickets: Any, resource: resources.Resource = PLACE) -> ApiFailed:
    """Return with what error a get ends."""
    async with Client(tickets) as api:
        with pytest.raises(ApiFailed) as caught:
            await api.get(resource)
    return caught.value


# What is sent.


async def test_the_client_names_itself(double: ApiDouble) -> None:
    """In the API server's audit log: program, version, platform."""
    async with client_of(double) as api:
        await api.get(PLACE)
    assert [user_agent()] == [request.user_agent for request in double.requests]
    assert user_agent().startswith(f"registry-agent/{__version__} (linux/")


async def test_a_list_selects_the_one_name(recorder: Recorder) -> None:
    """RBAC can allow a list of one name only that way; no version, so that the answer is not from a stale cache."""
    async with Client(Tickets(recorder.url)) as api:
        await api.list(PLACE)
    (request,) = recorder.requests
    assert "/api/v1/namespaces/d8-system/secrets" == request.path
    assert {"fieldSelector": f"metadata.name={SECRET}"} == dict(request.query)


async def test_a_watch_selects_the_one_name_and_asks_for_bookmarks_and_an_end(recorder: Recorder) -> None:
    """From the version that the list had."""
    async with Client(Tickets(recorder.url)) as api, api.watch(PLACE, "7", timeout_s=290):
        pass
    (request,) = recorder.requests
    assert "/api/v1/namespaces/d8-system/secrets" == request.path
    assert {
        "fieldSelector": f"metadata.name={SECRET}",
        "watch": "1",
        "resourceVersion": "7",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "290",
    } == dict(request.query)


async def test_requests_have_the_method_path_and_content_type_of_their_verb(recorder: Recorder) -> None:
    """As the API reference has them."""
    async with Client(Tickets(recorder.url)) as api:
        await api.get(PLACE)
        await api.patch(STATUS, {"a": 1}, Patch.STRATEGIC)
        await api.patch(resources.event("e"), {"a": 1}, Patch.MERGE)
        await api.create(resources.event("e"), {"a": "ü"})
        await api.update(resources.lease("d8-system", "l"), {"a": 1})
    sent = [(each.method, each.path, each.headers.get("Content-Type")) for each in recorder.requests]
    assert [
        ("GET", f"/api/v1/namespaces/d8-system/secrets/{SECRET}", None),
        ("PATCH", f"/api/v1/nodes/{NODE}/status", "application/strategic-merge-patch+json"),
        ("PATCH", "/api/v1/namespaces/default/events/e", "application/merge-patch+json"),
        ("POST", "/api/v1/namespaces/default/events", "application/json"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/d8-system/leases/l", "application/json"),
    ] == sent
    assert [b"", b'{"a":1}', b'{"a":1}', b'{"a":"\\u00fc"}', b'{"a":1}'] == recorder.bodies


async def test_every_request_carries_the_newest_token(recorder: Recorder) -> None:
    """Credentials are asked before each request, so a rotation is followed without any watching."""
    tickets = Tickets(recorder.url, "first", "second", "third")
    async with Client(tickets) as api:
        for _ in range(3):
            await api.get(PLACE)
    assert ["Bearer first", "Bearer second", "Bearer third"] == [
        request.headers["Authorization"] for request in recorder.requests
    ]
    assert [False, False, False] == tickets.asked


async def test_no_token_is_no_header(recorder: Recorder) -> None:
    """A client certificate, or nothing at all, identifies the client then."""
    async with Client(Tickets(recorder.url)) as api:
        await api.get(PLACE)
    assert "Authorization" not in recorder.requests[0].headers


async def test_cookies_are_not_kept(recorder: Recorder) -> None:
    """A load balancer's stickiness must not outlive its connection."""
    recorder.headers = {"Set-Cookie": "sticky=1; Path=/"}
    async with Client(Tickets(recorder.url)) as api:
        await api.get(PLACE)
        await api.get(PLACE)
    assert [None, None] == [request.headers.get("Cookie") for request in recorder.requests]


async def test_proxies_of_the_environment_are_not_used(double: ApiDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the kubeconfig's proxy-url counts: a node's HTTP_PROXY is for image pulls."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with client_of(double) as api:
        assert SECRET == (await api.get(PLACE))["metadata"]["name"]


async def test_what_is_asked_and_answered_can_be_counted(double: ApiDouble) -> None:
    """Verb, resource and code of each answer; 0 for those that never came."""
    seen: list[tuple[str, str, int]] = []
    async with Client(Tickets(double.url), observe=lambda *request: seen.append(request)) as api:
        await api.list(PLACE)
        await api.patch(STATUS, {}, Patch.STRATEGIC)
        async with api.watch(PLACE, "1", timeout_s=30):
            pass
        await double.down()
        with pytest.raises(ApiFailed):
            await api.get(PLACE)
    assert [("list", "secrets", 200), ("patch", "nodes/status", 200), ("watch", "secrets", 200)] == seen[:-1]
    assert ("get", "secrets", 0) == seen[-1]


# Connections.


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Return a list that every socket of clients is added to."""
    made: list[socket.socket] = []
    original = client._socket

    def remembered(address: Any) -> socket.socket:
        made.append(original(address))
        return made[-1]

    monkeypatch.setattr(client, "_socket", remembered)
    return made


async def test_connections_are_used_again(either: ApiDouble, sockets: list[socket.socket]) -> None:
    """Many requests, one connection; a watch has one of its own, and leaves none behind."""
    double = either
    async with client_of(double) as api:
        for _ in range(20):
            await api.get(PLACE)
        assert 1 == len(sockets)
        async with api.watch(PLACE, str(double.cluster.revision), timeout_s=30) as events:
            double.cluster.put_secret(b"v2")
            await events.next(within_s=5)
            for _ in range(5):
                await api.list(PLACE)
        await double.until(lambda: double.watching() == 0)
    assert 2 == len(sockets)
    assert [-1, -1] == [each.fileno() for each in sockets]


async def test_connections_notice_a_dead_peer(double: ApiDouble, sockets: list[socket.socket]) -> None:
    """TCP asks after 30 s of silence, three times in 30 s."""
    async with client_of(double) as api:
        await api.get(PLACE)
        (made,) = sockets
        assert 1 == made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [30, 10, 3] == [made.getsockopt(socket.IPPROTO_TCP, option) for option in options]


async def test_requests_that_are_given_up_leave_no_connection_behind(
    double: ApiDouble, sockets: list[socket.socket]
) -> None:
    """More of them than the client has room for."""
    programmed = double.faults.add(Hang())
    async with client_of(double) as api:
        for _ in range(12):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await api.get(PLACE)
        double.faults.remove(programmed)
        assert SECRET == (await api.get(PLACE))["metadata"]["name"]
        assert 1 == sum(each.fileno() >= 0 for each in sockets)


async def test_a_client_that_is_left_ends_its_watches(double: ApiDouble) -> None:
    """The server is told at once, so that nothing is left there."""
    async with client_of(double) as api:
        watching = api.watch(PLACE, "1", timeout_s=30)
        await watching.__aenter__()
        assert 1 == double.watching()
        await watching.__aexit__(None, None, None)
        await double.until(lambda: double.watching() == 0)


# Answers that are failures.


async def test_a_rotated_token_is_used_after_one_refusal(double: ApiDouble) -> None:
    """401: whoever keeps credentials is told that they were refused, and the request is sent once more."""
    double.tokens = {"new": "w0"}
    tickets = Tickets(double.url, "old", "new")
    async with Client(tickets) as api:
        assert SECRET == (await api.get(PLACE))["metadata"]["name"]
        assert ([False, True], [401, 200]) == (tickets.asked, [request.code for request in double.requests])
        await api.get(PLACE)
        assert [False, True, False] == tickets.asked


async def test_a_write_is_repeated_after_a_refusal_as_well(double: ApiDouble) -> None:
    """401 says that nothing was done."""
    double.tokens = {"new": "w0"}
    async with Client(Tickets(double.url, "old", "new")) as api:
        found = await api.patch(STATUS, {"metadata": {"labels": {"a": "b"}}}, Patch.STRATEGIC)
    assert "b" == found["metadata"]["labels"]["a"]


async def test_a_watch_is_opened_again_after_a_refusal(double: ApiDouble) -> None:
    """The same for the request that lasts."""
    double.tokens = {"new": "w0"}
    async with Client(Tickets(double.url, "old", "new")) as api, api.watch(PLACE, "1", timeout_s=30) as events:
        event = await events.next(within_s=5)
    assert event is not None
    assert "ADDED" == event["type"]


async def test_a_token_that_is_refused_twice_is_a_failure(double: ApiDouble) -> None:
    """Exactly two requests, and an error that says what to renew."""
    double.tokens = {"new": "w0"}
    tickets = Tickets(double.url, CANARY, f"{CANARY}2")
    err = await _refused(tickets)
    assert ("ApiUnauthorized", 401, [False, True], 2) == (err.reason, err.code, tickets.asked, len(double.requests))
    assert "renew the token or the client certificate" in str(err)


async def test_a_token_that_is_refused_is_not_sent_again(double: ApiDouble) -> None:
    """The credentials are asked for anew; when they are the same, so would be the answer."""
    double.tokens = {"new": "w0"}
    tickets = Tickets(double.url, CANARY)
    err = await _refused(tickets)
    assert ("ApiUnauthorized", [False, True], 1) == (err.reason, tickets.asked, len(double.requests))


async def test_a_refusal_names_verb_resource_name_and_namespace(double: ApiDouble) -> None:
    """What an operator has to grant, and what the server said."""
    double.rules = [Rule("get", "nodes")]
    double.tokens = {"t": "system:node:w0"}
    err = await _refused(Tickets(double.url, "t"))
    assert ("ApiForbidden", 403) == (err.reason, err.code)
    assert err.message == (
        f"get secrets {SECRET} in namespace d8-system: HTTP 403, "
        f'secrets "{SECRET}" is forbidden: User "system:node:w0" cannot get resource "secrets" in API group "" '
        'in the namespace "d8-system"'
    )
    assert f"grant the verb get on secrets {SECRET} in namespace d8-system to the agent's account (RBAC)" == err.remedy


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda api: api.list(PLACE), f"grant the verb list on secrets {SECRET} in namespace d8-system"),
        (lambda api: api.patch(STATUS, {}, Patch.STRATEGIC), f"grant the verb patch on nodes/status {NODE} to"),
        (lambda api: api.create(resources.event("e"), {}), "grant the verb create on events"),
        (lambda api: api.update(resources.lease("x", "l"), {}), "grant the verb update on leases l in namespace x"),
    ],
)
async def test_each_refusal_says_which_verb_to_grant(
    double: ApiDouble, act: Callable[[Client], Awaitable[object]], expected: str
) -> None:
    """The words that RBAC uses, subresource included."""
    double.rules = []
    async with client_of(double) as api:
        with pytest.raises(ApiFailed) as caught:
            await act(api)
    assert expected in str(caught.value)


async def test_a_refused_watch_says_so_and_why(double: ApiDouble) -> None:
    """A watch's refusal is an ordinary answer with a Status."""
    double.rules = [Rule("list", "secrets")]
    async with client_of(double) as api:
        with pytest.raises(ApiFailed) as caught:
            async with api.watch(PLACE, "1", timeout_s=30):
                pass
    assert 403 == caught.value.code
    assert f"grant the verb watch on secrets {SECRET} in namespace d8-system" in str(caught.value)


async def test_the_servers_own_words_are_cut(double: ApiDouble) -> None:
    """256 characters of a foreign text, no more."""
    body = b'{"kind":"Status","message":"%s","code":500}' % (b"x" * 5000)
    double.faults.add(Answer(code=500, body=body))
    err = await _refused(Tickets(double.url))
    assert f"get secrets {SECRET} in namespace d8-system: HTTP 500, {'x' * MAX_MESSAGE}" == err.message


@pytest.mark.parametrize("body", [b"", b"[]", b'{"message": 7}', b"\xff\xfe", b"[" * 100_000, b"<html>no</html>"])
async def test_a_refusal_without_a_status_is_told_by_its_code(double: ApiDouble, body: bytes) -> None:
    """As proxies on the way answer; their text is nobody's business."""
    double.faults.add(Answer(code=502, body=body))
    err = await _refused(Tickets(double.url))
    assert ("ApiFailed", 502, f"get {PLACE}: HTTP 502") == (err.reason, err.code, err.message)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999", MAX_RETRY_AFTER_S),
        ("9" * 400, MAX_RETRY_AFTER_S),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
async def test_the_wait_that_the_server_asks_for_is_bounded(
    double: ApiDouble, said: str, expected: float | None
) -> None:
    """Seconds up to two minutes; whatever else it says is ignored."""
    double.faults.add(Answer(code=429, headers={"Retry-After": said}))
    err = await _refused(Tickets(double.url))
    assert ("ApiThrottled", expected) == (err.reason, err.retry_after_s)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"7", b"\xff", b"{", b"[" * 100_000, b'{"a":1}{"b":2}'])
async def test_an_answer_that_is_no_object_is_garbled(double: ApiDouble, body: bytes) -> None:
    """Whatever it is instead, nested ones included."""
    double.faults.add(Garbage(body=body))
    err = await _refused(Tickets(double.url))
    assert ("ApiGarbled", None) == (err.reason, err.code)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"metadata":{}}',
        b'{"metadata":{"resourceVersion":""}}',
        b'{"metadata":{"resourceVersion":7}}',
        b'{"metadata":[],"items":[]}',
        b'{"metadata":{"resourceVersion":"7"},"items":{"a":1}}',
    ],
)
async def test_an_answer_that_is_no_list_is_garbled(double: ApiDouble, body: bytes) -> None:
    """A list that cannot be watched from must not be taken for an empty one."""
    double.faults.add(Garbage(body=body))
    async with client_of(double) as api:
        with pytest.raises(ApiFailed) as caught:
            await api.list(PLACE)
    assert "ApiGarbled" == caught.value.reason


@pytest.mark.parametrize("items", [b"null", b"[]", b'[1,{},{"metadata":7},{"metadata":{"name":"other"}}]'])
async def test_a_list_without_the_object_is_an_absence(double: ApiDouble, items: bytes) -> None:
    """Go writes null for an empty list; objects of other names do not count."""
    double.faults.add(Garbage(body=b'{"kind":"SecretList","metadata":{"resourceVersion":"7"},"items":%s}' % items))
    async with client_of(double) as api:
        listing = await api.list(PLACE)
    assert (None, "7") == (listing.found, listing.version)


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"Secret","metadata":{"resourceVersion":"7"}}',
        b'{"kind":"SecretList","metadata":{"resourceVersion":"7"}}',
        b'{"metadata":{"resourceVersion":"7"},"items":[]}',
        b'{"kind":"SecretList","metadata":{},"items":[]}',
        b'{"kind":"SecretList","metadata":{"resourceVersion":"7"},"items":{}}',
    ],
)
async def test_what_is_no_list_is_no_absence(double: ApiDouble, body: bytes) -> None:
    """A node is released on an absence: only what is surely a list may say so."""
    double.faults.add(Garbage(body=body))
    async with client_of(double) as api:
        with pytest.raises(ApiFailed, match="the answer is no list"):
            await api.list(PLACE)


@pytest.mark.parametrize("fault", [Truncated(), Truncated(closes=True)])
async def test_half_an_answer_is_none(double: ApiDouble, fault: Fault) -> None:
    """JSON that ends early, and a connection that ends before the announced length."""
    double.faults.add(fault)
    err = await _refused(Tickets(double.url))
    assert err.reason in {"ApiGarbled", "ApiUnreachable"}


async def test_a_server_that_never_answers_is_given_up(double: ApiDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that one request has."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.1)
    double.faults.add(Hang())
    err = await _refused(Tickets(double.url))
    assert ("ApiUnreachable", f"get {PLACE}: no answer within 0 s ({double.url})") == (err.reason, err.message)


async def test_an_answer_whose_body_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers alone are no answer."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')
        await reader.read()

    async with _answering(serve) as address:
        err = await _refused(Tickets(f"http://{address}"))
    assert "ApiUnreachable" == err.reason


async def test_a_server_that_never_shakes_hands_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP is accepted and TLS never begins: a wedged process behind a living kernel."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with _answering(serve) as address:
        err = await _refused(Tickets(f"https://{address}", context=trusting(trustme.CA())))
    assert "ApiUnreachable" == err.reason


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200", b"HTTP/1.1 abc\r\n\r\n"])
async def test_a_server_that_speaks_no_http_is_unreachable(answer: bytes) -> None:
    """Closed without a word, or with words of another protocol."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with _answering(serve) as address:
        err = await _refused(Tickets(f"http://{address}", CANARY))
    assert "ApiUnreachable" == err.reason
    assert CANARY not in told(err)


async def test_a_connection_that_is_reset_is_unreachable(double: ApiDouble) -> None:
    """RST before an answer."""
    double.faults.add(Reset())
    assert "ApiUnreachable" == (await _refused(Tickets(double.url))).reason


async def test_a_server_that_is_not_there_is_unreachable(double: ApiDouble) -> None:
    """The system's word for it."""
    await double.down()
    err = await _refused(Tickets(double.url))
    assert f"get {PLACE}: cannot connect: Connection refused ({double.url})" == err.message


async def test_an_answer_that_is_too_large_is_given_up(double: ApiDouble) -> None:
    """Above what an object of the API can be; the agent's memory is not the server's."""
    double.faults.add(Garbage(body=b'{"a":"%s"}' % (b"x" * MAX_BYTES)))
    assert "ApiUnreachable" == (await _refused(Tickets(double.url))).reason


async def test_an_answer_that_could_inflate_is_not_inflated(double: ApiDouble) -> None:
    """100 KB of gzip that would become 100 MB: nobody has asked for gzip."""
    bomb = gzip.compress(b"x" * 100_000_000, 9)
    double.faults.add(Answer(code=200, body=bomb, headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        assert "ApiGarbled" == (await _refused(Tickets(double.url))).reason
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 30_000_000


async def test_a_large_answer_is_not_compressed(double: ApiDouble) -> None:
    """The API server compresses what is larger than 128 KiB, but only for those who accept it."""
    content = bytes(range(256)) * 4096
    double.cluster.put_secret(content)
    async with client_of(double) as api:
        found = await api.get(PLACE)
    assert base64.b64encode(content).decode() == found["data"]["config"]


async def test_a_redirect_is_not_followed(double: ApiDouble) -> None:
    """The token goes to one server and nowhere else."""
    async with ApiDouble() as other:
        double.faults.add(Answer(code=307, headers={"Location": f"{other.url}/api/v1/stolen"}))
        err = await _refused(Tickets(double.url, CANARY))
        assert (307, ()) == (err.code, other.requests)


async def test_credentials_that_are_not_there_are_an_error_of_their_own(double: ApiDouble, tmp_path: Path) -> None:
    """Before kubelet has written its kubeconfig; a moment later the same client works."""
    path = tmp_path / "kubelet.conf"
    async with Client(KubeconfigFile(path)) as api:
        with pytest.raises(CredentialsUnusable):
            await api.get(PLACE)
        double.write_kubeconfig(path)
        assert SECRET == (await api.get(PLACE))["metadata"]["name"]


# TLS and proxies.


async def test_a_kubeconfig_with_a_client_certificate_lets_us_in(tmp_path: Path) -> None:
    """kubelet's own credentials, all the way: file, TLS, user."""
    async with ApiDouble(tls=True, needs_client_certificate=True) as double:
        double.cluster.add_node(NODE)
        double.rules = [Rule("get", "nodes")]
        path = double.write_kubeconfig(tmp_path / "conf", certificate_user="system:node:w0", is_inline=False)
        async with Client(KubeconfigFile(path)) as api:
            assert NODE == (await api.get(resources.node(NODE)))["metadata"]["name"]
            with pytest.raises(ApiFailed) as caught:
                await api.get(PLACE)
    assert 'User "system:node:w0" cannot get resource "secrets"' in caught.value.message


async def test_a_service_account_lets_us_in_and_its_rotation_is_followed(secured: ApiDouble, tmp_path: Path) -> None:
    """In a pod: kubelet swaps the projected token; the very next request has the new one."""
    secured.tokens = {"one": "sa"}
    environment = secured.service_account(tmp_path, token="one")
    async with Client(InCluster(environment, tmp_path)) as api:
        await api.get(PLACE)
        secured.tokens = {"two": "sa"}
        secured.service_account(tmp_path, token="two")
        await api.get(PLACE)
    assert [200, 200] == [request.code for request in secured.requests]


async def test_a_missing_client_certificate_is_refused() -> None:
    """By the handshake; the error says no more than that."""
    async with ApiDouble(tls=True, needs_client_certificate=True) as double:
        err = await _refused(Tickets(double.url, CANARY, context=trusting(double.ca)))
    assert "ApiUnreachable" == err.reason
    assert CANARY not in told(err)


async def test_a_client_certificate_of_another_ca_is_refused() -> None:
    """The server does not know it."""
    own = identity(trustme.CA(), "other")
    pair = KeyPair(certificate=Pem(content=own.certificate, origin="c"), key=Pem(content=own.key, origin="k"))
    async with ApiDouble(tls=True, needs_client_certificate=True) as double:
        err = await _refused(Tickets(double.url, context=trusting(double.ca, pair)))
    assert "ApiUnreachable" == err.reason


async def test_a_server_of_another_ca_gets_no_token(secured: ApiDouble) -> None:
    """And the operator is told what is wrong with its certificate."""
    err = await _refused(Tickets(secured.url, CANARY, context=trusting(trustme.CA())))
    assert "ApiUnreachable" == err.reason
    assert err.message.startswith(f"get {PLACE}: the server's certificate is not accepted: ")
    assert "self-signed certificate in certificate chain" in err.message
    assert () == secured.requests
    assert CANARY not in told(err)


def _serving_certificate(double: ApiDouble, *names: str, **more: Any) -> None:
    """Replace the certificate of a double that is not yet up."""
    assert double.ca is not None
    double._ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    double.ca.issue_cert(*names, **more).configure_cert(double._ssl)


async def test_a_certificate_for_another_host_is_not_accepted() -> None:
    """The address in the kubeconfig must be in the certificate."""
    double = ApiDouble(tls=True)
    _serving_certificate(double, "other.example")
    async with double:
        err = await _refused(Tickets(double.url, context=trusting(double.ca)))
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in err.message


async def test_a_certificate_that_has_expired_is_not_accepted() -> None:
    """Said in words, because it is what happens after a year."""
    double = ApiDouble(tls=True)
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    _serving_certificate(double, "127.0.0.1", not_before=past - dt.timedelta(days=9), not_after=past)
    async with double:
        err = await _refused(Tickets(double.url, context=trusting(double.ca)))
    assert "the server's certificate is not accepted: certificate has expired" in err.message


async def test_the_servers_name_can_differ_from_its_address() -> None:
    """tls-server-name of the kubeconfig."""
    double = ApiDouble(tls=True)
    _serving_certificate(double, "kubernetes.default.svc")
    async with double:
        double.cluster.put_secret(b"v1")
        context = trusting(double.ca)
        async with Client(Tickets(double.url, context=context, server_hostname="kubernetes.default.svc")) as api:
            assert SECRET == (await api.get(PLACE))["metadata"]["name"]
        err = await _refused(Tickets(double.url, context=context, server_hostname="other.example"))
    assert "Hostname mismatch" in err.message


async def test_a_rotated_ca_is_used_at_once(secured: ApiDouble) -> None:
    """A new context means a new handshake, although a connection is open."""
    tickets = Tickets(secured.url, context=trusting(secured.ca))
    async with Client(tickets) as api:
        await api.get(PLACE)
        tickets.context = trusting(trustme.CA())
        with pytest.raises(ApiFailed):
            await api.get(PLACE)
        tickets.context = trusting(secured.ca)
        await api.get(PLACE)


@contextlib.asynccontextmanager
async def _proxy(heads: list[bytes], answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> AsyncIterator[str]:
    """Serve CONNECT, note the heads of the requests and answer as told."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if b" 200 " not in answer:
            return
        host, port = heads[-1].split()[1].decode().split(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer), return_exceptions=True)

    async with _answering(serve) as address:
        yield address


async def test_a_proxy_is_gone_through(secured: ApiDouble) -> None:
    """proxy-url of the kubeconfig: CONNECT with its own credentials; the token goes to the API server alone."""
    secured.tokens = {CANARY: "w0"}
    heads: list[bytes] = []
    async with _proxy(heads) as address:
        tickets = Tickets(secured.url, CANARY, context=trusting(secured.ca), proxy=f"http://user:pass@{address}")
        async with Client(tickets) as api:
            assert SECRET == (await api.get(PLACE))["metadata"]["name"]
            async with api.watch(PLACE, "1", timeout_s=30) as events:
                assert await events.next(within_s=5) is not None
    assert [200, 200] == [request.code for request in secured.requests]
    assert {f"CONNECT 127.0.0.1:{secured.port}"} == {head.decode().partition(" HTTP")[0] for head in heads}
    assert CANARY.encode() not in b"".join(heads)
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:pass") in heads[0]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n", b""])
async def test_a_proxy_that_refuses_is_unreachable(secured: ApiDouble, answer: bytes) -> None:
    """And nothing is told of its password or of the token."""
    async with _proxy([], answer) as address:
        proxy = f"http://user:{CANARY}@{address}"
        err = await _refused(Tickets(secured.url, CANARY, context=trusting(secured.ca), proxy=proxy))
    assert "ApiUnreachable" == err.reason
    assert CANARY not in told(err)


async def test_a_proxy_that_is_not_there_is_unreachable(secured: ApiDouble) -> None:
    """The same for one that does not listen."""
    proxy = f"http://user:{CANARY}@127.0.0.1:1"
    err = await _refused(Tickets(secured.url, CANARY, context=trusting(secured.ca), proxy=proxy))
    assert "ApiUnreachable" == err.reason
    assert CANARY not in told(err)


# What is never told.


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Answer(code=401),
        Answer(code=403),
        Answer(code=500, body=CANARY.encode()),
        Answer(code=502, body=b'{"data":"%s"}' % CANARY.encode()),
        Answer(code=200, headers={"Content-Encoding": "gzip"}, body=CANARY.encode()),
        Garbage(body=CANARY.encode()),
        Garbage(body=b'{"data":{"config":"%s' % CANARY.encode()),
        Hang(),
        Reset(),
        Truncated(),
        Truncated(closes=True),
        Freeze(),
    ],
    ids=str,
)
async def test_no_failure_tells_a_secret(
    secured: ApiDouble, fault: Fault | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error nor its chain nor any log, aiohttp's and asyncio's included: no token, no document."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.2)
    secured.tokens = {CANARY: "w0"}
    if fault is not None:
        secured.faults.add(fault)
    texts = []
    async with client_of(secured, CANARY) as api:
        for action in (api.get(PLACE), api.list(PLACE), api.create(PLACE, {"stringData": {"config": CANARY}})):
            try:
                await action
            except ApiFailed as err:
                texts.append(told(err))
        try:
            async with api.watch(PLACE, str(secured.cluster.revision), timeout_s=30) as events:
                secured.cluster.put_secret(CANARY.encode(), annotations={"a": CANARY})
                await events.next(within_s=0.2)
        except ApiFailed as err:
            texts.append(told(err))
    encoded = base64.b64encode(CANARY.encode()).decode()
    for text in (*texts, caplog.text, repr(api), repr(vars(api))):
        assert CANARY not in text
        assert encoded not in text


async def test_the_session_is_closed_for_good(double: ApiDouble) -> None:
    """A request after the end is a defect that shows, not a request; the credentials end with it."""
    tickets = Tickets(double.url)
    async with Client(tickets) as api:
        assert not tickets.is_closed
    assert tickets.is_closed
    with pytest.raises(RuntimeError):
        await api.get(PLACE)
    assert isinstance(api._session, aiohttp.ClientSession)
    assert api._session.closed
