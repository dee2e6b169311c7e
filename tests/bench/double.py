"""The API double as a process of its own that can be asked what it was asked: `python -m tests.bench.double`.

Its record of requests has times of the monotonic clock, which all processes of a machine share: when a patch was
accepted is read there afterwards, and nobody has to watch for it meanwhile.
"""

import argparse
import asyncio
import base64
import http.client
import json
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.apidouble.cluster import Cluster
from tests.apidouble.server import ApiDouble
from tests.bench import sample

NAMESPACE = "d8-system"
_PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets"
TOKEN = "benchmark"  # and not a secret
URGENT = {"registry-agent.io/urgent": ""}


class Asked(NamedTuple):
    """One request that the double has answered; `at` is of the monotonic clock."""

    at: float
    verb: str
    resource: str
    name: str
    code: int
    user_agent: str

    @property
    def is_bench(self) -> bool:
        """Whether it came from here."""
        return not self.user_agent


class Double:
    """The running double as the benchmark uses it."""

    def __init__(self, process: subprocess.Popen[bytes], kubeconfig: Path) -> None:
        self._process = process
        self.kubeconfig = kubeconfig
        self.pid = process.pid
        self._server = Server.of(kubeconfig)

    def asked(self, since: int = 0) -> list[Asked]:
        """Return its record of requests, but for the first ones."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"%d\n" % since)
        self._process.stdin.flush()
        return [Asked(*each) for each in json.loads(self._process.stdout.readline())]

    def create(self, secret: str, document: bytes) -> None:
        """Create a Secret."""
        connection = self._server.connect()
        connection.request("POST", _PATH, _secret(secret, document, {}), self._server.headers)
        _answered(connection, http.HTTPStatus.CREATED)

    @contextmanager
    def put(self, secret: str, document: bytes, annotations: Mapping[str, str] | None = None) -> Iterator[float]:
        """Replace a Secret; yields when that was begun. The answer is waited for at the end."""
        connection = self._server.connect()
        body = _secret(secret, document, annotations or {})
        started = time.monotonic()
        connection.request("PUT", f"{_PATH}/{secret}", body, self._server.headers)
        yield started
        _answered(connection, http.HTTPStatus.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a kubeconfig of the double leads to."""

    url: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]

    @classmethod
    def of(cls, kubeconfig: Path) -> Self:
        """Read a kubeconfig."""
        content = json.loads(kubeconfig.read_text())
        cluster = content["clusters"][0]["cluster"]
        authority = cluster.get("certificate-authority-data")
        tls = ssl.create_default_context(cadata=base64.b64decode(authority).decode()) if authority else None
        token = content["users"][0]["user"]["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return cls(url=cluster["server"], tls=tls, headers=headers)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that stands, so that a request takes no longer than it must."""
        place = urllib.parse.urlsplit(self.url).netloc
        is_plain = self.tls is None
        made = http.client.HTTPConnection(place) if is_plain else http.client.HTTPSConnection(place, context=self.tls)
        made.connect()
        return made


@contextmanager
def running(place: Path, *, nodes: int, is_plain: bool = False, keepalive_s: float | None = None) -> Iterator[Double]:
    """Run the double with Nodes `node_name(0)` and so on, and a kubeconfig for it in `place`."""
    place.mkdir(parents=True, exist_ok=True)
    kubeconfig = place / "kubeconfig"
    arguments = ["-m", "tests.bench.double", str(kubeconfig), str(nodes)]
    arguments += ["--plain"] if is_plain else []
    arguments += ["--keepalive-s", str(keepalive_s)] if keepalive_s is not None else []
    with sample.running(*arguments, commands=subprocess.PIPE) as process:
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the API double did not start")
        yield Double(process, kubeconfig)


def node_name(index: int) -> str:
    """Return the name of a Node."""
    return f"worker-{index:04}"


def _answered(connection: http.client.HTTPConnection, status: http.HTTPStatus) -> None:
    answer = connection.getresponse()
    if answer.status != status:
        raise RuntimeError(f"the double does not take a Secret: {answer.read()!r}")
    connection.close()


def _secret(name: str, document: bytes, annotations: Mapping[str, str]) -> bytes:
    metadata = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
    data = {"config": base64.b64encode(document).decode()}
    return json.dumps({"metadata": metadata, "type": "Opaque", "data": data}).encode()


def main() -> None:
    """Serve until the standard input ends; a line on it is the number of requests that are known already."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.double", description=__doc__)
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("nodes", type=int)
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--keepalive-s", type=float, help="end connections that are idle for longer")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    cluster = Cluster()
    for index in range(options.nodes):
        cluster.add_node(node_name(index), internal_ip=f"10.{index // 65536}.{index // 256 % 256}.{index % 256}")
    double = ApiDouble(cluster, tls=not options.plain)
    if options.keepalive_s is not None:
        double._server._kwargs["keepalive_timeout"] = options.keepalive_s
    async with double:
        if not options.plain:  # credentials do not travel in the clear
            double.tokens[TOKEN] = "system:node:bench"
        double.write_kubeconfig(options.kubeconfig, token=TOKEN)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin.buffer
        )
        print("ready", flush=True)
        while line := await commands.readline():
            print(json.dumps(_record(double, int(line))), flush=True)


def _record(double: ApiDouble, since: int) -> list[tuple[Any, ...]]:
    return [
        (each.at, each.verb, each.resource, each.name, each.code, each.user_agent) for each in double.requests[since:]
    ]


if __name__ == "__main__":
    main()
