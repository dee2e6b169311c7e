"""An independent reader of registry.d: plain paths and tomllib, nothing of the agent's."""

import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

REGISTRY_DIR = PurePosixPath("/etc/containerd/registry.d")
STATE_FILE = "deckhouse_hosts_state.json"
RECORD = PurePosixPath("/var/lib/registry-agent/ownership.json")


def on_node(root: Path, path: PurePosixPath) -> Path:
    """Return where the test finds a path of the node."""
    return root / path.relative_to("/")


def registry(root: Path) -> Path:
    """Return the node's registry.d."""
    return on_node(root, REGISTRY_DIR)


def referenced(hosts_toml: bytes) -> list[str]:
    """Return every path that a hosts.toml names."""
    return list(_paths(tomllib.loads(hosts_toml.decode())))


def problems(root: Path, hosts: Iterable[str]) -> list[str]:
    """Say which hosts.toml of `hosts` cannot be used: not TOML, or naming a file that is not there."""
    return [problem for host in hosts for problem in _host_problems(root, registry(root) / host / "hosts.toml")]


def managed(root: Path) -> set[str]:
    """Return the hosts in the state file and in the agent's record."""
    return {*_names(registry(root) / STATE_FILE), *_names(on_node(root, RECORD))}


def state(root: Path) -> list[str]:
    """Return the hosts in the state file, in its order."""
    return _names(registry(root) / STATE_FILE)


def endpoints(root: Path, host: str) -> list[str]:
    """Return the URLs that a host's hosts.toml names, in order; none when there is no such file."""
    path = registry(root) / host / "hosts.toml"
    try:
        return list(tomllib.loads(path.read_text())["host"])
    except FileNotFoundError:
        return []


def _host_problems(root: Path, path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        names = referenced(content)
    except ValueError as err:
        yield f"{path}: {err}"
        return
    for name in names:
        if not on_node(root, PurePosixPath(name)).is_file():
            yield f"{path} names {name}, which is not there"


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"ca", "client"}:
                yield from _strings(inner)
            else:
                yield from _paths(inner)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for inner in value:
            yield from _strings(inner)


def _names(path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(path.read_bytes())]
    except (FileNotFoundError, NotADirectoryError):
        return []
