"""The API double keeps the promises of a real kube-apiserver on which the tests of the client rest."""

import asyncio
import base64
import io
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.apidouble import faults
from tests.apidouble.access import Rule
from tests.apidouble.cluster import MERGE_PATCH, SECRET, STRATEGIC_PATCH, Cluster
from tests.apidouble.faults import (
    Answer,
    Cut,
    Drip,
    End,
    ErrorEvent,
    Fault,
    Freeze,
    Garbage,
    Hang,
    Line,
    Reset,
    Truncated,
)
from tests.apidouble.refusal import Refused
from tests.apidouble.server import ApiDouble

SECRETS = "/api/v1/namespaces/d8-system/secrets"
WATCH = f"{SECRETS}?watch=true&fieldSelector=metadata.name={SECRET}"
NODE = "/api/v1/nodes/w0"
READY = {"type": "Ready", "status": "True"}
OURS = {"type": "RegistryConfigReady", "status": "False", "reason": "Applying"}

Json = dict[str, Any]


class Asked:
    """A double, and a client that asks it as the tests below need it."""

    def __init__(self, double: ApiDouble, session: aiohttp.ClientSession) -> None:
        self.double = double
        self.cluster = double.cluster
        self.session = session

    async def ask(self, path: str, method: str = "GET", body: Json | None = None, **headers: str) -> tuple[int, Json]:
        sent = {"Content-Type": MERGE_PATCH if method == "PATCH" else "application/json", **headers}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, path, data=data, headers=sent) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    """Return a double with a Node and the Secret, without TLS and open to everybody."""
    async with ApiDouble() as double, aiohttp.ClientSession(double.url) as session:
        double.cluster.add_node("w0")
        double.cluster.put_secret(b"v1")
        yield Asked(double, session)


@pytest.fixture
def cluster() -> Cluster:
    """Return a cluster with one Node."""
    cluster = Cluster()
    cluster.add_node("w0", uid="uid-of-w0")
    return cluster


async def event(answer: aiohttp.ClientResponse) -> Json:
    """Return the next event of a watch."""
    async with asyncio.timeout(5):
        return dict(json.loads(await answer.content.readline()))


def refusal(verb: Callable[[], object]) -> tuple[int, str]:
    """Return with which code and message a verb is refused."""
    with pytest.raises(Refused) as caught:
        verb()
    return caught.value.code, caught.value.message


def test_a_patch_of_a_node_leaves_its_status_and_one_of_its_status_leaves_its_spec(cluster: Cluster) -> None:
    """Both take labels and annotations, as the real strategies do."""
    patch = {
        "metadata": {"annotations": {"a": "1"}},
        "spec": {"unschedulable": True},
        "status": {"nodeInfo": {"kubeletVersion": "v2"}},
    }
    before = cluster.node("w0")
    cluster.patch("nodes", "w0", patch, MERGE_PATCH, subresource="status")
    after = cluster.node("w0")
    assert (before["spec"], "v2", {"a": "1"}) == (
        after["spec"],
        after["status"]["nodeInfo"]["kubeletVersion"],
        after["metadata"]["annotations"],
    )
    cluster.patch("nodes", "w0", {**patch, "status": {"nodeInfo": {"kubeletVersion": "v3"}}}, STRATEGIC_PATCH)
    assert after["status"] == cluster.node("w0")["status"]
    assert cluster.node("w0")["spec"]["unschedulable"]


def test_a_strategic_patch_merges_conditions_by_type_and_a_merge_patch_replaces_them(cluster: Cluster) -> None:
    """The kubelet's conditions survive ours only in the first."""
    patch = {"status": {"conditions": [OURS]}}
    cluster.patch("nodes", "w0", patch, STRATEGIC_PATCH, subresource="status")
    changed = {"status": {"conditions": [{"type": OURS["type"], "status": "True"}]}}
    cluster.patch("nodes", "w0", changed, STRATEGIC_PATCH, subresource="status")
    conditions = cluster.node("w0")["status"]["conditions"]
    assert [("Ready", "True", "KubeletReady"), (OURS["type"], "True", "Applying")] == [
        (each["type"], each["status"], each["reason"]) for each in conditions
    ]
    cluster.patch("nodes", "w0", patch, MERGE_PATCH, subresource="status")
    assert [OURS["type"]] == [each["type"] for each in cluster.node("w0")["status"]["conditions"]]


