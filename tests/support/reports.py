"""Reports as a pass would make them, without any pass."""

import functools
from pathlib import PurePosixPath
from typing import Any

from agent.desired import Origin
from agent.errors import ApiFailed, ConfigInvalid, CredentialsUnusable, DiskFailed, Problem, SourceUnreadable
from agent.legacy import Legacy, LegacyFinding
from agent.model import DesiredConfig
from agent.outcome import Mode, Outcome, Standing
from agent.plan import Plan, ReplaceFiles, SaveForeign
from agent.report import Report, make_report
from agent.tree import File
from tests.support import documents, rendering
from tests.support.documents import document, host, mirror
from tests.support.kubeconfigs import CANARY

INVALID = ConfigInvalid((Problem(path="mode", rule="must not be empty"),))
FORBIDDEN = ApiFailed("ApiForbidden", "list secrets s: HTTP 403, no", remedy="grant the verb list", code=403)
KEYLESS = CredentialsUnusable("kubeconfig /x: No such file or directory", remedy="put it there")
UNREADABLE = SourceUnreadable("no", remedy="repair it")
DISK = DiskFailed("write", "/x", OSError(28, "No space left on device"))
CUSTOM = Legacy(
    findings=(LegacyFinding(path=PurePosixPath("/etc/containerd/conf.d/a.toml"), key="plugins.cri.registry"),)
)
ERRORS = (INVALID, FORBIDDEN, KEYLESS, UNREADABLE, DISK)


@functools.lru_cache(maxsize=4)
def config(version: str = "v1", *hosts: str) -> DesiredConfig:
    """Return a config whose every secret is the canary."""
    entries = {name: host(mirror(auth=documents.auth("robot", CANARY))) for name in hosts or ("a", "b")}
    return rendering.config(document(entries, version=version))


def plan(*hosts: str, taken_over: str = "") -> Plan:
    """Return a plan that changes the hosts.toml of hosts, and takes one directory over."""
    file = File(name="hosts.toml", content=CANARY.encode(), mode=0o600)
    saved = (SaveForeign(host=taken_over),) if taken_over else ()
    return Plan(operations=(*saved, *(ReplaceFiles(host=name, files=(file,)) for name in hosts)))


def outcome(**fields: Any) -> Outcome:
    """Return the outcome of a pass that found everything in place."""
    values: dict[str, Any] = {
        "mode": Mode.MANAGE,
        "standing": Standing.CONFIGURED,
        "steps": (),
        "config": config(),
        "origin": Origin.LIVE,
        "is_in_place": True,
        "legacy": Legacy(),
    }
    return Outcome(**(values | fields))


def report(**fields: Any) -> Report:
    """Return the report about it."""
    return make_report(outcome(**fields))
