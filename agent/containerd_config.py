"""Pointing containerd's config.toml at registry.d, and the way back.

tomlkit reads and writes one statement at a time, and the rest stays as text: given a whole file, tomlkit
0.15 fails on one valid file in ten (an IndexError where `mirrors` stand in front of another table and
`configs` behind it), writes others differently, and removes with a table the comments of the next one.

Nothing is returned unless a parser finds in the result what was meant and nothing else, and unless
undoing the edit gives the same bytes again. This must never guess: a wrong config.toml takes the node
down, so whatever is in doubt is refused and the file stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import PurePosixPath

import tomlkit
from tomlkit.container import Container
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Item, Table

from agent import config_toml, config_undo
from agent.config_toml import CONFIG_PATH, ConfigToml, Path, join_key, unsupported
from agent.config_undo import Piece, Undo, stuck
from agent.errors import ContainerdEditFailed, LegacyRestoreFailed
from agent.model import Notice
from agent.runtime import Containerd

_MAX_SHOWN = 256

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
#: What the last line of a value over several lines has.
_CLOSING = re.compile(r"""[\]}]|\"""|'''""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A config.toml that points at registry.d, and what has to be kept for the way back."""

    content: bytes = field(repr=False)
    is_changed: bool
    saved: bytes | None = field(repr=False)
    """For `restore`, with credentials; to be kept before `content` is written. None: nothing to undo."""
    moved: tuple[str, ...] = ()
    """Legacy keys that were moved aside."""
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """A table's header or a pair, with all of its lines; or a line that is neither, without a key."""

    text: str = field(repr=False)
    line: int
    key: Path
    """Its whole key, from the root."""
    table: Path
    """The table whose header stands above; a header's own key."""
    is_header: bool

    @property
    def indent(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip(" \t"))]

    def is_within(self, path: Path) -> bool:
        return self.key[: len(path)] == path


_Statements = tuple[_Statement, ...]
_Changes = Mapping[_Statement, str]


def inspect(raw: bytes | None) -> ConfigToml:
    """Read what config.toml says; None is a missing file. Raises AgentError when that cannot be told."""
    return config_toml.read(config_toml.decode(raw or b"")[1])


def point_at(
    raw: bytes | None, *, registry_dir: PurePosixPath, containerd: Containerd, saved: bytes | None = None
) -> Edit:
    """Let config_path name `registry_dir` alone, and move aside what cannot stand beside it.

    A file that is missing (None) or says nothing gets a schema version and config_path; for all else
    containerd's defaults go on to apply. `saved` is what the last edit of this file has returned; it
    may be undone first, so that one undo covers both. Raises AgentError.
    """
    _require_plain(registry_dir)
    bom, text = config_toml.decode(raw or b"")
    config = _declared(config_toml.read(text), containerd)
    config_toml.require_fit(config, containerd)
    _refuse_escapes(config)
    if not config.legacy() and config.points_at(registry_dir):
        return Edit(content=raw or b"", is_changed=False, saved=saved)
    if saved is not None and raw is not None:
        base, earlier = _undone(raw, saved)
        edit = point_at(base, registry_dir=registry_dir, containerd=containerd)
        return replace(edit, is_changed=edit.content != raw, saved=config_undo.behind(edit.saved, earlier))
    edited, undo = _edited(config, str(registry_dir), was_missing=raw is None)
    edit = Edit(
        content=f"{bom}{edited}".encode(),
        is_changed=True,
        saved=config_undo.dump(undo),
        moved=config.legacy(),
        notices=tuple(_notices(config, registry_dir, is_new=raw is None)),
    )
    return _tried(edit, raw)


def restore(raw: bytes, saved: bytes) -> bytes | None:
    """Take out what `point_at` has put in, put back what it had moved aside; None: there was no file.

    Gives the bytes of before if nobody edited the file in between, and keeps edits around the section.
    A file in which nothing of `point_at` is left stays as it is. Raises AgentError.
    """
    undo = config_undo.load(saved)
    bom, text = config_toml.decode(raw)
    restored = _restored(config_toml.read(text), undo)
    if undo.was_missing and not restored:
        return None
    content = f"{bom}{restored}".encode()
    return restore(content, undo.earlier.encode()) if undo.earlier else content


