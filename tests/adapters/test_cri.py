"""The CRI client against a gRPC server that answers well and badly; real containerd is in tests/node."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from h2.connection import H2Connection

from agent import cri as door
from agent import protobuf
from agent.cri import Condition, Cri, Version
from agent.errors import RuntimeUnavailable
from tests.support.grpc_double import GREETING, GrpcDouble, framed, serving

Misdeed = Callable[[H2Connection], bytes | None]


@pytest.fixture
async def double(tmp_path: Path) -> AsyncIterator[GrpcDouble]:
    async with serving(tmp_path / "socket") as served:
        yield served


@pytest.fixture
def cri(tmp_path: Path) -> Cri:
    return Cri(tmp_path / "socket", timeout_s=5.0)


async def test_a_version_is_read(cri: Cri, double: GrpcDouble) -> None:
    """And asked for as gRPC wants it: Go's server refuses another authority or no trailers."""
    double.body = framed(_field(1, b"0.1.0") + _field(2, b"containerd") + _field(3, b"2.1.9") + _field(4, b"v1"))
    assert await cri.version() == Version(name="containerd", version="2.1.9")
    ((headers, body),) = double.requests
    assert headers == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/runtime.v1.RuntimeService/Version",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    assert body == framed(b"")


async def test_a_status_is_read(cri: Cri, double: GrpcDouble) -> None:
    """Conditions that are false leave their field out."""
    ready = _field(1, b"RuntimeReady") + b"\x10\x01"
    network = _field(1, b"NetworkReady") + _field(3, b"NotReady") + _field(4, b"no plugin")
    secret = _field(1, b"config") + _field(2, b"hunter2")
    double.body = framed(_field(1, _field(1, ready) + _field(1, network)) + _field(2, secret))
    status = await cri.status(verbose=True)
    assert status.conditions == (
        Condition(type="RuntimeReady", is_true=True, reason="", message=""),
        Condition(type="NetworkReady", is_true=False, reason="NotReady", message="no plugin"),
    )
    assert status.is_ready
    assert status.info == {"config": "hunter2"}
    assert "hunter2" not in repr(status)
    assert protobuf.number(double.requests[0][1][5:], 1) == 1


@pytest.mark.parametrize("condition", [b"", b"\x10\x00"])
async def test_a_runtime_that_does_not_say_ready_is_not(cri: Cri, double: GrpcDouble, condition: bytes) -> None:
    double.body = framed(_field(1, _field(1, _field(1, b"RuntimeReady") + condition)))
    status = await cri.status()
    assert not status.is_ready
    assert double.requests[0][1] == framed(b"")


async def test_only_running_containers_are_asked_for(cri: Cri, double: GrpcDouble) -> None:
    double.body = framed(b"".join(_field(1, _field(1, name) + _field(2, b"pod")) for name in (b"one", b"two")))
    assert await cri.running_containers() == {"one", "two"}
    (container_filter,) = protobuf.every(double.requests[0][1][5:], 1)
    (state,) = protobuf.every(container_filter, 2)
    assert protobuf.number(state, 1) == 1


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [(1, b"", False), (2, b"Completed", False), (2, b"Error", False), (2, b"Unknown", True), (3, b"", True)],
    ids=["running", "done", "killed", "shim-gone", "unknown"],
)
async def test_a_container_whose_end_nobody_has_seen_is_cut_off(
    cri: Cri, double: GrpcDouble, state: int, reason: bytes, *, expected: bool
) -> None:
    double.body = framed(_field(1, _field(1, b"one") + bytes([0x18, state]) + _field(10, reason)))
    assert await cri.is_cut_off("one") is expected
    ((headers, body),) = double.requests
    assert headers[":path"] == "/runtime.v1.RuntimeService/ContainerStatus"
    assert protobuf.text(body[5:], 1) == "one"


async def test_a_container_that_was_removed_is_not_cut_off(cri: Cri, double: GrpcDouble) -> None:
    double.trailers = (("grpc-status", "5"),)
    assert not await cri.is_cut_off("one")


@pytest.mark.parametrize(("body", "expected"), [(b"\x08\x01", True), (b"\x08\x02", False), (b"", False)])
async def test_health_is_serving_or_not(cri: Cri, double: GrpcDouble, body: bytes, *, expected: bool) -> None:
    double.body = framed(body)
    assert await cri.is_serving() is expected
    assert double.requests[0][0][":path"] == "/grpc.health.v1.Health/Check"


async def test_a_long_answer_arrives_whole(cri: Cri, double: GrpcDouble) -> None:
    """Many times HTTP/2's window, which must be opened again and again."""
    names = frozenset(f"{number:064x}" for number in range(20_000))
    double.body = framed(b"".join(_field(1, _field(1, name.encode())) for name in names))
    assert await cri.running_containers() == names


