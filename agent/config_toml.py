"""What a config.toml of containerd says about registries; refuses what cannot be told for sure.

Facts: the notes on containerd, "config.toml"; which spellings are read was tried on 1.6.20, 1.7.24
and 2.1.9. This must never quote the file: it may hold credentials.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from agent.errors import AgentError, ContainerdConfigUnreadable, ContainerdConfigUnsupported
from agent.runtime import Containerd, ContainerdVersion

Path = tuple[str, ...]
Table = dict[str, Any]

_CRI_IMAGES = ("plugins", "io.containerd.cri.v1.images", "registry")
#: Where the registry section is, by the schema `version` of the file.
SECTIONS: Mapping[int, Path] = {
    1: ("plugins", "cri", "registry"),
    2: ("plugins", "io.containerd.grpc.v1.cri", "registry"),
    3: _CRI_IMAGES,
    4: _CRI_IMAGES,
}
CONFIG_PATH = "config_path"
#: Keys of the section that cannot stand beside config_path, or mean nothing there.
LEGACY_KEYS = ("mirrors", "configs", "auths", "headers")

_SCHEMA_3_SINCE = ContainerdVersion(2, 0, 0)
#: In between, containerd migrates schema 1 without its registry section.
_SCHEMA_4_SINCE = ContainerdVersion(2, 3, 0)

#: Real files have eight levels; without a limit an absurd one would overflow the stack.
_MAX_DEPTH = 64

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_POSITION = re.compile(r"at line (\d+), column (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigToml:
    """A config.toml and its registry section."""

    text: str = field(repr=False)
    """Without a byte order mark."""
    tables: Table = field(repr=False)
    schema: int
    section: Table = field(repr=False)
    """Empty if there is none."""

    @property
    def path(self) -> Path:
        """The section's place."""
        return SECTIONS[self.schema]

    @property
    def key(self) -> str:
        """The section's place as a file and a message write it."""
        return join_key(self.path)

    @property
    def directories(self) -> tuple[str, ...]:
        """What config_path names, as containerd splits it."""
        value: str = self.section.get(CONFIG_PATH, "")
        return tuple(value.split(":")) if value else ()

    def points_at(self, registry_dir: PurePosixPath) -> bool:
        """Tell whether config_path names this directory and no other."""
        return tuple(map(PurePosixPath, self.directories)) == (registry_dir,)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Name registry sections of other schemas, which this file's schema gives no meaning."""
        others = dict.fromkeys(path for path in SECTIONS.values() if path != self.path)
        return tuple(join_key(path) for path in others if find(self.tables, path))

    @property
    def around(self) -> Table:
        """All but the section."""
        return _without(self.tables, self.path)

    def legacy(self) -> tuple[str, ...]:
        """Name the legacy keys that hold something, as spelled."""
        return tuple(name for name in self.section if name.lower() in LEGACY_KEYS and self.section[name])


