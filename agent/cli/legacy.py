"""`legacy`: what legacy registry configuration is on this node, and the same as registry.d."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from agent import conversion, legacy, templates
from agent.cli import offline
from agent.conversion import Conversion
from agent.disk import managers
from agent.disk.facts import NodeFacts
from agent.disk.legacy import LegacyReader, NodeFiles
from agent.errors import ConfigUnsupported, SourceUnreadable
from agent.hosts_toml import Target
from agent.legacy import Legacy, LegacyFinding, RegistryTable
from agent.legacy_settings import Gathered, Source, gather
from agent.managers import Manager
from agent.render import Renderer
from agent.runtime import ContainerdVersion
from agent.settings import Settings
from agent.tree import HostDirectory, Tree

NONE, FOUND, TROUBLE = 0, 1, 2


def show(settings: Settings, *, as_json: bool) -> int:
    """Print what stands in the way of registry.d, and who else manages it; returns the exit code."""
    found, own = _look(settings)
    others = managers.find(settings.root, settings.registry_dir)
    print(json.dumps(_as_json(found, own, others), indent=2) if as_json else _as_text(found, own, others))
    if found.unreadable:
        return TROUBLE
    return FOUND if found.findings or own or others else NONE


def convert(settings: Settings, out: Path) -> int:
    """Write a registry.d that does what the legacy configuration does; returns the exit code."""
    found, _ = _look(settings)
    gathered = gather(tuple(_sources(settings.root, found)))
    target = NodeFacts(settings, origin="legacy configuration").target()
    converted = conversion.convert(gathered, dict(_certificates(settings.root, gathered)), target)
    made = tuple(_directories(converted, target, gathered.sources))
    directories = tuple(each for each in made if isinstance(each, HostDirectory))
    if directories:
        offline.write_tree(Tree(hosts=directories), out)
    else:
        print("nothing to convert")
    for error in found.unreadable:
        print(f"registry-agent: error: {error}", file=sys.stderr)
    for warning in (*converted.caveats, *(each for each in made if isinstance(each, str))):
        print(f"  warning: {warning}", file=sys.stderr)
    return TROUBLE if found.unreadable else NONE


def _look(settings: Settings) -> tuple[Legacy, tuple[LegacyFinding, ...]]:
    """Return what makes the label, and what stands in config.toml itself, where the agent can move it aside."""
    if not settings.root.is_dir():
        raise SourceUnreadable(f"{settings.root} is no directory", remedy="name the folder that the node's / is")
    text = settings.containerd_version
    found = LegacyReader(settings.root).read(major=None if text == "auto" else ContainerdVersion.parse(text).major)
    raw = _content(settings.root, legacy.CONFIG_FILE) or b""
    harmless = {legacy.dotted(keys) for table in _tables(raw) for keys in _not_legacy(table)}
    findings = legacy.examine(legacy.CONFIG_FILE, raw).findings
    return found, tuple(finding for finding in findings if finding.key not in harmless)


def _not_legacy(table: RegistryTable) -> Iterator[tuple[str, ...]]:
    """Yield the keys of config.toml that nobody has to move aside: an empty table, and `config_path`."""
    if not table.content:
        yield table.keys
    elif isinstance(table.content, dict):
        yield from ((*table.keys, name) for name in table.content if name.lower() == "config_path")


def _sources(root: Path, found: Legacy) -> Iterator[Source]:
    """Yield the registry tables of config.toml and of every file with findings, in the order of reading."""
    for path in dict.fromkeys((legacy.CONFIG_FILE, *(finding.path for finding in found.findings))):
        yield Source(path=path, tables=_tables(_content(root, path) or b""))


def _tables(raw: bytes) -> tuple[RegistryTable, ...]:
    try:
        return legacy.registry_tables(raw)
    except ValueError:
        return ()  # the reader has said that it cannot be read


def _certificates(root: Path, gathered: Gathered) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in gathered.certificate_files:
        content = _content(root, path)
        if content is not None:
            yield path, content


def _content(root: Path, path: PurePosixPath) -> bytes | None:
    try:
        return NodeFiles(root).read(str(path))
    except (OSError, ValueError):
        return None


def _directories(
    converted: Conversion, target: Target, sources: tuple[PurePosixPath, ...]
) -> Iterator[HostDirectory | str]:
    """Yield the directory of each host, or why this containerd cannot have it; and what else is to be said."""
    comment = (
        "Converted by registry-agent from legacy configuration in",
        *(f"  {legacy.shown_path(path)}" for path in sources),
    )
    renderer = Renderer(templates.read("hosts.toml.j2"))
    for host in converted.hosts:
        try:
            rendered = renderer.render_hosts((host,), target, comment=comment)
        except ConfigUnsupported as err:
            yield f"{host.name} is not converted: {err}"
        else:
            yield from rendered.tree.hosts
            yield from (notice.message for notice in rendered.notices)


def _as_text(found: Legacy, own: tuple[LegacyFinding, ...], others: tuple[Manager, ...]) -> str:
    lines = []
    for path, findings in groupby((*own, *found.findings), key=lambda finding: finding.path):
        remark = ", which does not count for the label" if path == legacy.CONFIG_FILE else ""
        lines += [f"{legacy.shown_path(path)}: registry configuration{remark}"]
        lines += [f"  {finding.key}" for finding in findings]
    lines += [error.message for error in found.unreadable]
    lines += [f"{other.reason}: {other.message}" for other in others]
    return "\n".join([*lines, f"{legacy.LABEL}={found.label}"])


def _as_json(found: Legacy, own: tuple[LegacyFinding, ...], others: tuple[Manager, ...]) -> dict[str, Any]:
    return {
        "label": found.label,
        "findings": [_finding_json(finding) for finding in found.findings],
        "config": [_finding_json(finding) for finding in own],
        "unreadable": [error.message for error in found.unreadable],
        "managers": [{"reason": other.reason, "message": other.message} for other in others],
    }


def _finding_json(finding: LegacyFinding) -> dict[str, str]:
    return {"path": legacy.shown_path(finding.path), "key": finding.key}
