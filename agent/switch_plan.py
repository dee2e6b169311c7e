"""What config.toml has to become for a goal, and what containerd has to make of it. Pure."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from agent import config_toml, config_undo, containerd_config, switching
from agent.config_toml import CONFIG_PATH, SECTIONS
from agent.model import Notice
from agent.runtime import Containerd
from agent.switching import Goal

#: containerd 2 has config_path always: there is no way back to mirrors, and none is needed.
_NO_WAY_BACK_FROM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchPlan:
    """config.toml as it is to be. `section` is the digest of its registry section."""

    goal: Goal
    content: bytes | None = field(repr=False)
    is_changed: bool
    saved: bytes | None = field(repr=False)
    section: str
    #: What config_path has to be in the end; None when something else than registry.d is wanted.
    directory: str | None
    #: Identifies a try: the file, the goal and who reads it.
    attempt: str
    notices: tuple[Notice, ...] = ()


def make_switch_plan(
    goal: Goal, raw: bytes | None, *, saved: bytes | None, registry_dir: PurePosixPath, containerd: Containerd
) -> SwitchPlan | None:
    """Return the plan; None when the goal is nothing to do with this config.toml. Raises AgentError."""
    if goal is Goal.REGISTRY_D:
        edit = containerd_config.point_at(raw, registry_dir=registry_dir, containerd=containerd, saved=saved)
        return SwitchPlan(
            goal=goal,
            content=edit.content,
            is_changed=edit.is_changed,
            saved=edit.saved,
            section=section_digest(edit.content),
            directory=str(registry_dir),
            attempt=_attempt(goal, edit.content, containerd),
            notices=edit.notices,
        )
    is_two = containerd.version is not None and containerd.version.major >= _NO_WAY_BACK_FROM
    if raw is None or is_two:
        return None
    if saved is None:
        config_undo.require_saved(raw.decode(errors="replace"))
        return None
    content = containerd_config.restore(raw, saved)
    return SwitchPlan(
        goal=goal,
        content=content,
        is_changed=content != raw,
        saved=None,
        section=section_digest(content),
        directory=None,
        attempt=_attempt(goal, content, containerd),
    )


def _attempt(goal: Goal, content: bytes | None, containerd: Containerd) -> str:
    return switching.digest(content or b"", str(containerd.version).encode(), goal.value.encode())


def section_digest(raw: bytes | None) -> str:
    """Return the digest of the registry section of a config.toml; raises AgentError."""
    section = containerd_config.inspect(raw).section
    return switching.digest(json.dumps(section, sort_keys=True, default=str).encode())


def dump_problem(plan: SwitchPlan, dump: bytes) -> str | None:
    """Return what is wrong with the effective config that containerd prints; never any of its values."""
    try:
        effective = tomllib.loads(dump.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return "its effective configuration is not TOML"
    if plan.directory is None:
        return None
    found = (config_toml.find(effective, path) for path in dict.fromkeys(SECTIONS.values()))
    sections = [section for section in found if isinstance(section, dict)]
    named = {str(section[CONFIG_PATH]).rstrip("/") for section in sections if section.get(CONFIG_PATH)}
    if named != {plan.directory}:
        return f"its effective config_path is not {plan.directory}"
    if any(section.get("mirrors") for section in sections):
        return "mirrors stand beside config_path"
    return None