def test_a_write_that_changes_nothing_has_no_new_version_and_no_event(cluster: Cluster) -> None:
    """Idempotent writers do not wake their readers; times count as they are stored, in whole seconds."""
    condition = {**OURS, "lastTransitionTime": "2026-01-02T03:04:05.678901+01:00"}
    patch = {"status": {"conditions": [condition]}}
    first = cluster.patch("nodes", "w0", patch, STRATEGIC_PATCH, subresource="status")
    assert first.copy()["status"]["conditions"][1]["lastTransitionTime"] == "2026-01-02T02:04:05Z"
    watch = cluster.watch("nodes", since=first.revision)
    assert first is cluster.patch("nodes", "w0", patch, STRATEGIC_PATCH, subresource="status")
    assert first is cluster.update("nodes", "w0", first.copy())
    assert watch.queue.empty()


def test_null_in_a_patch_deletes_a_key_and_what_is_not_there(cluster: Cluster) -> None:
    """An annotation goes, and with the last one the map."""
    cluster.patch("nodes", "w0", {"metadata": {"annotations": {"a": "1"}}}, MERGE_PATCH)
    cluster.patch("nodes", "w0", {"metadata": {"annotations": {"a": None, "b": None}}}, MERGE_PATCH)
    assert "annotations" not in cluster.node("w0")["metadata"]


def test_writes_against_another_version_or_another_life_are_refused(cluster: Cluster) -> None:
    """A stale resourceVersion conflicts; another uid conflicts in a PUT and is invalid in a patch."""
    modified = 'Operation cannot be fulfilled on nodes "w0": the object has been modified; please apply your changes'
    stale: Json = {"metadata": {"resourceVersion": "1"}}
    code, message = refusal(lambda: cluster.patch("nodes", "w0", stale, MERGE_PATCH))
    assert (409, True) == (code, message.startswith(modified))
    node = cluster.node("w0")
    assert (
        refusal(lambda: cluster.update("nodes", "w0", {**node, "metadata": {**node["metadata"], **stale["metadata"]}}))[
            0
        ]
        == 409
    )
    other: Json = {"metadata": {"name": "w0", "uid": "other"}}
    invalid = 'Node "w0" is invalid: metadata.uid: Invalid value: "other": field is immutable'
    assert (422, invalid) == refusal(lambda: cluster.patch("nodes", "w0", other, MERGE_PATCH))
    code, message = refusal(lambda: cluster.update("nodes", "w0", other))
    assert (409, True) == (code, message.endswith("UID in precondition: other, UID in object meta: uid-of-w0"))


@pytest.mark.parametrize(
    ("secret", "code", "expected"),
    [
        ({"data": {"a": "not base64"}}, 400, "illegal base64 data at input byte 3"),
        ({"data": {"a": "YQ"}}, 400, "illegal base64 data at input byte 2"),
        ({"data": {"a": 1}}, 400, "json: cannot unmarshal number"),
        ({"stringData": {"a b": ""}}, 422, 'data[a b]: Invalid value: "a b": a valid config key must consist of'),
        ({"stringData": {"a": "x" * 1024 * 1024 + "x"}}, 422, "data: Too long: may not be more than 1048576 bytes"),
        ({"metadata": {"name": "Upper"}}, 422, "a lowercase RFC 1123 subdomain must consist of"),
        ({"metadata": {"labels": {"a": "-"}}}, 422, "a valid label must be an empty string or consist of"),
        ({"metadata": {"annotations": {"/": ""}}}, 422, "name part must consist of alphanumeric characters"),
        ({"metadata": {"annotations": {"a": 1}}}, 400, "cannot unmarshal number into Go struct field"),
        ({"metadata": {"namespace": "other"}}, 400, "the namespace of the provided object does not match"),
        ({"kind": "Node"}, 400, "the kind in the data (Node) does not match the expected kind (Secret)"),
    ],
)
def test_what_is_no_secret_is_refused(cluster: Cluster, secret: Json, code: int, expected: str) -> None:
    """With the codes and the words of the real server."""
    named = {**secret, "metadata": {"name": "s", **secret.get("metadata", {})}}
    found, message = refusal(lambda: cluster.create("secrets", named, "d8-system"))
    assert (code, True) == (found, expected in message), message


