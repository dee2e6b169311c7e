"""What kubectl asks before it asks for objects: version, discovery, a minimum of OpenAPI. Pure but for aiohttp's types.

The OpenAPI documents hold no schemas: they say that the server validates fields itself, so that kubectl does not.
"""

from typing import Any

from aiohttp import web

from tests.apidouble import refusal
from tests.apidouble.resources import RESOURCES, SUBRESOURCES, Resource

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_GROUP = "coordination.k8s.io"
_GROUP_VERSION = {"groupVersion": f"{_GROUP}/v1", "version": "v1"}
_GROUP_INFO = {"name": _GROUP, "versions": [_GROUP_VERSION], "preferredVersion": _GROUP_VERSION}
#: An OpenAPI v2 document in protobuf with nothing but its version.
_OPENAPI_V2 = b"\n\x032.0"
_VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-04-22T00:00:00Z",
    "goVersion": "go1.26",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def answer(request: web.BaseRequest) -> web.Response:
    """Answer a path that names no resource; raises Refused."""
    path = request.path.rstrip("/")
    if path in {"/healthz", "/livez", "/readyz"}:
        return web.Response(text="ok")
    if path == "/openapi/v2" and "protobuf" in request.headers.get("Accept", ""):
        return web.Response(body=_OPENAPI_V2, content_type="application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    document = _documents().get(path)
    if document is None:
        raise refusal.no_such_path()
    return web.json_response(document)


def _documents() -> dict[str, Any]:
    paths = {name: {"serverRelativeURL": f"/openapi/v3/{name}?hash=1"} for name in ("api/v1", f"apis/{_GROUP}/v1")}
    return {
        "/version": _VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP_INFO]},
        f"/apis/{_GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **_GROUP_INFO},
        "/api/v1": _resource_list(""),
        f"/apis/{_GROUP}/v1": _resource_list(_GROUP),
        "/openapi/v2": {"swagger": "2.0", "info": {"title": "API double", "version": "v1"}, "paths": {}},
        "/openapi/v3": {"paths": paths},
        "/openapi/v3/api/v1": _openapi("", "/api/v1"),
        f"/openapi/v3/apis/{_GROUP}/v1": _openapi(_GROUP, f"/apis/{_GROUP}/v1"),
    }


def _of_group(group: str) -> list[Resource]:
    return [resource for resource in RESOURCES.values() if resource.group == group]


def _resource_list(group: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for resource in _of_group(group):
        shell = {"singularName": "", "namespaced": resource.is_namespaced, "kind": resource.kind}
        names = {"name": resource.name, "singularName": resource.kind.lower(), "verbs": _VERBS}
        short = {"shortNames": [resource.short]} if resource.short else {}
        found.append({**shell, **names, **short})
        found += [
            {**shell, "name": f"{resource.name}/{subresource}", "verbs": ["get", "patch", "update"]}
            for subresource in SUBRESOURCES.get(resource.name, ())
        ]
    version = f"{group}/v1" if group else "v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def _openapi(group: str, prefix: str) -> dict[str, Any]:
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}]
    paths = {}
    for resource in _of_group(group):
        scope = "/namespaces/{namespace}" if resource.is_namespaced else ""
        kind = {"group": group, "version": "v1", "kind": resource.kind}
        operation = {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": kind}
        paths[f"{prefix}{scope}/{resource.name}/{{name}}"] = {"patch": operation}
    info = {"title": "API double", "version": "v1"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