def _require_plain(registry_dir: PurePosixPath) -> None:
    directory = str(registry_dir)
    if not registry_dir.is_absolute() or not directory.isprintable() or set(directory) & set('"\\:'):
        what = f"it cannot name {directory!a}: that is not an absolute path without quotes, backslashes and colons"
        raise unsupported(what, "correct the setting registry_dir")


def _declared(config: ConfigToml, containerd: Containerd) -> ConfigToml:
    """Give a file that says nothing the schema that it is going to declare."""
    return config if config.tables else replace(config, schema=config_toml.best_schema(containerd))


def _refuse_escapes(config: ConfigToml) -> None:
    """Refuse keys that containerd 1 takes as they are written and containerd 2 as they are meant."""
    for one in _statements(config.text) if "\\" in config.text else ():
        is_plugin = one.key != () and one.key[:2] == config.path[: len(one.key[:2])]
        if is_plugin and "\\" in re.split("[=#]", one.text, maxsplit=1)[0]:
            raise unsupported(f"it has a key with an escape (line {one.line})", "write it without")


def _undone(raw: bytes, saved: bytes) -> tuple[bytes | None, bytes | None]:
    """Go back to before an earlier edit, so that one undo covers both; else return what is to be kept of it."""
    try:
        return restore(raw, saved), None
    except LegacyRestoreFailed:
        return raw, saved


def _edited(config: ConfigToml, directory: str, *, was_missing: bool) -> tuple[str, Undo]:
    """Return the new text and what undoes it."""
    gone = config.legacy()
    staying = {name: value for name, value in config.section.items() if name not in gone}
    statements = _statements(config.text)
    _refuse_inline(statements, config, is_all_ours=config_toml.meaning(staying).keys() <= {CONFIG_PATH})
    moved, pieces = _moved_aside(statements, config)
    edited, value, inserted = _pointed(statements, moved, config, directory)
    around = config.around if config.tables else {"version": config.schema}
    if not config_toml.says(edited, around, {**staying, CONFIG_PATH: directory}):
        raise _defect("the edited file does not say what was meant")
    return edited, Undo(
        was_missing=was_missing,
        schema=config.schema,
        directory=directory,
        section={name: value for name, value in config.section.items() if name in (*gone, CONFIG_PATH)},
        value=value,
        inserted=inserted,
        pieces=pieces,
    )


def _tried(edit: Edit, raw: bytes | None) -> Edit:
    """Return an edit that can be undone."""
    try:
        is_undone = edit.saved is not None and restore(edit.content, edit.saved) == raw
    except LegacyRestoreFailed:
        is_undone = False
    if not is_undone:
        raise _defect("undoing the edit would not give it back")
    return edit


def _refuse_inline(statements: _Statements, config: ConfigToml, *, is_all_ours: bool) -> None:
    """Refuse an inline table that would have to be taken apart."""
    for one in statements:
        is_outer = one.key != () and one.key == config.path[: len(one.key)] and not one.is_header
        if is_outer and not (one.key == config.path and is_all_ours):
            what = f"{join_key(one.key)} is an inline table (line {one.line})"
            raise unsupported(what, "write it as a [table] of its own")


def _moved_aside(statements: _Statements, config: ConfigToml) -> tuple[_Changes, tuple[Piece, ...]]:
    """Put a comment in the place of neighbours that leave; what stands between them leaves with them."""
    leaving = {(*config.path, name) for name in config.legacy()}

    def origin(index: int) -> tuple[bool, Path | None]:
        key, table = (path[: len(config.path) + 1] for path in (statements[index].key, statements[index].table))
        return key in leaving, None if table in leaving else statements[index].table

    markers = config_undo.markers(config.text)
    moved: dict[_Statement, str] = {}
    pieces: list[Piece] = []
    for (is_leaving, table), run in groupby((index for index, one in enumerate(statements) if one.key), origin):
        if is_leaving:
            indexes = tuple(run)
            together = statements[indexes[0] : indexes[-1] + 1]
            text, end = _split(_text(together, {}))
            pieces.append(Piece(marker=next(markers), table=table, text=text))
            comment = f"{together[0].indent}{pieces[-1].marker}{end}"
            moved |= dict.fromkeys(together, "") | {together[0]: comment}
    return moved, tuple(pieces)


