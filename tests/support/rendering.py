"""Rendering for tests: a document or a config to files, for any containerd."""

from __future__ import annotations

import tomllib
from pathlib import PurePosixPath
from typing import Any

from agent import templates
from agent.hosts_toml import Target
from agent.model import DesiredConfig
from agent.parse.document import parse
from agent.render import Rendered, Renderer
from agent.runtime import Containerd, ContainerdVersion, Flavour
from agent.tree import HOSTS_TOML, HostDirectory
from tests.support import documents

REGISTRY_DIR = PurePosixPath("/etc/containerd/registry.d")
ORIGIN = "Secret d8-system/registry-bashible-config"

#: Compiled once: the template costs more than a rendering.
RENDERER = Renderer(templates.read("hosts.toml.j2"))


def target(
    flavour: Flavour = Flavour.DECKHOUSE,
    containerd: str | None = None,
    *,
    node_ip: str | None = None,
    origin: str = ORIGIN,
) -> Target:
    """Return the node to render for; `containerd` is a version or None for unknown."""
    version = ContainerdVersion.parse(containerd) if containerd else None
    return Target(
        containerd=Containerd(flavour=flavour, version=version),
        registry_dir=REGISTRY_DIR,
        origin=origin,
        node_ip=node_ip,
    )


def config(fields: documents.Fields) -> DesiredConfig:
    """Parse a document that is known to be right."""
    return parse(documents.raw(fields)).config


def render(fields: documents.Fields, for_target: Target | None = None) -> Rendered:
    """Parse and render a document; without a target for Deckhouse's build of an unknown version."""
    return RENDERER.render(config(fields), for_target or target())


def hosts_toml(directory: HostDirectory) -> dict[str, Any]:
    """Return what a TOML parser finds in the directory's hosts.toml."""
    return tomllib.loads(text(directory))


def text(directory: HostDirectory) -> str:
    """Return the text of the directory's hosts.toml."""
    return next(file.content for file in directory.files if file.name == HOSTS_TOML).decode()
