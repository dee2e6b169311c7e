"""Legacy registry configuration: what stands in containerd's own files and keeps it from registry.d.

What counts is that a registry table is there, not what it says: its keys are named, its values hold
credentials and are never kept. In doubt a file counts as custom, because the agent then waits.
"""

from __future__ import annotations

import codecs
import fnmatch
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from agent.errors import AgentError, LegacyPresent, LegacyUnreadable

LABEL = "node.deckhouse.io/containerd-config-registry"
CUSTOM = "custom"
DEFAULT = "default"

CONFIG_FILE = PurePosixPath("/etc/containerd/config.toml")

#: Drop-in directories beside config.toml, by containerd's major version.
DROP_IN_DIRECTORIES: Mapping[int | None, tuple[str, ...]] = {1: ("conf.d",), 2: ("conf2.d",)}
ANY_DROP_IN_DIRECTORY = ("conf.d", "conf2.d")

MAX_FILE_BYTES = 1024 * 1024

#: The time that tomllib takes for a key is quadratic in its parts: 20,000 of them take nine seconds.
MAX_DOTS_IN_LINE = 1000

#: How many keys are spelled out in a message; the Node condition ends at 1,024 characters.
MAX_KEYS_SHOWN = 6
MAX_NAME_SHOWN = 128
MAX_PATH_SHOWN = 256

#: Ids are keys of a map, so their case counts: schema 1, schema 2, schema 3 and later.
_CRI_PLUGINS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")