def test_base64_comes_back_canonical_and_string_data_as_data(cluster: Cluster) -> None:
    """Line ends in base64 are taken and not given back."""
    secret = {"metadata": {"name": "s"}, "data": {"a": "YWJj\r\nZA=="}, "stringData": {"b": "ü"}}
    stored = cluster.create("secrets", secret, "d8-system").copy()
    assert {"a": "YWJjZA==", "b": base64.b64encode("ü".encode()).decode()} == stored["data"]
    assert ("Opaque", False) == (stored["type"], "stringData" in stored)


def test_times_of_leases_need_six_digits(cluster: Cluster) -> None:
    """Go reads a MicroTime in one form only, which Python's isoformat leaves at microsecond 0."""

    def lease(renewed: str) -> Json:
        return {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 15, "renewTime": renewed}}

    code, message = refusal(lambda: cluster.create("leases", lease("2026-01-02T03:04:05Z"), "d8-system"))
    assert (400, True) == (code, message.startswith('Lease in version "v1" cannot be handled as a Lease: parsing time'))
    cluster.create("leases", lease("2026-01-02T03:04:05.000006+01:00"), "d8-system")
    found = cluster.lease("l")
    assert found is not None
    assert found["spec"]["renewTime"] == "2026-01-02T02:04:05.000006Z"
    code, message = refusal(
        lambda: cluster.update("leases", "l", lease("2026-01-02T03:04:06.000000Z"), namespace="d8-system")
    )
    assert (422, True) == (code, message.endswith("must be specified for an update"))


@pytest.mark.parametrize(
    ("namespace", "involved", "fits"),
    [
        ("default", "", True),
        ("d8-system", "", False),
        ("d8-system", "d8-system", True),
        ("default", "d8-system", False),
    ],
)
def test_events_are_in_the_namespace_of_what_they_are_about(
    cluster: Cluster,
    namespace: str,
    involved: str,
    fits: bool,  # noqa: FBT001
) -> None:
    """For a Node, which is in none, that is default."""
    about = {"kind": "Node", "name": "w0", "namespace": involved}
    raw = {"metadata": {"generateName": "w0."}, "involvedObject": about, "reason": "R", "type": "Normal"}
    if fits:
        cluster.create("events", raw, namespace)
        assert [("R", None)] == [(each["reason"], each["eventTime"]) for each in cluster.events()]
    else:
        code, message = refusal(lambda: cluster.create("events", raw, namespace))
        assert (422, True) == (code, message.endswith("does not match event.namespace"))


def test_a_finalizer_keeps_what_is_deleted_until_it_goes(cluster: Cluster) -> None:
    """Then the object ends with the write that empties the list."""
    cluster.patch("nodes", "w0", {"metadata": {"finalizers": ["registry-agent.io/node"]}}, MERGE_PATCH)
    cluster.delete_node("w0")
    assert "deletionTimestamp" in cluster.node("w0")["metadata"]
    watch = cluster.watch("nodes", since=cluster.revision)
    cluster.patch("nodes", "w0", {"metadata": {"finalizers": None}}, MERGE_PATCH)
    assert ("DELETED", None) == (watch.queue.get_nowait().kind, cluster.find("nodes", "w0"))