def decode(raw: bytes) -> tuple[str, str]:
    """Split into byte order mark and text; raises ContainerdConfigUnreadable."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as err:
        line = raw[: err.start].count(b"\n") + 1
        raise _unreadable(f"is not UTF-8 (line {line})") from None
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    return bom, text.removeprefix(bom)


def read(text: str) -> ConfigToml:
    """Parse, and refuse what containerd takes in different ways or not at all; raises AgentError."""
    tables = _parse(text)
    for name in ("version", "plugins", "imports"):
        _require_spelling(tables, name, within=())
    schema = max(_schema(tables), 1)  # containerd reads 0 as 1
    _require_texts(tables.get("imports", []))
    *parents, name = path = SECTIONS[schema]
    table: Any = tables
    for depth, parent in enumerate(parents, start=1):
        table = table.get(parent, {})
        _require_type(table, dict, path[:depth])
    _require_spelling(table, name, within=path[:-1])
    table = table.get(name, {})
    _require_type(table, dict, path)
    _require_spelling(table, CONFIG_PATH, within=path)
    _require_type(table.get(CONFIG_PATH, ""), str, (*path, CONFIG_PATH))
    for key in table:
        if key.lower() in LEGACY_KEYS:
            _require_type(table[key], dict, (*path, key))
        for host in table[key].values() if key.lower() == "configs" else ():
            _require_type(host, dict, (*path, key, "HOST"))
    return ConfigToml(text=text, tables=tables, schema=schema, section=table)


def says(text: str, around: Table, section: Table) -> bool:
    """Tell whether a text means this and nothing else."""
    try:
        config = read(text)
    except AgentError:
        return False
    return config.around == around and meaning(config.section) == meaning(section)


def meaning(section: Table) -> Table:
    """Leave out empty tables, which mean nothing there."""
    inner = {key: meaning(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {key: value for key, value in inner.items() if value != {}}


def best_schema(containerd: Containerd) -> int:
    """Choose the newest schema that this containerd surely reads."""
    return 3 if containerd.is_known_from(_SCHEMA_3_SINCE) else 2


def require_fit(config: ConfigToml, containerd: Containerd) -> None:
    """Refuse a file whose registry section this containerd does not surely read."""
    version, schema = containerd.version, config.schema
    if schema == 2:  # noqa: PLR2004 -- the one that all of them read
        return
    if version is None:
        what = f"not every containerd reads schema {schema}, and this one's version is not known"
        raise unsupported(what, "tell the agent the version of containerd")
    is_read = {
        1: version < _SCHEMA_3_SINCE or version >= _SCHEMA_4_SINCE,
        3: version >= _SCHEMA_3_SINCE,
        4: version >= _SCHEMA_4_SINCE,
    }
    if not is_read[schema]:
        what = "a file without a `version` of 2 or more" if schema == 1 else f"schema version {schema}"
        remedy = "give it `version = 2` and the names of plugins and tables that go with it"
        raise unsupported(f"containerd {version} does not read the registry section of {what}", remedy)
    if config.elsewhere and version >= _SCHEMA_4_SINCE:
        # It migrates step by step, and a section of an earlier schema may win over that of the file's own.
        what = f"it has {config.elsewhere[0]} besides, and containerd {version} may read either"
        raise unsupported(what, "remove what does not belong to its `version`")


def join_key(path: Iterable[str]) -> str:
    """Write a dotted key; for names without quotes, backslashes and control characters."""
    return ".".join(name if _BARE.fullmatch(name) else f'"{name}"' for name in path)


def unsupported(what: str, remedy: str) -> ContainerdConfigUnsupported:
    """Say why config.toml is left alone."""
    return ContainerdConfigUnsupported(f"config.toml was left as it is: {what}", remedy=remedy)


def _parse(text: str) -> Table:
    try:
        # Floats stay text: a NaN would differ from itself when an edit is checked.
        tables = tomllib.loads(text, parse_float=str)
    except (ValueError, RecursionError) as err:
        found = _POSITION.search(str(err))  # nothing else of it: it may quote the file
        last = text.count("\n") + 1
        where = f"line {found[1]}, column {found[2]}" if found else f"line {last}"
        raise _unreadable(f"is not valid TOML ({where})") from None
    level: list[Any] = [tables]
    for _ in range(_MAX_DEPTH):
        below = (child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent))
        level = [child for child in below if isinstance(child, dict | list)]
    if level:
        raise _unreadable(f"has tables or lists more than {_MAX_DEPTH} levels deep")
    plain: Table = json.loads(json.dumps(tables, default=str))  # as what is kept for the way back: without dates
    return plain


def _schema(tables: Table) -> int:
    schema = tables.get("version", 1)
    if type(schema) is not int or not 0 <= schema <= max(SECTIONS):
        raise unsupported("`version` is not one that the agent knows", f"use a version from 1 to {max(SECTIONS)}")
    return schema


def _require_texts(imports: object) -> None:
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise unsupported("`imports` is not a list of text", "correct it: containerd does not start with it")


def _require_spelling(table: Table, name: str, *, within: Path) -> None:
    """Refuse other cases of `name`: versions of containerd differ in which they read."""
    others = [key for key in table if key != name and key.lower() == name]
    if others:
        key = join_key((*within, others[0]))
        raise unsupported(f"it has {key}, which only some versions of containerd read", f"write {name} in lower case")


def _require_type(value: object, kind: type, path: Path) -> None:
    if not isinstance(value, kind):
        what = "a table" if kind is dict else "text"
        raise unsupported(f"{join_key(path)} is not {what}", "correct it: containerd does not start with it")


def find(tables: Table, path: Path) -> object:
    """Return what stands at a path of tables, None when nothing does."""
    found: Any = tables
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _without(tables: Table, path: Path) -> Table:
    """Leave out `path`, and the tables above it that hold nothing else."""
    name, *rest = path
    inner = _without(tables.get(name, {}), tuple(rest)) if rest else {}
    others = {key: value for key, value in tables.items() if key != name}
    return {**others, name: inner} if inner else others


def _unreadable(what: str) -> ContainerdConfigUnreadable:
    return ContainerdConfigUnreadable(f"config.toml {what}", remedy="it was left as it is; correct it")
