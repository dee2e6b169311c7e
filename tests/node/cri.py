"""A CRI client that speaks as the kubelet does, with its few messages encoded by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from tests.node.accounts import Account

DEADLINE_S = 60.0
"""Longer than any pull here should take, shorter than a test's own limit."""
STARTING = "server is not initialized yet"
"""What the CRI plugin answers while containerd starts, before it answers anything else."""


class PullFailed(Exception):
    """containerd could not pull; the text is its own."""

    def __init__(self, reference: str, error: grpc.RpcError) -> None:
        """Say which image, and what containerd says."""
        super().__init__(f"{reference}: {error.code().name}: {error.details()}")
        self.is_containerd_away = error.code() is grpc.StatusCode.UNAVAILABLE or error.details() == STARTING


class Cri:
    """The image and version calls of the CRI on one containerd socket."""

    def __init__(self, socket: Path) -> None:
        """Prepare a channel; it connects at the first call."""
        # containerd refuses the escaped path that grpcio sends as authority of a unix socket.
        options: list[tuple[str, str | int]] = [("grpc.default_authority", "localhost")]
        # After a restart, be back as soon as containerd is.
        options += [(f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "min", "max")]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def version(self) -> tuple[str, str]:
        """Return the runtime's name and version."""
        answer = dict(_fields(self.call("RuntimeService/Version", b"")))
        return answer[2].decode(), answer[3].decode()

    def pull(self, reference: str, account: Account | None = None) -> str:
        """Pull an image, with a pull secret's credentials if given; return its id."""
        request = _image(reference)
        if account is not None:
            names = field(1, account.username.encode()) + field(2, account.password.encode())
            request += field(2, names)
        try:
            answer = self.call("ImageService/PullImage", request)
        except grpc.RpcError as error:
            raise PullFailed(reference, error) from error
        return dict(_fields(answer))[1].decode()

    def has(self, reference: str) -> bool:
        """Tell whether the runtime holds the image."""
        return 1 in dict(_fields(self.call("ImageService/ImageStatus", _image(reference))))

    def remove(self, reference: str) -> None:
        """Remove an image; none there is fine."""
        self.call("ImageService/RemoveImage", _image(reference))

    def call_for_id(self, method: str, request: bytes) -> str:
        """Make a call whose reply is the id of what it made."""
        return dict(_fields(self.call(method, request)))[1].decode()

    def call(self, method: str, request: bytes) -> bytes:
        """Make a call of runtime.v1."""
        method_call: Callable[..., bytes] = self._channel.unary_unary(f"/runtime.v1.{method}")
        return method_call(request, timeout=DEADLINE_S)


def _image(reference: str) -> bytes:
    """Encode a request whose field 1 is an ImageSpec, whose field 1 is the reference."""
    return field(1, field(1, reference.encode()))


def field(number: int, payload: bytes) -> bytes:
    """Encode one length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message; those read here are all length-delimited."""
    while message:
        tag, message = message[0], message[1:]
        if tag & 7 != 2:
            raise ValueError(f"unexpected wire type in tag {tag}")
        size, message = _take_varint(message)
        yield tag >> 3, message[:size]
        message = message[size:]


def _take_varint(message: bytes) -> tuple[int, bytes]:
    """Split a leading varint off."""
    value = 0
    for position, byte in enumerate(message):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, message[position + 1 :]
    raise ValueError("truncated message")