def _pointed(
    statements: _Statements, moved: _Changes, config: ConfigToml, directory: str
) -> tuple[str, str | None, str]:
    """Set config_path or put it in; returns the text, the former value, and what was put in."""
    pair = f'{CONFIG_PATH} = "{directory}"'
    setting = _setting(statements, config.path)
    if setting:
        text, former = _with_value(setting.text, f"{{ {pair} }}" if setting.key == config.path else f'"{directory}"')
        return _text(statements, {**moved, setting: text}), former, ""
    before, inserted = _place(statements, moved, config, pair)
    return before + inserted + _text(statements, moved).removeprefix(before), None, inserted


def _place(statements: _Statements, moved: _Changes, config: ConfigToml, pair: str) -> tuple[str, str]:
    """Choose behind which text config_path is put in, and in which words."""

    def until(stop: int) -> str:
        return _text(statements[:stop], moved)

    line_break, header = _line_break(config.text), f"[{config.key}]"
    if not config.tables:
        words = line_break.join([f"version = {config.schema}", "", header, f"  {pair}"])
        return _split(config.text)[0], line_break + words if config.text else words + line_break
    for stop, one in enumerate(statements, start=1):
        if one.is_within(config.path) and len(one.table) <= len(config.path) and one not in moved:
            key = "  " if one.is_header else f"{join_key(config.path[len(one.table) :])}."
            return _split(until(stop))[0], f"{line_break}{one.indent}{key}{pair}"
    for index, one in enumerate(statements):
        if one.is_header and one in moved:
            return until(index), f"{one.indent}{header}{line_break}{one.indent}  {pair}{line_break}"
    plugin = [one for one in statements if one.is_within(config.path[:-1])]
    indent = next((one.indent for one in reversed(plugin) if one.is_header), "")
    stop = _stop(statements, plugin[-1].table) if plugin else len(statements)
    return _split(until(stop))[0], f"{line_break}{line_break}{indent}{header}{line_break}{indent}  {pair}"


def _restored(config: ConfigToml, undo: Undo) -> str:
    """Return the text without the edit; raises LegacyRestoreFailed."""
    statements = _statements(config.text)
    comments = {one.text.strip() for one in statements if not one.key}
    lost = [piece for piece in undo.pieces if piece.marker not in comments]
    if len(lost) == len(undo.pieces) and not config.points_at(PurePosixPath(undo.directory)):
        return config.text
    if config.schema != undo.schema:
        raise stuck("its schema version has been changed since")
    staying, leaving = (
        {name: value for name, value in section.items() if name != CONFIG_PATH}
        for section in (config.section, undo.section)
    )
    section = config_undo.merged(staying, leaving)
    if lost and section != staying:  # else all is there, put back by somebody else
        statements = _marked(statements, lost, _line_break(config.text))
    if _setting(statements, config.path) and CONFIG_PATH in undo.section:
        section[CONFIG_PATH] = undo.section[CONFIG_PATH]
    arounds = [config.around] + [{}] * (config.around == {"version": undo.schema})
    for text in _ways_back(statements, config.path, undo):
        if any(config_toml.says(text, around, section) for around in arounds):
            return text
    raise stuck("its registry section has been changed since")


def _marked(statements: _Statements, pieces: list[Piece], line_break: str) -> _Statements:
    """Mark places for pieces whose comments somebody has dropped: behind their tables, or at the end."""
    texts = [one.text for one in statements]
    for piece in pieces:
        stop = len(texts) if piece.table is None else _stop(statements, piece.table)
        if stop:
            text, end = _split(texts[stop - 1])
            texts[stop - 1] = f"{text}{line_break}{piece.marker}{end}"
        elif piece.table:
            raise stuck("the table that the legacy configuration was in is gone")
        else:
            texts[0] = f"{piece.marker}{line_break}{texts[0]}"
    return _statements("".join(texts))


