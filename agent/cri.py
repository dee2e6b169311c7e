"""Asks containerd over its socket as the kubelet does: the only door to h2.

gRPC's health says SERVING even when the CRI plugin did not load, so healthy means that CRI calls
are answered. Five unary calls are all there is: grpcio would cost 12 MB for them and grpclib 2.1 MB,
h2 costs 1.5 MB (measured inside the agent). Nothing here changes the runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from agent import protobuf
from agent.errors import RuntimeUnavailable

#: containerd answers these calls within milliseconds; on a busy node the lists take longer.
TIMEOUT_S = 10.0

#: The kubelet's limit, too; hundreds of containers with their labels are about 1 MiB.
MAX_REPLY_BYTES = 16 * 1024 * 1024

_MAX_DETAILS = 256
_READ_BYTES = 64 * 1024
_STREAM = 1  # a client's first: each call has a connection of its own
_PREFIX = 5  # one byte "is compressed" and four with the message's length

# Messages of runtime.v1 and grpc.health.v1; their field numbers stand where they are read.
_RUNTIME = "/runtime.v1.RuntimeService"
_VERBOSE = b"\x08\x01"  # StatusRequest.verbose = true
_RUNNING = b"\x0a\x04\x12\x02\x08\x01"  # ListContainersRequest.filter.state.state = CONTAINER_RUNNING
_SERVING = 1

#: gRPC's status codes in the order of their numbers.
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

_EXITED, _UNKNOWN = 2, 3  # ContainerState
#: containerd's reason for the end of a container whose shim is gone when it comes back.
_UNSEEN = "Unknown"

_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What the runtime calls itself: `containerd`, `1.7.24~ds1`."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of the runtime; `type` is RuntimeReady, NetworkReady or a word of the runtime's own."""

    type: str
    is_true: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The runtime's conditions and, if asked for, its account of itself, which may hold credentials."""

    conditions: tuple[Condition, ...]
    info: Mapping[str, str] = field(repr=False)

    @property
    def is_ready(self) -> bool:
        """Tell whether the runtime says RuntimeReady; the network is not containerd's business."""
        return any(condition.is_true for condition in self.conditions if condition.type == "RuntimeReady")


