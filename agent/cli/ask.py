"""`status`: asks the running agent over its unix socket and makes a table of the answer."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from agent.errors import AgentUnreachable
from agent.settings import SOCKET_NAME

TIMEOUT_S = 5.0

_LEGACY = {"default": "none found", "custom": "PRESENT (see errors)"}

_STATES = {
    "left-alone": "config.toml is left alone",
    "in-order": "reads registry.d",
    "restarted": "was restarted, reads registry.d",
    "would-change": "config.toml would be pointed at registry.d",
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, directory: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._directory = directory

    def connect(self) -> None:
        # Through the directory's descriptor: a socket's path may have only 107 bytes.
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(TIMEOUT_S)
            self.sock.connect(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
        finally:
            os.close(descriptor)


def status(run_dir: Path) -> dict[str, Any]:
    """Return the agent's `/status`; raises AgentUnreachable."""
    connection = _UnixConnection(run_dir)
    try:
        connection.request("GET", "/status")
        return dict(json.loads(connection.getresponse().read()))
    except (OSError, http.client.HTTPException, ValueError) as err:
        message = f"no agent answers on {run_dir / SOCKET_NAME}"
        raise AgentUnreachable(message, remedy="is it running, and with this --root? are you root?") from err
    finally:
        connection.close()


def table(found: dict[str, Any]) -> str:
    """Make a table that a person can read."""
    rows = [
        ("node", f"{'ready' if found['ready'] else 'NOT READY'} ({found['reason']})"),
        ("", found["message"]),
    ]
    if "applied_version" in found:
        desired = found["desired"]
        origin = f" ({desired['origin']})" if desired["origin"] else ""
        rows += [
            ("mode", f"{found['mode']}, registry mode {desired['mode'] or '-'}"),
            ("desired", f"{desired['version'] or '-'}{origin}"),
            ("in place", found["applied_version"]),
            ("legacy", _LEGACY.get(found["legacy"], "not known")),
        ]
        rows += [("managed by", other["message"]) for other in found["managers"]]
        rows += [("containerd", _containerd(found["containerd"]))]
        rows += _cluster(found.get("cluster"), found["message"])
        rows += [("last pass", _last_pass(found))]
    lines = [f"{name:<10} {text}" for name, text in rows]
    for host in found.get("hosts", ()):
        state = "in place" if host["in_place"] else "DIFFERS"
        taken_over = ", taken over from somebody else" if host["taken_over"] else ""
        lines.append(f"{'host':<10} {host['host']}: {state}{taken_over}")
        lines += [f"{'':<12}{index}. {_mirror(mirror)}" for index, mirror in enumerate(host["mirrors"], start=1)]
        lines.append(f"{'':<12}then {_fallback(host)}")
    lines += [f"{'warning':<10} {warning['message']}" for warning in found.get("warnings", ())]
    lines += [f"{'error':<10} {error['reason']}: {error['message']}" for error in found.get("errors", ())]
    return "\n".join(lines)


def _containerd(found: dict[str, Any]) -> str:
    name = ", ".join(filter(None, (found["version"] or "version not known", found["flavour"])))
    detail = f" ({found['detail']})" if found["detail"] else ""
    return f"{name}: {found['message'] or _STATES[found['state']]}{detail}"


def _cluster(found: dict[str, Any] | None, said: str) -> list[tuple[str, str]]:
    """Say what of the cluster side is not as it should be, and nothing when all is well; nor what is said already."""
    if not found:
        return []
    waits_s = found["change_waits_s"]
    texts = [
        found["problem"],
        f"the Secret cannot be followed: {found['api_error']}" if found["api_error"] else None,
        f"a change of the Secret is adopted in {waits_s:.0f} s" if waits_s is not None else None,
    ]
    return [("cluster", text.removesuffix(f": {said}")) for text in texts if text]


def _last_pass(found: dict[str, Any]) -> str:
    last = found["last_pass"]
    return f"number {last['number']} ({last['trigger']}), {last['duration_s'] * 1000:.1f} ms"


def _mirror(mirror: dict[str, Any]) -> str:
    parts = ["CA" if mirror["ca"] else "", "client certificate" if mirror["client_certificate"] else ""]
    parts += [f"user {mirror['user']}" if mirror["user"] else "no credentials"]
    parts += [f"{mirror['rewrites']} rewrites" if mirror["rewrites"] else ""]
    return f"{mirror['url']} ({', '.join(part for part in parts if part)})"


def _fallback(host: dict[str, Any]) -> str:
    if host["server"]:
        return str(host["server"])
    return "the original registry" if host["fallback"] else "nowhere else"
