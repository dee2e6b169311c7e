"""Legacy configuration as text, and what it becomes: hosts.toml as a TOML parser sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from agent import conversion, legacy
from agent.legacy_settings import Source, gather
from agent.model import RegistryHost
from agent.runtime import Flavour
from agent.tree import Tree
from tests.support import rendering

PATH = PurePosixPath("/etc/containerd/conf.d/registry.toml")
SCHEMA_2 = 'plugins."io.containerd.grpc.v1.cri".registry'


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What came of it."""

    hosts: tuple[RegistryHost, ...]
    tree: Tree
    caveats: tuple[str, ...]

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The content of each hosts.toml by the name of its directory."""
        return {directory.name: rendering.hosts_toml(directory) for directory in self.tree.hosts}

    @property
    def texts(self) -> dict[str, str]:
        """The text of each hosts.toml by the name of its directory."""
        return {directory.name: rendering.text(directory) for directory in self.tree.hosts}


def convert(
    *texts: str,
    files: Mapping[str, str] | None = None,
    flavour: Flavour = Flavour.DECKHOUSE,
    containerd: str | None = None,
) -> Converted:
    """Convert files that stand beside each other, the first one at PATH; `files` are the certificates."""
    sources = tuple(
        Source(path=PATH.with_name(f"{PATH.stem}{number or ''}.toml"), tables=legacy.registry_tables(text.encode()))
        for number, text in enumerate(texts)
    )
    target = rendering.target(flavour, containerd)
    contents = {PurePosixPath(name): text.encode() for name, text in (files or {}).items()}
    gathered = gather(sources)
    found = conversion.convert(gathered, contents, target)
    rendered = rendering.RENDERER.render_hosts(found.hosts, target, comment=("a test",))
    assert () == rendered.notices
    return Converted(hosts=found.hosts, tree=rendered.tree, caveats=tuple(map(str, found.caveats)))


def toml(registry: Mapping[str, Any], schema: str = SCHEMA_2) -> str:
    """Write a registry section; JSON's strings are TOML's for everything that tests put into them."""
    return "\n".join([f"[{schema}]", *(f"{json.dumps(key)} = {_inline(value)}" for key, value in registry.items()), ""])


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