async def test_an_answer_without_end_is_refused(cri: Cri, double: GrpcDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_REPLY_BYTES", 100_000)
    double.body = framed(_field(9, b"x" * 1_000_000))
    assert await _code(cri.version()) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("number", "code"), [("12", "UNIMPLEMENTED"), ("14", "UNAVAILABLE"), ("16", "UNAUTHENTICATED"), ("99", "UNKNOWN")]
)
@pytest.mark.parametrize("has_trailers", [True, False])
async def test_a_refusal_has_grpcs_word(
    cri: Cri, double: GrpcDouble, number: str, code: str, *, has_trailers: bool
) -> None:
    """After a body or as headers alone; the text is unescaped, one line, and cut."""
    status = (("grpc-status", number), ("grpc-message", "unknown%20service%0A" + "x" * 500))
    double.body = b""
    double.headers = GREETING if has_trailers else GREETING + status
    double.trailers = status if has_trailers else ()
    with pytest.raises(RuntimeUnavailable) as caught:
        await cri.version()
    assert caught.value.code == code
    assert caught.value.message.startswith(f"containerd did not answer Version: {code} (unknown service x")
    assert len(caught.value.message) < 310


async def test_a_server_that_speaks_no_grpc_is_unknown(cri: Cri, double: GrpcDouble) -> None:
    double.headers, double.trailers = ((":status", "404"),), ()
    with pytest.raises(RuntimeUnavailable, match=r"UNKNOWN .HTTP status 404"):
        await cri.version()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        framed(b"\x0a\x01x") + b"x",
        framed(b"\x0a\x01x")[:-1],
        b"\x01" + framed(b"\x0a\x01x")[1:],
        framed(b"\x0a\x05x"),
        framed(b"\x0a"),
        framed(b"\x0b"),
        framed(b"\x80" * 11),
    ],
)
async def test_a_malformed_answer_is_refused(cri: Cri, double: GrpcDouble, body: bytes) -> None:
    """Cut short, too long, compressed, or no protobuf."""
    double.body = body
    assert await _code(cri.version()) == "INTERNAL"


async def test_a_malformed_message_within_an_answer_is_refused(cri: Cri, double: GrpcDouble) -> None:
    double.body = framed(_field(1, b"\x0a\x05x"))
    assert await _code(cri.running_containers()) == "INTERNAL"


def _goes_away(http2: H2Connection) -> bytes:
    http2.close_connection()
    return http2.data_to_send()


def _resets(http2: H2Connection) -> bytes:
    http2.reset_stream(1)
    return http2.data_to_send()


def _stops_in_the_middle(http2: H2Connection) -> bytes:
    http2.send_headers(1, GREETING)
    http2.send_data(1, framed(b"1234")[:-1])
    return http2.data_to_send()


@pytest.mark.parametrize(
    ("misdeed", "code"),
    [
        (_goes_away, "UNAVAILABLE"),
        (_resets, "UNAVAILABLE"),
        (_stops_in_the_middle, "UNAVAILABLE"),
        (lambda _: b"", "UNAVAILABLE"),
        (lambda _: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "UNAVAILABLE"),
        (lambda _: bytes(9), "INTERNAL"),
    ],
)
async def test_a_call_that_is_cut_off_is_an_error(cri: Cri, double: GrpcDouble, misdeed: Misdeed, code: str) -> None:
    """As when containerd is restarted under it; the next call has a connection of its own."""
    double.misdeed = misdeed
    assert await _code(cri.version()) == code
    double.misdeed = None
    assert await cri.version() == Version(name="", version="")


async def test_a_server_that_keeps_silent_is_given_up(double: GrpcDouble, tmp_path: Path) -> None:
    double.misdeed = lambda _: None
    with pytest.raises(RuntimeUnavailable, match=r"DEADLINE_EXCEEDED .no answer in 0\.1 s"):
        await Cri(tmp_path / "socket", timeout_s=0.1).version()


async def test_a_socket_that_is_not_there_is_unavailable(cri: Cri) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"UNAVAILABLE .No such file or directory"):
        await cri.version()


async def test_a_socket_that_nobody_listens_on_is_unavailable(cri: Cri, tmp_path: Path) -> None:
    """What a killed containerd leaves."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    assert await _code(cri.version()) == "UNAVAILABLE"


async def test_a_call_can_be_cancelled(cri: Cri, double: GrpcDouble) -> None:
    asked = asyncio.Event()

    def listen(_: H2Connection) -> None:
        asked.set()

    double.misdeed = listen
    call = asyncio.create_task(cri.version())
    await asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def _code(call: Awaitable[object]) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        await call
    return caught.value.code


def _field(number: int, payload: bytes) -> bytes:
    """Encode a length-delimited field."""
    size = len(payload)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + payload
