"""Rude ends of TCP connections."""

import asyncio
import socket
import struct

from aiohttp import web


def reset_transport(transport: asyncio.BaseTransport | None) -> None:
    """End a connection with RST."""
    if isinstance(transport, asyncio.WriteTransport):
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def reset(request: web.BaseRequest) -> None:
    """End a request's connection with RST."""
    reset_transport(request.transport)


def close(request: web.BaseRequest) -> None:
    """End a request's connection with FIN, after what is written and before what HTTP still promises."""
    if request.transport is not None:
        request.transport.close()


async def gone() -> None:
    """Wait until the client, or the double, ends the connection: that cancels the handler."""
    await asyncio.get_running_loop().create_future()
