"""An API server with nothing in it but a table of contents: enough for `kubectl apply --dry-run=client`."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Group and version, plural, kind, whether it is namespaced: written down here, not taken from the manifests.
KINDS = (
    ("v1", "namespaces", "Namespace", False),
    ("v1", "serviceaccounts", "ServiceAccount", True),
    ("v1", "configmaps", "ConfigMap", True),
    ("apps/v1", "daemonsets", "DaemonSet", True),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", True),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", True),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", False),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False),
    ("monitoring.coreos.com/v1", "podmonitors", "PodMonitor", True),
    ("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule", True),
)
CLUSTER_SCOPED = frozenset(kind for _, _, kind, is_namespaced in KINDS if not is_namespaced)


def _documents() -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for group_version, plural, kind, is_namespaced in KINDS:
        verbs = ["create", "get", "patch"]
        entry = {"name": plural, "singularName": "", "namespaced": is_namespaced, "kind": kind, "verbs": verbs}
        groups.setdefault(group_version, []).append(entry)
    named = []
    documents: dict[str, Any] = {"/api": {"kind": "APIVersions", "versions": ["v1"]}}
    for group_version, entries in groups.items():
        content = {"kind": "APIResourceList", "groupVersion": group_version, "resources": entries}
        documents[f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"] = content
        if "/" in group_version:
            version = {"groupVersion": group_version, "version": group_version.partition("/")[2]}
            named.append({"name": group_version.partition("/")[0], "versions": [version], "preferredVersion": version})
    documents["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
    return documents


class _Handler(BaseHTTPRequestHandler):
    documents = _documents()

    def do_GET(self) -> None:
        found = self.documents.get(self.path.partition("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(found or missing).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serve; give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