async def test_errors_are_status_objects(asked: Asked) -> None:
    """Word by word those of the real server."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    expected: Json = {
        "message": 'nodes "w1" not found',
        "reason": "NotFound",
        "details": {"name": "w1", "kind": "nodes"},
    }
    assert (404, {**status, **expected, "code": 404}) == await asked.ask("/api/v1/nodes/w1")
    asked.double.tokens["t"] = "system:node:w0"
    assert (401, {**status, "message": "Unauthorized", "reason": "Unauthorized", "code": 401}) == await asked.ask(NODE)
    asked.double.rules = [Rule("get", "nodes", "w0"), Rule("watch", "secrets", SECRET)]
    code, found = await asked.ask(f"{SECRETS}/{SECRET}", Authorization="Bearer t")
    message = (
        f'secrets "{SECRET}" is forbidden: User "system:node:w0" cannot get resource "secrets" in API group "" '
        'in the namespace "d8-system"'
    )
    expected = {"message": message, "reason": "Forbidden", "details": {"name": SECRET, "kind": "secrets"}, "code": 403}
    assert (403, {**status, **expected}) == (code, found)
    code, found = await asked.ask(f"{NODE}/status", "PATCH", {}, Authorization="Bearer t")
    assert (403, True) == (code, 'cannot patch resource "nodes/status"' in found["message"])


async def test_a_rule_for_one_name_lets_its_watch_in_by_field_selector(asked: Asked) -> None:
    """As RBAC's resourceNames do; without the selector it is everything, and forbidden."""
    asked.double.rules = [Rule("watch", "secrets", SECRET)]
    async with asked.session.get(WATCH) as answer:
        assert answer.status == 200
    assert (await asked.ask(f"{SECRETS}?watch=true"))[0] == 403


async def test_a_list_says_from_where_to_watch(asked: Asked) -> None:
    """Its elements are without kind and apiVersion, as the real server's."""
    code, found = await asked.ask(f"{SECRETS}?fieldSelector=metadata.name={SECRET}")
    assert (200, "SecretList", str(asked.cluster.revision)) == (
        code,
        found["kind"],
        found["metadata"]["resourceVersion"],
    )
    assert [[SECRET, False]] == [[each["metadata"]["name"], "kind" in each] for each in found["items"]]
    assert [] == (await asked.ask(f"{SECRETS}?fieldSelector=metadata.name!={SECRET}"))[1]["items"]
    for selector in ("data.config=x", "metadata.name"):
        assert (await asked.ask(f"{SECRETS}?fieldSelector={selector}"))[0] == 400


async def test_a_watch_begins_with_what_is_there_and_goes_on_with_what_happens(asked: Asked) -> None:
    """Of what its field selector names only."""
    asked.cluster.put_secret(b"another", name="another")
    async with asked.session.get(WATCH) as answer:
        added = await event(answer)
        asked.cluster.put_secret(b"another one", name="another")
        asked.cluster.put_secret(b"v2")
        asked.cluster.delete_secret()
        modified, deleted = await event(answer), await event(answer)
    assert ["ADDED", "MODIFIED", "DELETED"] == [each["type"] for each in (added, modified, deleted)]
    assert ["djE=", "djI=", "djI="] == [each["object"]["data"]["config"] for each in (added, modified, deleted)]
    assert (SECRET, "Secret") == (added["object"]["metadata"]["name"], added["object"]["kind"])
    assert str(asked.cluster.revision) == deleted["object"]["metadata"]["resourceVersion"]


async def test_a_watch_from_a_version_has_everything_after_it(asked: Asked) -> None:
    """Also what happened while nobody watched."""
    since = asked.cluster.revision
    asked.cluster.put_secret(b"v2")
    asked.cluster.delete_secret()
    async with asked.session.get(f"{WATCH}&resourceVersion={since}") as answer:
        assert ["MODIFIED", "DELETED"] == [(await event(answer))["type"] for _ in range(2)]


@pytest.mark.parametrize("in_stream", [True, False])
async def test_a_watch_from_the_forgotten_past_is_told_410(asked: Asked, in_stream: bool) -> None:  # noqa: FBT001
    """Either as an event of a watch that then ends, or as the answer."""
    asked.double.expires_in_stream = in_stream
    since = asked.cluster.revision
    asked.cluster.put_secret(b"v2")
    asked.cluster.compact()
    async with asked.session.get(f"{WATCH}&resourceVersion={since}") as answer:
        body = json.loads(await answer.read())
        assert (200 if in_stream else 410) == answer.status
    status = body["object"] if in_stream else body
    assert (410, "Expired", "Status") == (status["code"], status["reason"], status["kind"])
    assert f"too old resource version: {since} ({since + 1})" == status["message"]


