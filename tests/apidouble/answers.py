"""What is answered to requests that are not watches, from the cluster's state; and how answers are dressed."""

import gzip
import json
import uuid
from typing import Any

from aiohttp import web

from tests.apidouble import connections, protobuf, refusal
from tests.apidouble.cluster import MERGE_PATCH, STRATEGIC_PATCH, Cluster
from tests.apidouble.resources import RESOURCES, Call, Term

MAX_BODY_BYTES = 3 * 1024 * 1024
#: Longer answers are compressed for those who accept it.
GZIP_FROM_BYTES = 128 * 1024


async def answer(request: web.BaseRequest, cluster: Cluster, call: Call, terms: tuple[Term, ...]) -> web.Response:
    """Do what is asked; raises Refused."""
    match call.verb:
        case "list":
            body = _list(cluster, call, terms)
        case "get":
            body = cluster.get(call.resource, call.name, call.namespace).body
        case _:
            return _written(cluster, call, request.content_type, await _body(request))
    return web.Response(body=body + b"\n", content_type="application/json")


def dress(answer: web.StreamResponse, request: web.BaseRequest) -> None:
    """Add what every answer has, and compress long ones."""
    answer.headers.setdefault("Audit-Id", str(uuid.uuid4()))
    answer.headers.setdefault("Cache-Control", "no-cache, private")
    if not isinstance(answer, web.Response) or len(_bytes(answer)) <= GZIP_FROM_BYTES:
        return
    answer.headers["Vary"] = "Accept-Encoding"
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        answer.body = gzip.compress(_bytes(answer), 1)
        answer.headers["Content-Encoding"] = "gzip"


def halve(answer: web.Response) -> None:
    """Cut an answer's body in half."""
    answer.body = _bytes(answer)[: len(_bytes(answer)) // 2]


async def send_half(request: web.BaseRequest, answer: web.Response) -> web.StreamResponse:
    """Promise an answer, send half of it and close the connection."""
    half = web.StreamResponse(status=answer.status, headers=answer.headers)
    half.content_length = len(_bytes(answer))
    await half.prepare(request)
    halve(answer)
    await half.write(_bytes(answer))
    connections.close(request)
    return half


def _list(cluster: Cluster, call: Call, terms: tuple[Term, ...]) -> bytes:
    resource = RESOURCES[call.resource]
    found = b",".join(stored.as_listed for stored in cluster.select(call.resource, call.namespace, terms))
    head = f'{{"kind":"{resource.kind}List","apiVersion":"{resource.api_version}","metadata":'
    return f'{head}{{"resourceVersion":"{cluster.revision}"}},"items":['.encode() + found + b"]}"


def _written(cluster: Cluster, call: Call, media_type: str, raw: dict[str, Any]) -> web.Response:
    place = {"namespace": call.namespace, "subresource": call.subresource}
    status = 200
    match call.verb:
        case "create":
            stored, status = cluster.create(call.resource, raw, call.namespace), 201
        case "update":
            status = 200 if cluster.find(call.resource, call.name, call.namespace) else 201
            stored = cluster.update(call.resource, call.name, raw, **place)
        case "patch":
            stored = cluster.patch(call.resource, call.name, raw, media_type, **place)
        case "delete":
            uid = cluster.get(call.resource, call.name, call.namespace).content["metadata"]["uid"]
            kept = cluster.delete(call.resource, call.name, namespace=call.namespace, options=raw)
            if kept is None:
                return _deleted(call, uid)
            stored = kept
        case _:
            raise refusal.Refused(405, "MethodNotAllowed", "the server does not allow this method on the resource")
    return web.Response(status=status, body=stored.body + b"\n", content_type="application/json")


def _deleted(call: Call, uid: str) -> web.Response:
    details = {"name": call.name, "kind": call.resource, "uid": uid}
    group = RESOURCES[call.resource].group
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return web.json_response({**status, "details": {**details, **({"group": group} if group else {})}})


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    kinds = (MERGE_PATCH, STRATEGIC_PATCH) if request.method == "PATCH" else ("application/json", protobuf.MEDIA_TYPE)
    if request.headers.get("Content-Type") and request.content_type not in kinds:
        raise refusal.unsupported_media_type()
    content = await request.content.read()
    if len(content) > MAX_BODY_BYTES:
        message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
        raise refusal.Refused(413, "RequestEntityTooLarge", message)
    if not content and request.method == "DELETE":
        return {}
    try:
        if request.content_type == protobuf.MEDIA_TYPE:
            return protobuf.secret(content)
        found = json.loads(content)
    except ValueError as err:
        raise refusal.bad_request(f"error decoding the body: {err}") from err
    if not isinstance(found, dict):
        raise refusal.bad_request("json: cannot unmarshal into Go value of type map[string]interface {}")
    return found


def _bytes(answer: web.Response) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body
