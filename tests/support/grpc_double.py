"""A gRPC server on a unix socket that answers as a test says, well or badly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

Headers = tuple[tuple[str, str], ...]

GREETING: Headers = ((":status", "200"), ("content-type", "application/grpc"))
OK: Headers = (("grpc-status", "0"),)


def framed(message: bytes) -> bytes:
    """Return a message as gRPC puts it into the body."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@dataclass(kw_only=True)
class GrpcDouble:
    """The answer to the next calls, and the calls that came."""

    headers: Headers = GREETING
    body: bytes = framed(b"")
    trailers: Headers = OK
    misdeed: Callable[[H2Connection], bytes | None] | None = None
    """Instead of an answer: bytes to send before hanging up, or None to keep silent."""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[GrpcDouble]:
    """Serve a double; connections end with it."""
    double = GrpcDouble()
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks: list[asyncio.Task[None]] = []

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(group.create_task(_serve(double, reader, writer)))

        async with await asyncio.start_unix_server(connected, socket):
            yield double
        for task in tasks:
            task.cancel()


async def _serve(double: GrpcDouble, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    call = _Call(double)
    try:
        while not call.hangs_up and (received := await reader.read(65536)):
            writer.write(call.heard(received))
    except ConnectionError:
        pass
    finally:
        writer.close()


class _Call:
    """The server's side of one connection with one call."""

    def __init__(self, double: GrpcDouble) -> None:
        self.hangs_up = False
        self._double = double
        self._headers: dict[str, str] = {}
        self._request = b""
        self._unsent: bytes | None = None
        self._http2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._http2.initiate_connection()

    def heard(self, received: bytes) -> bytes:
        """Return what is to be said to that."""
        for event in self._http2.receive_data(received):
            match event:
                case RequestReceived():
                    self._headers = {str(name): str(value) for name, value in event.headers}
                case DataReceived():
                    self._request += event.data
                case StreamEnded() if self._double.misdeed is not None:
                    last = self._double.misdeed(self._http2)
                    self.hangs_up = last is not None
                    return last or b""
                case StreamEnded():
                    self._answer()
                case _:
                    pass
        self._send()
        return self._http2.data_to_send()

    def _answer(self) -> None:
        self._double.requests.append((self._headers, self._request))
        has_body = bool(self._double.trailers)
        self._http2.send_headers(1, self._double.headers, end_stream=not has_body)
        self._unsent = self._double.body if has_body else None

    def _send(self) -> None:
        """Send as much as the client's window allows, then the trailers."""
        if self._unsent is None:
            return
        while self._unsent and (window := self._http2.local_flow_control_window(1)):
            size = min(window, self._http2.max_outbound_frame_size)
            self._http2.send_data(1, self._unsent[:size])
            self._unsent = self._unsent[size:]
        if not self._unsent:
            self._http2.send_headers(1, self._double.trailers, end_stream=True)
            self._unsent = None