async def test_bookmarks_say_how_far_a_silent_watch_is_until_it_ends_normally(asked: Asked) -> None:
    """Only to those who ask for them."""
    asked.double.bookmark_interval_s = 0.2
    lines = []
    for more in ("&allowWatchBookmarks=true", ""):
        async with asked.session.get(
            f"{WATCH}&resourceVersion={asked.cluster.revision}&timeoutSeconds=1{more}"
        ) as answer:
            lines.append((await answer.content.read()).splitlines())
    assert b"" == b"".join(lines[1])
    shell = {"kind": "Secret", "apiVersion": "v1", "metadata": {"resourceVersion": str(asked.cluster.revision)}}
    assert {"type": "BOOKMARK", "object": shell} == json.loads(lines[0][0])
    assert 3 <= len(lines[0]) <= 5


async def test_a_rotated_token_ends_at_the_next_request(asked: Asked) -> None:
    """A watch that runs goes on."""
    asked.double.tokens = {"old": "agent"}
    async with asked.session.get(WATCH, headers={"Authorization": "Bearer old"}) as answer:
        assert (await event(answer))["type"] == "ADDED"
        asked.double.tokens = {"new": "agent"}
        asked.cluster.put_secret(b"v2")
        assert (await event(answer))["type"] == "MODIFIED"
        assert (await asked.ask(NODE, Authorization="Bearer old"))[0] == 401
        assert (await asked.ask(NODE, Authorization="Bearer new"))[0] == 200


async def test_put_creates_leases_only(asked: Asked) -> None:
    """201 for what was not there."""
    lease = {"metadata": {"name": "l"}, "spec": {}}
    path = "/apis/coordination.k8s.io/v1/namespaces/d8-system/leases/l"
    code, found = await asked.ask(path, "PUT", lease)
    assert (201, 200) == (code, (await asked.ask(path, "PUT", found))[0])
    assert (await asked.ask(f"{SECRETS}/new", "PUT", {"metadata": {"name": "new"}}))[0] == 404


async def test_delete_says_what_is_gone_and_heeds_preconditions(asked: Asked) -> None:
    """A uid of another life protects what is there now."""
    path = f"{SECRETS}/{SECRET}"
    assert (await asked.ask(path, "DELETE", {"preconditions": {"uid": "other"}}))[0] == 409
    code, found = await asked.ask(path, "DELETE")
    assert (200, "Success", SECRET) == (code, found["status"], found["details"]["name"])
    assert (await asked.ask(path, "DELETE"))[0] == 404


@pytest.mark.parametrize(
    ("method", "media_type", "body", "code"),
    [
        ("PATCH", "application/json-patch+json", b"[]", 415),
        ("PATCH", MERGE_PATCH, b"{", 400),
        ("PATCH", MERGE_PATCH, b"[]", 400),
        ("PUT", "application/json", b'{"metadata":{"name":"w9"}}', 400),
        ("PUT", "application/json", b" " * 3 * 1024 * 1024 + b"{}", 413),
    ],
)
async def test_bodies_that_are_none_are_refused(
    asked: Asked, method: str, media_type: str, body: bytes, code: int
) -> None:
    """With a Status that says so."""
    async with asked.session.request(
        method, NODE, data=io.BytesIO(body), headers={"Content-Type": media_type}
    ) as answer:
        assert (code, code) == (answer.status, (await answer.json())["code"])


