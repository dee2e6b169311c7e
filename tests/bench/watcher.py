"""The floor of the cluster side: a bare aiohttp client that lists, watches, writes the same bytes and patches once.

It checks nothing, renders nothing, retries nothing and reports nothing but that it is done.
"""

import argparse
import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.bench import bare
from tests.bench.double import NAMESPACE, Server

_SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


class Watcher:
    """One session to the API."""

    def __init__(self, kubeconfig: Path) -> None:
        self._server = Server.of(kubeconfig)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._server.url,
            headers={"Authorization": self._server.headers["Authorization"], "User-Agent": "bare-watcher"},
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(ssl=self._server.tls or True, force_close=True),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def follow(self, path: str, name: str) -> AsyncIterator[dict[str, Any]]:
        """Yield one object of a collection as it is, and whenever it has changed."""
        query = {"fieldSelector": f"metadata.name={name}"}
        async with self._session.get(path, params=query) as answer:
            listed = await answer.json()
        for found in listed["items"]:
            yield found
        query |= {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "540"}
        async with self._session.get(path, params=query) as answer:
            buffer = b""
            while chunk := await answer.content.readany():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)["object"]

    async def secret(self, name: str) -> AsyncIterator[tuple[bytes, Mapping[str, str]]]:
        """Yield document and annotations of a Secret whenever it has changed."""
        async for found in self.follow(_SECRETS, name):
            yield base64.b64decode(found["data"]["config"]), found["metadata"].get("annotations", {})

    async def patch(self, node: str, version: str) -> None:
        """Let the Node say that a version is in place."""
        condition = {"type": "RegistryConfigReady", "status": "True", "reason": "InPlace", "message": version}
        body = {
            "metadata": {"annotations": {"registry.deckhouse.io/version": version}},
            "status": {"conditions": [condition]},
        }
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        url = f"/api/v1/nodes/{node}/status"
        async with self._session.patch(url, data=json.dumps(body).encode(), headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()


async def _write(options: argparse.Namespace) -> None:
    """Write the files whenever the Secret changes, print its last line when they are durable, then patch."""
    first, edited = (bare.written(options.model, *options.names, is_edit=is_edit) for is_edit in (False, True))
    bare.write_all(options.root, first)
    is_ready = False
    async with Watcher(options.kubeconfig) as watcher:
        async for document, _annotations in watcher.secret(options.secret):
            last_line = document.splitlines()[-1].decode()
            bare.write_all(options.root, edited)
            print(last_line if is_ready else "ready", flush=True)
            is_ready = True
            await watcher.patch(options.node, last_line)


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watcher", description=__doc__)
    for name in ("kubeconfig", "model", "root"):
        parser.add_argument(name, type=Path)
    for name in ("secret", "node"):
        parser.add_argument(name)
    parser.add_argument("names", nargs=2)
    asyncio.run(_write(parser.parse_args()))


if __name__ == "__main__":
    main()
