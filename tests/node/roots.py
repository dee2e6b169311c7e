"""Pristine Debian roots, one per containerd generation, built once and then only read."""

import fcntl
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("REGISTRY_AGENT_NODE_CACHE", "/var/cache/registry-agent-tests"))
PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates,containerd,runc,python3"
TOOLS = (
    *("dbus-daemon", "debootstrap", "docker-registry", "htpasswd"),
    *("kubectl", "lintian", "nsenter", "skopeo", "strip", "systemd-nspawn"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A Debian suite and the containerd that it must bring."""

    name: str
    containerd: str
    """The whole version, or its leading part for a suite that moves."""

    def brings(self, version: str) -> bool:
        """Tell whether `version` is the generation that this suite stands for."""
        return f"{version}.".startswith(f"{self.containerd}.")


SUITES = (
    Suite(name="bookworm", containerd="1.6.20"),
    Suite(name="trixie", containerd="1.7.24"),
    Suite(name="sid", containerd="2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A bootable root that nobody writes to, and the containerd version in it."""

    path: Path
    containerd: str


def require_machine() -> None:
    """Fail with a clear message where the suite could not run; it is never skipped."""
    if os.geteuid() != 0:
        raise RuntimeError("tests/node boots machines and mounts overlays: run it as root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}; run .ci/node-packages as root")


def pristine(suite: Suite) -> Root:
    """Return the suite's root, building it first if the cache does not hold it yet."""
    path = CACHE / f"{suite.name}-{zlib.crc32(PACKAGES.encode()):08x}"
    with _locked():
        if not path.is_dir():
            _build(suite.name, path)
    version = _containerd_version(path)
    if not suite.brings(version):
        raise RuntimeError(f"{path} holds containerd {version}, wanted {suite.containerd}")
    return Root(path=path, containerd=version)


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the cache's lock, so that two runs at once never build the same root."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(suite: str, path: Path) -> None:
    """Debootstrap beside `path` and rename: a broken build never looks like a root."""
    building = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(building)]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if built.returncode != 0:
        raise RuntimeError(f"debootstrap of {suite} failed:\n{built.stdout[-4000:]}")
    building.rename(path)


def _containerd_version(root: Path) -> str:
    """Return MAJOR.MINOR.PATCH of the containerd that is installed in `root`."""
    command = ["chroot", str(root), "containerd", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"\b(\d+\.\d+\.\d+)", answer)
    if found is None:
        raise RuntimeError(f"{root}: no version in {answer!r}")
    return found[1]