async def test_long_answers_are_compressed(asked: Asked) -> None:
    """From 128 KiB, for those who take it; watches never are."""
    asked.cluster.put_secret(b"x" * 600_000)
    async with asked.session.get(f"{SECRETS}/{SECRET}") as answer:
        assert ("gzip", 800_000) == (answer.headers["Content-Encoding"], len((await answer.json())["data"]["config"]))
    async with asked.session.get(WATCH) as answer:
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Answer(code=503), 503),
        (faults.too_many_requests(7), 429),
        (Hang(), TimeoutError),
        (Reset(), aiohttp.ClientConnectionError),
        (Garbage(), json.JSONDecodeError),
        (Truncated(), json.JSONDecodeError),
        (Truncated(closes=True), aiohttp.ClientPayloadError),
    ],
)
async def test_a_fault_befalls_as_many_requests_as_it_should(
    asked: Asked, fault: Fault, expected: int | type[Exception]
) -> None:
    """Of the verb and the resource that it is for, and then all is well."""

    async def read(path: str) -> int:
        async with asyncio.timeout(0.5), aiohttp.ClientSession(asked.double.url) as session:
            session._retry_connection = False  # else aiohttp itself asks again after a reset
            answer = await session.get(path)
            if answer.status == 200:
                await answer.json()
            return answer.status

    programmed = asked.double.faults.add(fault, verb="get", resource="nodes", times=2)
    assert await read(SECRETS) == 200
    for _ in range(2):
        if isinstance(expected, int):
            assert expected == await read(NODE)
        else:
            with pytest.raises(expected):
                await read(NODE)
    assert (200, 2) == (await read(NODE), programmed.hits)


@pytest.mark.parametrize(
    ("strike", "rest", "error"),
    [
        (End(), b"", None),
        (Line(b"garbage\n"), None, None),
        (ErrorEvent(code=410), b'"code":410}}\n', None),
        (Cut(), b'{"type":"MODIFIED","object":{"kind":"Sec', aiohttp.ClientPayloadError),
        (Reset(), b"", aiohttp.ClientPayloadError),
        (Freeze(), b"", TimeoutError),
    ],
)
async def test_a_strike_befalls_running_watches(
    asked: Asked, strike: faults.Strike, rest: bytes | None, error: type[Exception] | None
) -> None:
    """After what they have queued; a frozen one does not even say bookmarks."""
    asked.double.bookmark_interval_s = 0.1
    received = b""
    async with asked.session.get(f"{WATCH}&timeoutSeconds=1&allowWatchBookmarks=1") as answer:
        await event(answer)
        assert asked.double.faults.strike(strike) == 1
        try:
            async with asyncio.timeout(1.5):
                async for chunk in answer.content.iter_any():
                    received += chunk
        except (aiohttp.ClientError, TimeoutError) as err:
            assert isinstance(err, error or ())  # noqa: PT017
        else:
            assert error is None
    assert received.endswith(rest) if rest is not None else received.startswith(b"garbage\n{")
    await asked.double.until(lambda: asked.double.watching() == 0)


async def test_a_drip_sends_an_object_in_small_pieces(asked: Asked) -> None:
    """What a line is cannot be told from what is read at once."""
    asked.double.faults.add(Drip(chunk_bytes=1000), verb="watch", times=1)
    chunks: list[bytes] = []
    async with asked.session.get(WATCH) as answer:
        await event(answer)
        asked.cluster.put_secret(b"x" * 30_000)
        while not chunks or not chunks[-1].endswith(b"\n"):
            chunks.append((await answer.content.readchunk())[0])
    assert (True, 1000) == (len(chunks) > 40, max(map(len, chunks)))


async def test_an_outage_resets_everything_and_ends_on_the_same_port(asked: Asked) -> None:
    """Meanwhile connections are refused, and what is written to the cluster is seen afterwards."""
    async with asked.session.get(WATCH) as answer:
        await event(answer)
        async with asked.double.outage():
            with pytest.raises(aiohttp.ClientConnectorError):
                await asked.ask(NODE)
            with pytest.raises(aiohttp.ClientPayloadError, match="reset by peer"):
                await answer.content.read()
    assert (await asked.ask(NODE))[0] == 200


