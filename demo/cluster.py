"""The cluster of act two: the API double as a process of its own, and a stand-in for kubectl, which may be missing."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stage import CHECKOUT, PATIENCE_S, say

SECRETS = "/api/v1/namespaces/d8-system/secrets"
SECRET = "registry-bashible-config"  # noqa: S105 -- its name
_TOKEN = "let-me-in"  # noqa: S105 -- opens nothing but the double

Object = dict[str, Any]


class Cluster:
    """The API double; it serves TLS, wants a token and keeps everything in memory."""

    def __init__(self, kubeconfig: Path, node: str) -> None:
        """`kubeconfig` is where it says how to reach it; `node` is the Node that it has."""
        self.kubeconfig = kubeconfig
        self._node = node
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, secret: Path | None = None) -> None:
        """Start it, with a Secret if one is given; later starts use the same port."""
        flags = ["--kubeconfig", str(self.kubeconfig.relative_to(CHECKOUT)), "--node", self._node]
        flags += ["--port", str(self._port)] if self._port else []
        flags += ["--secret", str(secret.relative_to(CHECKOUT))] if secret else []
        say(f"$ python -m tests.apidouble {' '.join(flags)} --token ... &", indent="    ")
        command = [sys.executable, "-m", "tests.apidouble", *flags, "--token", _TOKEN]
        self._process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE)  # noqa: S603 -- our own
        assert self._process.stdout is not None
        self._port = urlsplit(self._process.stdout.readline().decode().strip()).port or 0

    def stop(self) -> None:
        """End it; what it knew is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=PATIENCE_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def create_secret(self, document: Path) -> None:
        """Do as kubectl does."""
        say(f"$ kubectl -n d8-system {_creation(document)}")
        self._request("POST", SECRETS, _secret(document))

    def replace_secret(self, document: Path) -> None:
        """Do as kubectl does."""
        say(f"$ kubectl -n d8-system {_creation(document)} \\\n    --dry-run=client -o yaml | kubectl replace -f -")
        self._request("PUT", f"{SECRETS}/{SECRET}", _secret(document))

    def delete_secret(self) -> None:
        """Do as kubectl does."""
        say(f"$ kubectl -n d8-system delete secret {SECRET}")
        self._request("DELETE", f"{SECRETS}/{SECRET}")

    def node(self) -> Object:
        """Return the Node object."""
        return self._request("GET", f"/api/v1/nodes/{self._node}")

    def events(self) -> list[Object]:
        """Return the Events about the Node in the order in which they were made."""
        path = f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={self._node}"
        found: list[Object] = self._request("GET", path)["items"]
        return sorted(found, key=lambda event: int(event["metadata"]["resourceVersion"]))

    def _request(self, method: str, path: str, body: Object | None = None) -> Object:
        kubeconfig = json.loads(self.kubeconfig.read_text())  # JSON is YAML, and the double writes JSON
        cluster = kubeconfig["clusters"][0]["cluster"]
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        server = urlsplit(cluster["server"])
        trust = ssl.create_default_context(cadata=ca)
        connection = http.client.HTTPSConnection(str(server.hostname), server.port, context=trust, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            answer: Object = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise SystemExit(f"{method} {path}: {answer.get('message')}")
        return answer


def _creation(document: Path) -> str:
    return f"create secret generic {SECRET} --from-file=config={document.relative_to(CHECKOUT)}"


def _secret(document: Path) -> Object:
    data = {"config": base64.b64encode(document.read_bytes()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "type": "Opaque", "data": data}