def _ways_back(statements: _Statements, path: Path, undo: Undo) -> Iterator[str]:
    """Put the pieces back; give config_path its former value, or take it out with what came with it or alone."""
    texts = {piece.marker: piece.text for piece in undo.pieces}
    back = {
        one: texts.pop(one.text.strip()) + _split(one.text)[1]
        for one in statements
        if not one.key and one.text.strip() in texts
    }
    setting = _setting(statements, path)
    if setting is None:
        yield _text(statements, back)
    elif undo.value is not None:
        yield _text(statements, back | {setting: _with_value(setting.text, undo.value)[0]})
    else:
        yield _text(statements, back).replace(undo.inserted, "", 1)
        if "[" in undo.inserted:
            headers = (one for one in statements if one.key == path and one.is_header)
            yield _text(statements, back | dict.fromkeys((setting, *headers), ""))
        yield _text(statements, back | {setting: ""})


def _statements(text: str) -> _Statements:
    """Take a text apart that tomllib has accepted."""
    found: list[_Statement] = []
    table: Path = ()
    lines, line = "", 1
    for one in _LINE.findall(text):
        lines += one
        key = _key(lines) if lines == one or _CLOSING.search(one) else None
        if key is not None:
            is_header = key != () and lines.lstrip(" \t").startswith("[")
            table, key = (key, key) if is_header else (table, key and table + key)
            found.append(_Statement(text=lines, line=line, key=key, table=table, is_header=is_header))
            lines, line = "", line + lines.count("\n")
    if lines:
        raise _defect(f"tomlkit does not read line {line}")
    return tuple(found)


def _key(text: str) -> Path | None:
    """Read the key of the one statement in a text; None if that goes on."""
    try:
        return _innermost(tomlkit.parse(text))[0]
    except TOMLKitError:
        return None


def _innermost(container: Container) -> tuple[Path, Container]:
    """Follow the only key; returns it and what holds its value."""
    path: Path = ()
    while len(container):
        [(name, value)] = container.items()
        path += (name,)
        table = value[0] if isinstance(value, AoT) else value
        if not isinstance(table, Table):
            break
        container = table.value
    return path, container


def _with_value(pair: str, value: str) -> tuple[str, str]:
    """Write another value into a pair; returns the former one, too."""
    document = tomlkit.parse(pair)
    [*_, name], container = _innermost(document)
    former = container[name]
    assert isinstance(former, Item)
    try:
        container[name] = tomlkit.value(value)
    except TOMLKitError as err:
        raise _defect("a value that was saved is not TOML") from err
    return document.as_string(), former.as_string()


def _setting(statements: _Statements, path: Path) -> _Statement | None:
    """Find what sets config_path: a pair, or the section at `path` as an inline table."""
    keys = (path, (*path, CONFIG_PATH))
    return next((one for one in statements if one.key in keys and not one.is_header), None)


def _stop(statements: _Statements, table: Path) -> int:
    """Find where a table ends, before the comments behind it; 0 without one."""
    return max((index for index, one in enumerate(statements, start=1) if one.key and one.table == table), default=0)


def _text(statements: _Statements, changes: _Changes) -> str:
    return "".join(changes.get(one, one.text) for one in statements)


def _split(text: str) -> tuple[str, str]:
    """Split off the line break at the end."""
    body = text.removesuffix("\n").removesuffix("\r")
    return body, text[len(body) :]


def _line_break(text: str) -> str:
    """Return the one that most lines end with."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _notices(config: ConfigToml, directory: PurePosixPath, *, is_new: bool) -> Iterator[Notice]:
    if is_new:
        message = "config.toml was missing; the new one has config_path only, and containerd's defaults hold otherwise"
        yield Notice(code="ContainerdConfigCreated", message=message)
    if len(config.directories) > 1:
        effect = "all of which containerd 2.1 and newer ignore"
        message = f"config_path named several directories, {effect}; now it names {directory} alone"
        yield Notice(code="SeveralConfigPaths", message=message)
    for name in config.directories:
        if PurePosixPath(name) != directory:
            message = f"config_path named {name[:_MAX_SHOWN]!a}; containerd reads nothing there any more"
            yield Notice(code="ConfigPathReplaced", message=message)
    for section in config.elsewhere:
        message = f"config.toml has {section}, too, which containerd does not read beside `version = {config.schema}`"
        yield Notice(code="OtherSchemaSection", message=message)
    if config.legacy():
        message = f"moved aside from {config.key}: {', '.join(config.legacy())}"
        yield Notice(code="LegacyMovedAside", message=message)


def _defect(what: str) -> ContainerdEditFailed:
    return ContainerdEditFailed(f"config.toml was left as it is: {what}", remedy="set config_path by hand; report this")