async def test_requests_are_recorded_and_can_be_waited_for(asked: Asked) -> None:
    """By verb, resource, name and code."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asked.double.until(lambda: asked.double.count("patch", "nodes/status", code=200) == 1))
        tasks.create_task(asked.ask(f"{NODE}/status", "PATCH", {"metadata": {}}, **{"User-Agent": "agent/1"}))
    (request,) = asked.double.requests
    expected = ("patch", "nodes/status", "w0", 200, "agent/1", f"{NODE}/status")
    assert expected == (request.verb, request.resource, request.name, request.code, request.user_agent, request.path)


async def test_it_stops_at_once_with_watches_open() -> None:
    """And leaves no task behind: the fixture of all tests looks."""
    loop = asyncio.get_running_loop()
    double = ApiDouble(tls=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with double:
            answers = [await session.get(f"{double.url}{SECRETS}?watch=true") for _ in range(20)]
            await double.until(lambda: double.watching("secrets") == 20)
            started = loop.time()
        assert loop.time() - started < 1
        for answer in answers:
            answer.close()


async def test_a_client_certificate_names_the_user(tmp_path: Path) -> None:
    """The kubeconfig has what it takes; a token is then not needed."""
    async with ApiDouble(tls=True, needs_client_certificate=True) as double:
        double.tokens = {"t": "somebody"}
        double.rules = []
        config = json.loads(
            double.write_kubeconfig(
                tmp_path / "kubeconfig", certificate_user="system:node:w0", is_inline=False
            ).read_text()
        )
        user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cafile=tmp_path / cluster["certificate-authority"])
        for has_certificate in (False, True):
            if has_certificate:
                context.load_cert_chain(tmp_path / user["client-certificate"], tmp_path / user["client-key"])
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                try:
                    async with session.get(f"https://localhost:{double.port}{NODE}") as answer:
                        assert 'User \\"system:node:w0\\" cannot get' in await answer.text()
                        assert has_certificate
                except aiohttp.ClientConnectionError:
                    assert not has_certificate


async def test_a_service_account_is_rotated_as_the_kubelet_does(tmp_path: Path) -> None:
    """The links stay, what they lead to changes at once."""
    folder = tmp_path / "serviceaccount"
    async with ApiDouble(tls=True) as double:
        environment = double.service_account(folder, token="first")
        assert str(double.port) == environment["KUBERNETES_SERVICE_PORT"]
        before = (folder / "token").lstat().st_ino, (folder / "..data").readlink()
        double.service_account(folder, token="second")
    assert ("second", "d8-system") == ((folder / "token").read_text(), (folder / "namespace").read_text())
    assert (before[0], True) == ((folder / "token").lstat().st_ino, before[1] != (folder / "..data").readlink())
    assert {"token", "ca.crt", "namespace", "..data", (folder / "..data").readlink().name} == {
        entry.name for entry in folder.iterdir()
    }


async def test_a_change_is_serialised_once_for_all_who_watch(cluster: Cluster) -> None:
    """And offered to nobody else: the cost of a fleet."""
    cluster.put_secret(b"v1")
    watches = [cluster.watch("secrets", namespace="d8-system", since=cluster.revision) for _ in range(3)]
    others = [cluster.watch("secrets", namespace="default"), cluster.watch("nodes", since=cluster.revision)]
    cluster.put_secret(b"v2")
    lines = [watch.queue.get_nowait().line for watch in watches]
    assert lines[0] is lines[1] is lines[2]
    assert all(watch.queue.empty() for watch in others)


async def test_it_runs_as_a_program_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It prints its address first and writes the kubeconfig that fits it."""
    document = tmp_path / "secret.yaml"
    await asyncio.to_thread(document.write_bytes, b"v1")
    kubeconfig = tmp_path / "kubeconfig"
    arguments = ("--kubeconfig", str(kubeconfig), "--node", "w0", "--secret", str(document), "--token", "t", "--plain")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.apidouble",
        *arguments,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer t"}) as session:
        async with session.get(f"{SECRETS}/{SECRET}") as answer:
            assert (await answer.json())["data"] == {"config": "djE="}
        async with session.get(WATCH):
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    assert url == json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
