"""Finds other managers of containerd's registry configuration, from files below the node's root only.

In doubt somebody is there: the agent then observes, which does no harm.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from agent.disk.legacy import NodeFiles
from agent.managers import Manager
from agent.ownership import OTHER_AGENT_MARKER

#: Removed from nodes that are taken out of bashible's hands (Deckhouse's FAQ of node-manager).
BASHIBLE_STEPS = "/var/lib/bashible/bundle_steps/*"
BASHIBLE_TIMER = "/etc/systemd/system/*.wants/bashible.timer"

#: Steps that write registry.d; their number has changed over the years.
_REGISTRY_STEP = re.compile(r".*/(?:\d+_configure_containerd_\w*registry|030_\w*registry)\w*\.sh")

#: What k3s and RKE2 write for their containerd, and the templates that people may put beside it.
RANCHER_FILES = ("config.toml", "config.toml.tmpl", "config-v3.toml.tmpl")

_TALOS_ID = re.compile(r"^ID=[\"']?talos[\"']?$", re.MULTILINE)


def find(root: Path, registry_dir: PurePosixPath) -> tuple[Manager, ...]:
    """Return who else manages this node, the most binding first; synchronous, never raises.

    `registry_dir` is absolute as the node sees it.
    """
    files = NodeFiles(root)
    return (*_agent(files, registry_dir), *_bashible(files), *_rancher(files), *_talos(files))


def _agent(files: NodeFiles, registry_dir: PurePosixPath) -> Iterator[Manager]:
    marker = str(registry_dir / OTHER_AGENT_MARKER)
    if _is_there(files, marker):
        yield Manager(reason="OtherAgent", message=f"another agent says with {marker} that it manages", is_final=True)


def _bashible(files: NodeFiles) -> Iterator[Manager]:
    timers = _expand(files, BASHIBLE_TIMER)
    # A masked timer is a link to a device.
    is_enabled = timers is None or any(_is_there(files, path, is_regular=True) for path in timers)
    step = next(_active_steps(files), None) if is_enabled else None
    if step is not None:
        message = f"bashible manages registries: its timer is enabled, and {step} writes the same files"
        yield Manager(reason="BashibleActive", message=message)


def _active_steps(files: NodeFiles) -> Iterator[str]:
    """Yield the steps that do anything: where an agent is in charge, bashible renders them to comments."""
    folder = BASHIBLE_STEPS.removesuffix("/*")
    steps = _expand(files, BASHIBLE_STEPS)
    if not steps and _is_there(files, folder):  # bashible empties it before it writes all steps anew
        yield folder
    for path in filter(_REGISTRY_STEP.fullmatch, steps or ()):
        script = _text(files, path)
        if script is None or any(line.strip() and not line.lstrip().startswith("#") for line in script.splitlines()):
            yield path


def _rancher(files: NodeFiles) -> Iterator[Manager]:
    for name in ("k3s", "rke2"):
        folder = f"/var/lib/rancher/{name}/agent/etc/containerd"
        source = f"/etc/rancher/{name}/registries.yaml"
        marks = (*(f"{folder}/{file}" for file in RANCHER_FILES), source)
        found = next((path for path in marks if _is_there(files, path)), None)
        if found is not None:
            message = f"{name} manages its containerd ({found}): it takes registries from {source} at each start"
            yield Manager(reason="RancherNode", message=message)


def _talos(files: NodeFiles) -> Iterator[Manager]:
    is_named = _TALOS_ID.search(_text(files, "/etc/os-release") or "") is not None
    if is_named or (_is_there(files, "/etc/cri/conf.d") and _is_there(files, "/system")):
        yield Manager(reason="TalosNode", message="Talos manages this node: registries stand in its machine config")


def _expand(files: NodeFiles, pattern: str) -> list[str] | None:
    """Return what matches, None when that cannot be told."""
    try:
        return files.expand(pattern)
    except OSError:
        return None


def _is_there(files: NodeFiles, path: str, *, is_regular: bool = False) -> bool:
    """Tell whether something stands at a path; where that cannot be told, whether something might."""
    try:
        _, status = files.find(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return stat.S_ISREG(status.st_mode) or not is_regular


def _text(files: NodeFiles, path: str) -> str | None:
    """Return a file's text, None when it cannot be read."""
    try:
        return files.read(path).decode(errors="replace")
    except (OSError, ValueError):
        return None