_BARE_NAME = re.compile(r"[A-Za-z0-9_-]+")
_POSITION = re.compile(r"\(at (line \d+, column \d+)\)\Z")
_GLOB_META = re.compile(r"[*?\[\\]")
_GLOB_CLASS = re.compile(r"\\.|\[(?:\\.|[^\\\]])*\]?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyFinding:
    """A registry table: the file as the node names it, and the dotted key without any value."""

    path: PurePosixPath
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What one file says. `imports` are absolute paths or patterns."""

    findings: tuple[LegacyFinding, ...] = ()
    imports: tuple[str, ...] = ()
    unreadable: LegacyUnreadable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """All legacy registry configuration of a node, and the files that may hold some."""

    findings: tuple[LegacyFinding, ...] = ()
    unreadable: tuple[LegacyUnreadable, ...] = ()

    @property
    def is_custom(self) -> bool:
        """Tell whether containerd could read anything about registries but registry.d."""
        return bool(self.findings or self.unreadable)

    @property
    def label(self) -> str:
        """The value of the Node's label."""
        return CUSTOM if self.is_custom else DEFAULT

    def errors(self) -> tuple[AgentError, ...]:
        """Return one error for all that was found, and one for each file that could not be read."""
        return (*([_present(self.findings)] if self.findings else ()), *self.unreadable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTable:
    """A registry table of the CRI plugin, where it stands in its file, and what is in it: credentials too."""

    keys: tuple[str, ...]
    content: Any = field(repr=False)


def examine(path: PurePosixPath, raw: bytes) -> Examined:
    """Say what a containerd configuration file holds; whatever the bytes are, nothing is raised."""
    try:
        document = _parse(raw)
    except _NotRead as err:
        return unreadable(path, str(err))
    return Examined(
        findings=tuple(LegacyFinding(path=path, key=key) for key in _registry_keys(document)),
        imports=tuple(_imports(path, document)),
    )


def unreadable(path: PurePosixPath, why: str) -> Examined:
    """Say that a file cannot be read; `why` may hold none of its content."""
    return Examined(
        unreadable=LegacyUnreadable(
            f"containerd's {shown_path(path)} cannot be read: {why}",
            remedy="correct or remove it: it counts as legacy registry configuration until it can be read",
        )
    )


def registry_tables(raw: bytes) -> tuple[RegistryTable, ...]:
    """Return the registry tables of a file that `examine` can read; of another one it raises ValueError."""
    return tuple(_registry_tables(_parse(raw)))


def dotted(keys: tuple[str, ...]) -> str:
    """Return a key as it is shown: printable, bounded, without user info."""
    return ".".join(map(_key, keys))


def shown_path(path: PurePosixPath) -> str:
    """Return a path as it is shown: printable and bounded."""
    return _shown(str(path), MAX_PATH_SHOWN)


def is_glob(text: str) -> bool:
    """Tell whether a part of an import with a ``*`` in it is a pattern."""
    return _GLOB_META.search(text) is not None


def matches(name: str, pattern: str) -> bool:
    """Tell whether a file name matches as in Go's filepath.Match, where ``*`` takes a leading dot too.

    A character class or an escape stands for any one character: who writes one has a file too many
    looked at, never one too few.
    """
    return fnmatch.fnmatchcase(name, _GLOB_CLASS.sub("?", pattern))


class _NotRead(ValueError):
    """Why a file's content is not understood: a place, never a quotation."""


def _parse(raw: bytes) -> dict[str, Any]:
    """Parse as containerd 1.x does, which takes a byte order mark."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    _check_size(raw)
    try:
        text = raw.decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise _NotRead(f"line {line} is not UTF-8") from None
    except tomllib.TOMLDecodeError as err:
        raise _NotRead(f"not TOML at {_place(str(err), raw)}") from None
    except (ValueError, RecursionError):
        raise _NotRead("a number in it is too long, or it is nested too deeply") from None


def _check_size(raw: bytes) -> None:
    if len(raw) > MAX_FILE_BYTES:
        raise _NotRead(f"larger than {MAX_FILE_BYTES} bytes")
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.count(b".") > MAX_DOTS_IN_LINE:
            raise _NotRead(f"line {number} has more than {MAX_DOTS_IN_LINE} dots")


def _place(message: str, raw: bytes) -> str:
    """Return line and column of tomllib's message, which quotes the document elsewhere."""
    found = _POSITION.search(message)
    return found[1] if found else f"its end, line {len(raw.splitlines())}"


def _registry_keys(document: dict[str, Any]) -> Iterator[str]:
    for table in _registry_tables(document):
        yield from _keys(table.keys, table.content, depth=2)


def _registry_tables(document: dict[str, Any]) -> Iterator[RegistryTable]:
    for plugins, tables in _fields(document, "plugins"):
        for plugin in _CRI_PLUGINS:
            cri = tables.get(plugin) if isinstance(tables, dict) else None
            for registry, content in _fields(cri, "registry"):
                yield RegistryTable(keys=(plugins, plugin, registry), content=content)


def _fields(table: object, name: str) -> Iterator[tuple[str, Any]]:
    """Yield a field in each of its spellings: containerd 2.x takes any case, the Turkish i included."""
    if isinstance(table, dict):
        yield from ((key, value) for key, value in table.items() if re.fullmatch(name, key, re.IGNORECASE))


def _keys(path: tuple[str, ...], content: object, *, depth: int) -> Iterator[str]:
    """Yield the dotted keys of what is inside, `depth` levels down: as far as the names of hosts."""
    if depth and isinstance(content, dict) and content:
        for name, inner in content.items():
            yield from _keys((*path, name), inner, depth=depth - 1)
    else:
        yield dotted(path)


def _key(name: str) -> str:
    if "@" in name:  # a URL with credentials in it
        return '"..."'
    shown = _shown(name.replace("\\", r"\\").replace('"', r"\""), MAX_NAME_SHOWN)
    return shown if _BARE_NAME.fullmatch(shown) else f'"{shown}"'


def _imports(path: PurePosixPath, document: dict[str, Any]) -> Iterator[str]:
    """Yield where imports point, cleaned like in Go: without a look at the disk."""
    for _, imports in _fields(document, "imports"):
        for written in imports if isinstance(imports, list) else ():
            if isinstance(written, str):
                yield _joined(str(path.parent), written)
                # Up to 1.6.28 and 1.7.15 patterns begin in the working directory, which systemd makes /.
                if "*" in written:
                    yield _joined("/", written)


def _joined(folder: str, written: str) -> str:
    return "/" + posixpath.normpath(posixpath.join(folder, written)).lstrip("/")


def _present(findings: tuple[LegacyFinding, ...]) -> LegacyPresent:
    shown = "; ".join(
        f"{shown_path(path)} ({', '.join(each.key for each in group)})"
        for path, group in groupby(findings[:MAX_KEYS_SHOWN], key=lambda each: each.path)
    )
    more = len(findings) - MAX_KEYS_SHOWN
    return LegacyPresent(
        f"legacy registry configuration keeps containerd from registry.d: {shown}"
        + (f"; and {more} more" if more > 0 else ""),
        remedy="remove it; registry.d is prepared, and the switch goes on by itself once it is gone",
    )


def _shown(text: str, limit: int) -> str:
    """Return a name that can be printed: its odd characters escaped, its middle left out when it is long."""
    printable = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return printable if len(printable) <= limit else f"{printable[: limit // 2]}...{printable[-limit // 2 :]}"