class Cri:
    """The few calls that the agent needs; each has a deadline and raises RuntimeUnavailable."""

    def __init__(self, socket: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        """Open nothing yet: each call has a connection of its own."""
        self._socket = socket
        self._timeout_s = timeout_s

    async def version(self) -> Version:
        """Return the runtime's name and version."""
        return await self._call(f"{_RUNTIME}/Version", b"", _version)

    async def status(self, *, verbose: bool = False) -> Status:
        """Return the conditions; verbose adds `info`, in which containerd 1.x tells its loaded config."""
        return await self._call(f"{_RUNTIME}/Status", _VERBOSE if verbose else b"", _status)

    async def running_containers(self) -> frozenset[str]:
        """Return the ids of the containers that run."""
        return await self._call(f"{_RUNTIME}/ListContainers", _RUNNING, _container_ids)

    async def is_cut_off(self, container: str) -> bool:
        """Tell whether a container has ended and nobody has seen how; not of one that was removed."""
        name = container.encode()
        request = b"\x0a" + bytes([len(name)]) + name  # ContainerStatusRequest.container_id
        try:
            return await self._call(f"{_RUNTIME}/ContainerStatus", request, _is_cut_off)
        except RuntimeUnavailable as err:
            if err.code != "NOT_FOUND":
                raise
            return False

    async def is_serving(self) -> bool:
        """Tell what containerd's health service says, which knows nothing of the CRI plugin."""
        return await self._call(
            "/grpc.health.v1.Health/Check", b"", lambda reply: protobuf.number(reply, 1) == _SERVING
        )

    async def _call(self, method: str, request: bytes, decode: Callable[[bytes], _Reply]) -> _Reply:
        call = method.rpartition("/")[2]
        try:
            async with asyncio.timeout(self._timeout_s):
                return decode(await self._converse(_Exchange(method, request)))
        except _Refused as err:
            raise RuntimeUnavailable(call, err.code, " ".join(err.details.split())[:_MAX_DETAILS]) from None
        except TimeoutError as err:
            raise RuntimeUnavailable(call, "DEADLINE_EXCEEDED", f"no answer in {self._timeout_s:g} s") from err
        except OSError as err:
            raise RuntimeUnavailable(call, "UNAVAILABLE", err.strerror or type(err).__name__) from err
        except (H2Error, ValueError) as err:
            raise RuntimeUnavailable(call, "INTERNAL", f"malformed answer, {type(err).__name__}") from err

    async def _converse(self, exchange: _Exchange) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            while not exchange.is_over:
                writer.write(exchange.to_send())
                exchange.receive(await reader.read(_READ_BYTES))
            return exchange.reply()
        finally:
            writer.transport.abort()  # close would wait for a peer that no longer reads
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Refused(Exception):
    """The call ended with a gRPC status other than OK."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code)
        self.code = code
        self.details = details


class _Exchange:
    """One unary gRPC call as bytes to send and bytes received."""

    def __init__(self, method: str, request: bytes) -> None:
        self.is_over = False
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._http2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http2.initiate_connection()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost")]
        self._http2.send_headers(_STREAM, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")])
        self._http2.send_data(_STREAM, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)

    def to_send(self) -> bytes:
        return self._http2.data_to_send()

    def receive(self, received: bytes) -> None:
        """Take in what came; no bytes mean that the connection was closed."""
        if not received:
            raise _Refused("UNAVAILABLE", "the connection was closed")
        for event in self._http2.receive_data(received):
            self._heed(event)

    def _heed(self, event: Event) -> None:
        match event:
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._headers |= {str(name): str(value) for name, value in headers}
            case DataReceived(data=data, flow_controlled_length=length):
                self._body += data
                self._http2.acknowledge_received_data(length, _STREAM)
                if len(self._body) > MAX_REPLY_BYTES:
                    raise _Refused("RESOURCE_EXHAUSTED", f"more than {MAX_REPLY_BYTES} bytes")
            case StreamReset() | ConnectionTerminated():
                raise _Refused("UNAVAILABLE", "the call was cut off")
            case StreamEnded():
                self.is_over = True
            case _:
                pass  # settings, window updates, pings: h2 answers them by itself

    def reply(self) -> bytes:
        """Return the message, of a call that is over and went well."""
        number = int(self._headers.get("grpc-status", "2"))
        if number != 0:
            code = _CODES[number] if number in range(len(_CODES)) else "UNKNOWN"
            http_status = f"HTTP status {self._headers.get(':status')}"
            raise _Refused(code, unquote(self._headers.get("grpc-message", http_status)))
        length = int.from_bytes(self._body[1:_PREFIX], "big")
        if len(self._body) != _PREFIX + length or self._body[0] != 0:
            raise ValueError("not one uncompressed message")
        return bytes(self._body[_PREFIX:])


def _version(reply: bytes) -> Version:
    return Version(name=protobuf.text(reply, 2), version=protobuf.text(reply, 3))


def _status(reply: bytes) -> Status:
    conditions = tuple(
        _condition(message) for status in protobuf.every(reply, 1) for message in protobuf.every(status, 1)
    )
    return Status(
        conditions=conditions,
        info={protobuf.text(entry, 1): protobuf.text(entry, 2) for entry in protobuf.every(reply, 2)},
    )


def _condition(message: bytes) -> Condition:
    is_true = protobuf.number(message, 2) == 1
    return Condition(
        type=protobuf.text(message, 1),
        is_true=is_true,
        reason=protobuf.text(message, 3),
        message=protobuf.text(message, 4),
    )


def _container_ids(reply: bytes) -> frozenset[str]:
    return frozenset(protobuf.text(container, 1) for container in protobuf.every(reply, 1))


def _is_cut_off(reply: bytes) -> bool:
    (status,) = protobuf.every(reply, 1)
    state, reason = protobuf.number(status, 3), protobuf.text(status, 10)
    return state == _UNKNOWN or (state == _EXITED and reason == _UNSEEN)
