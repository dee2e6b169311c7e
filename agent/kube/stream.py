"""Reads answers of the API server with a limit on their size: whole, or line by line from a watch.

Not aiohttp's line reader: it gives up at 512 KiB (aiohttp 3.14), and a Secret may have 1 MiB, which
base64 makes 1.4 MiB.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import aiohttp

from agent.errors import ApiFailed
from agent.kube import tls

#: An object has at most 1.5 MiB in etcd by default; an event of a watch is one object.
MAX_BYTES = 3 * 1024 * 1024

#: Makes an error of a reason and a text.
Fail = Callable[[str, str], ApiFailed]


async def read_all(content: aiohttp.StreamReader) -> bytes:
    """Return the whole body; raises aiohttp.ClientError, also when it is too large."""
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > MAX_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {MAX_BYTES} bytes")
    return bytes(body)


class Stream:
    """The events of one watch, in order."""

    def __init__(self, content: aiohttp.StreamReader, fail: Fail) -> None:
        """`fail` makes the errors, so that they name the watch."""
        self._content = content
        self._fail = fail
        self._buffer = bytearray()

    async def next(self, *, within_s: float) -> dict[str, Any] | None:
        """Return the next event, None when the server has ended the watch; raises ApiFailed.

        Silence for longer than `within_s` is a failure: a live watch brings a bookmark each minute.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            chunk = await self._read(within_s)
            if not chunk and self._buffer:
                raise self._fail("ApiUnreachable", "the watch was cut in the middle of an event")
            if not chunk:
                return None
            self._buffer += chunk
            if len(self._buffer) > MAX_BYTES:
                raise self._fail("ApiGarbled", f"an event has more than {MAX_BYTES} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return self._event(line)

    async def _read(self, within_s: float) -> bytes:
        try:
            async with asyncio.timeout(within_s):
                return await self._content.readany()
        except TimeoutError:
            why = f"the watch was silent for {within_s:.0f} s"
        except (aiohttp.ClientError, OSError) as err:
            why = f"the watch was cut: {cause(err)}"
        raise self._fail("ApiUnreachable", why)

    def _event(self, line: bytes) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict) and isinstance(event.get("object"), dict):
            return event
        raise self._fail("ApiGarbled", "the watch brought something that is no event")


def cause(err: Exception) -> str:
    """Say what a library's exception means, without its own text: that may quote the request."""
    match err:
        case aiohttp.ClientConnectorCertificateError(certificate_error=refused):
            words = getattr(refused, "verify_message", "") or "it does not verify"
            return f"the server's certificate is not accepted: {words}"
        case aiohttp.ClientHttpProxyError(status=status):
            return f"the proxy answers HTTP {status}"
        case aiohttp.ClientConnectorError(os_error=refused):
            where = " to the proxy" if isinstance(err, aiohttp.ClientProxyConnectionError) else ""
            return f"cannot connect{where}: {tls.problem(refused) or _words(refused)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the connection was lost"
        case OSError():
            return tls.problem(err) or _words(err)
        case _:
            return type(err).__name__


def _words(err: OSError) -> str:
    """Return the system's words: asyncio puts the address into strerror, a resolver's errno is negative."""
    if err.errno is not None and err.errno > 0:
        return os.strerror(err.errno)
    if isinstance(err, aiohttp.ClientOSError) and err.errno is None:  # its text names the URL
        return "the connection was lost"
    return err.strerror or type(err).__name__
