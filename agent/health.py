"""The local health endpoint: /healthz, /readyz, /status, /metrics on a unix socket and loopback TCP.

Says what the board says and changes nothing. No secrets reach it: it only knows reports.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from agent import __version__
from agent.board import Board
from agent.desired import Origin
from agent.errors import ListenFailed
from agent.metrics import CONTENT_TYPE, Metrics
from agent.report import Report, as_json
from agent.settings import SOCKET_NAME, Settings, split_listen

SOCKET_MODE = 0o600

#: Nothing here takes long, so nothing is waited for when the agent stops.
SHUTDOWN_TIMEOUT_S = 0.5

_STARTING = {"ready": False, "reason": "Starting", "message": "the first pass has not ended yet"}


def make_app(board: Board, metrics: Metrics, cluster: Callable[[], Mapping[str, Any] | None]) -> web.Application:
    """Return the application; errors are JSON like everything but metrics. `cluster` gives its side's state."""
    app = web.Application(middlewares=[_json_errors], client_max_size=1024)

    async def healthz(_: web.Request) -> web.Response:
        hung_for_s = board.hung_for_s
        if hung_for_s is None:
            return web.json_response({"healthy": True})
        message = f"a pass has been running for {hung_for_s:.0f} s"
        return web.json_response({"healthy": False, "message": message}, status=503)

    async def readyz(_: web.Request) -> web.Response:
        if board.posted is None:
            return web.json_response(_STARTING, status=503)
        report = board.posted.report
        body = {
            "ready": report.verdict.is_ready,
            "reason": report.verdict.reason,
            "message": report.verdict.message,
            "applied_version": report.applied_version,
            "desired": _desired(report, cluster()),
        }
        return web.json_response(body, status=200 if report.verdict.is_ready else 503)

    async def status(_: web.Request) -> web.Response:
        posted = board.posted
        agent = {"version": __version__, "pid": os.getpid()}
        if posted is None:
            return web.json_response({"agent": agent, **_STARTING, "cluster": cluster()})
        last_pass = {
            "number": posted.number,
            "trigger": posted.trigger,
            "finished_at": posted.finished_at,
            "duration_s": round(posted.duration_s, 6),
            "next_in_s": round(posted.next_in_s, 1),
        }
        return web.json_response(
            {"agent": agent, **as_json(posted.report), "cluster": cluster(), "last_pass": last_pass}
        )

    async def exposition(_: web.Request) -> web.Response:
        metrics.see_cluster(cluster())
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/status", status)
    app.router.add_get("/metrics", exposition)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    """Serve on the unix socket and, if it is set, on TCP; raises ListenFailed."""
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    run_dir = settings.on_node(settings.run_dir)
    try:
        await web.SockSite(runner, _unix_socket(run_dir)).start()
        if settings.health_listen:
            await web.SockSite(runner, _tcp_socket(settings.health_listen)).start()
        yield
    finally:
        await runner.cleanup()
        (run_dir / SOCKET_NAME).unlink(missing_ok=True)


def _desired(report: Report, cluster: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say where the config in force comes from, and how long ago its source was last known to say so."""
    if report.desired_origin is None:
        return {"origin": None, "age_s": None}
    age_s = cluster["api_silent_for_s"] if cluster and report.desired_origin is Origin.LIVE else None
    if age_s is None and report.desired_as_of is not None:
        age_s = round(max(0.0, time.time() - report.desired_as_of), 1)
    return {"origin": report.desired_origin.value, "age_s": age_s}


def _unix_socket(run_dir: Path) -> socket.socket:
    """Bind through the directory's descriptor: a socket's path may have only 107 bytes."""
    listener = socket.socket(socket.AF_UNIX)
    path = run_dir / SOCKET_NAME
    try:
        descriptor = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path.unlink(missing_ok=True)  # left by a killed agent: the lock says that no other one runs
            listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
            path.chmod(SOCKET_MODE)
        finally:
            os.close(descriptor)
    except OSError as err:
        listener.close()
        message = f"cannot listen on {path}: {err.strerror}"
        raise ListenFailed(message, remedy="check run_dir") from err
    return listener


def _tcp_socket(listen: str) -> socket.socket:
    host, port = split_listen(listen)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as err:
        message = f"cannot listen on {listen}: {err.strerror}"
        raise ListenFailed(message, remedy="free the port, or set health_listen (empty for none)") from err


@web.middleware
async def _json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as err:
        allowed = {"Allow": err.headers["Allow"]} if "Allow" in err.headers else None
        return web.json_response({"error": err.reason}, status=err.status, headers=allowed)
