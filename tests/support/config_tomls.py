"""containerd's config.toml for tests: real ones, and hypothesis strategies for any.

`config_toml/before` has files as distributions, clouds and installers make them, `config_toml/after`
the same ones pointing at registry.d. Everything that the strategies draw is valid TOML.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path as Folder
from pathlib import PurePosixPath

from hypothesis import assume
from hypothesis import strategies as st

from agent import containerd_config
from agent.config_toml import SECTIONS, Path
from agent.containerd_config import Edit
from agent.runtime import Containerd, ContainerdVersion, Flavour

REGISTRY_DIR = PurePosixPath("/etc/containerd/registry.d")
MARKER = "# registry-agent: part 1 of the legacy registry configuration was moved aside"
SECRET = "s3cr3t-value"

#: By schema, a containerd that reads such a file.
READERS = {None: "1.7.24", 1: "1.6.20", 2: "1.7.24", 3: "2.1.9", 4: "2.3.4"}

_FOLDER = Folder(__file__).parent / "config_toml"
NAMES = sorted(file.stem for file in (_FOLDER / "before").glob("*.toml"))


def before(name: str) -> bytes:
    """Return a real file."""
    return (_FOLDER / "before" / f"{name}.toml").read_bytes()


def after(name: str) -> bytes:
    """Return the same file, pointing at registry.d."""
    return (_FOLDER / "after" / f"{name}.toml").read_bytes()


def point(raw: bytes | None, version: str | None = "1.7.24", *, saved: bytes | None = None) -> Edit:
    """Edit for a containerd of this version."""
    parsed = ContainerdVersion.parse(version) if version else None
    containerd = Containerd(flavour=Flavour.STOCK, version=parsed)
    return containerd_config.point_at(raw, registry_dir=REGISTRY_DIR, containerd=containerd, saved=saved)


# Strategies.

_VALUES = st.sampled_from(
    [
        "1",
        "0x1F",
        "-0",
        "nan",
        "-inf",
        "1e6",
        "true",
        '""',
        "''",
        '"a # b"',
        '"\\" = ["',
        "'\\'",
        "1979-05-27 07:32:00",
        "07:32:00",
        "1979-05-27T07:32:00Z",
        "[]",
        "{}",
        '[ "]", [ 1, 2 ], # ]\n  {x = "}", y.z = 1} ]',
        '{ a = "#", b = { c = [ 1 ] } }',
        '"""\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/no"\n"""',
        '"""a""""',
        '"""\\""""""',
        f"'''\n{MARKER}\n'''",
        "'''''a'''''",
        '"""\\\n   joined\\\n """',
    ]
)
_NO_LINE = "-"
_TRIVIA = (_NO_LINE, _NO_LINE, _NO_LINE, "", "  ", "# comment", '\t# [plugins] = "', f"# mirrors = '{SECRET}'", "#")
_HOSTS = st.sampled_from(["docker.io", "registry.example.com:5000", "*", "[::1]:5000", "a b", "é"])
_LEGACY = st.sampled_from(["mirrors", "configs", "auths", "headers", "MIRRORS", "Configs"])
_UNKNOWN = st.sampled_from(["foo", "config-path", "mirror"])
_DIRECTORIES = st.sampled_from(
    ["", "/etc/containerd/certs.d", "/a:/b", f"{REGISTRY_DIR}:/b", "/a:", f"{REGISTRY_DIR}/"]
)
_INDENTS = ("", "  ", "    ", "\t")

_MIRROR_PAIRS: list[tuple[Path, str]] = [(("endpoint",), '["http://m"]'), (("rewrite",), '{ "^a" = "b" }')]
_PAIRS: dict[str, list[tuple[Path, str]]] = {
    "mirrors": _MIRROR_PAIRS,
    "auths": _MIRROR_PAIRS,
    "headers": [(("x",), '["y"]')],
    "configs": [
        (("auth", "username"), '"u"'),
        (("auth", "password"), f'"{SECRET}"'),
        (("tls", "insecure_skip_verify"), "true"),
        (("tls",), '{ ca_file = "/a" }'),
        (("AUTH",), "{ auth = 'dTpw' }"),
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A config.toml, and a containerd that reads its schema."""

    raw: bytes
    containerd: str


@dataclass(slots=True)
class _Parts:
    """Statements by where they may stand."""

    root: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    plugin: list[str] = field(default_factory=list)
    tables: list[list[str]] = field(default_factory=list)


@st.composite
def config_tomls(draw: st.DrawFn, schemas: tuple[int | None, ...] = (None, 1, 2, 2, 2, 3, 4)) -> Sample:
    """Draw a whole file with every spelling of the registry section among other things."""
    schema = draw(st.sampled_from(schemas))
    path = SECTIONS[schema or 1]
    parts = draw(_section(path))
    is_dotted = bool(parts.plugins or parts.root)
    if schema is not None:
        parts.root.append(draw(_pair(("version",), draw(st.sampled_from([f"{schema}", f"0x{schema}"])))))
    parts.root += draw(_others("root"))
    for table, prefix in (("debug",), "level"), (("plugins", "other"), "o"), ((*path[:2], "cni"), "c"):
        if draw(st.booleans()) and not (is_dotted and table[:2] == path[:2]):
            parts.tables.append([draw(_header(table)), *draw(_others(prefix))])
    if draw(st.booleans()):
        parts.tables.append(["[[list]]", *draw(_others("l"))])
    if parts.plugins:
        parts.tables.append([draw(_header(path[:1])), *parts.plugins])
    elif bool(parts.plugin) or (draw(st.booleans()) and not is_dotted):
        parts.tables.append([draw(_header(path[:2])), *draw(st.permutations(parts.plugin + draw(_others("p"))))])
    blocks = [draw(st.permutations(parts.root)), *draw(st.permutations(parts.tables))]
    text = draw(_written([statement for block in blocks for statement in block]))
    assume(_is_toml(text))
    bom = draw(st.sampled_from(["", "", "", "\ufeff"]))
    return Sample(raw=f"{bom}{text}".encode(), containerd=READERS[schema])


@st.composite
def _section(draw: st.DrawFn, path: Path) -> _Parts:
    """Say the registry section: in tables, dotted keys, an inline table, or not at all."""
    form = draw(st.sampled_from(["tables", "tables", "tables", "plugin", "inline", "plugins", "root", "none"]))
    pairs = draw(_section_pairs())
    match form:
        case "tables":
            return _Parts(tables=draw(_section_tables(path, pairs)))
        case "inline":
            ways = draw(_WAYS)
            inner = ", ".join(f"{ways.key(key)} = {value}" for key, value in pairs if "\n" not in value)
            return _Parts(plugin=[draw(_pair(path[2:], f"{{ {inner} }}"))])
        case "plugin":
            return _Parts(plugin=[draw(_pair((*path[2:], *key), value)) for key, value in pairs])
        case "plugins":
            return _Parts(plugins=[draw(_pair((*path[1:], *key), value)) for key, value in pairs])
        case "root":
            return _Parts(root=[draw(_pair((*path, *key), value)) for key, value in pairs])
        case _:
            return _Parts()


@st.composite
def _section_pairs(draw: st.DrawFn) -> list[tuple[Path, str]]:
    """Say the section in pairs, relative to it."""
    pairs: list[tuple[Path, str]] = []
    if draw(st.booleans()):
        pairs.append((("config_path",), f'"{draw(_DIRECTORIES)}"'))
    for name in draw(st.lists(_LEGACY, max_size=2, unique_by=str.lower)):
        if draw(st.booleans()):
            pairs.append(((name,), draw(_inline_hosts(name))))
        else:
            pairs += [((name, draw(_HOSTS), *key), value) for key, value in draw(_host_pairs(name))]
    if draw(st.booleans()):
        pairs.append(((draw(_UNKNOWN),), draw(_VALUES)))
    return draw(st.permutations(pairs))


@st.composite
def _section_tables(draw: st.DrawFn, path: Path, pairs: list[tuple[Path, str]]) -> list[list[str]]:
    if draw(st.booleans()):
        pairs, tables = [], []
    else:
        tables = [[draw(_header(path)), *[draw(_pair(key, value)) for key, value in pairs]]]
    taken = {key[0].lower() for key, _ in pairs}
    for name in draw(st.lists(_LEGACY, max_size=3, unique_by=str.lower)):
        if name.lower() not in taken:
            tables += draw(_legacy_tables((*path, name)))
    return tables


@st.composite
def _legacy_tables(draw: st.DrawFn, path: Path) -> list[list[str]]:
    """Say one legacy key in tables, with or without headers for the tables above."""
    tables = [[draw(_header(path))]] if draw(st.booleans()) else []
    for host in draw(st.lists(_HOSTS, max_size=2, unique=True)):
        pairs = draw(_host_pairs(path[-1]))
        if draw(st.booleans()):
            tables.append([draw(_header((*path, host))), *[draw(_pair(key, value)) for key, value in pairs]])
        else:
            deep = [(key, value) for key, value in pairs if len(key) > 1]
            tables += [[draw(_header((*path, host, key[0]))), draw(_pair(key[1:], value))] for key, value in deep]
    return tables


@st.composite
def _inline_hosts(draw: st.DrawFn, name: str) -> str:
    tables = []
    for host in draw(st.lists(_HOSTS, max_size=2, unique=True)):
        pairs = ", ".join(f"{'.'.join(key)} = {value}" for key, value in draw(_host_pairs(name)))
        tables.append(f'"{host}" = {{ {pairs} }}')
    return "{ " + ", ".join(tables) + " }"


def _host_pairs(name: str) -> st.SearchStrategy[list[tuple[Path, str]]]:
    return st.lists(st.sampled_from(_PAIRS[name.lower()]), max_size=2, unique_by=lambda pair: pair[0][0])


@st.composite
def _others(draw: st.DrawFn, prefix: str) -> list[str]:
    """Draw pairs that have nothing to do with registries."""
    return [draw(_pair((f"{prefix}{number}",), draw(_VALUES))) for number in range(draw(st.integers(0, 3)))]


class _Ways:
    """Many small choices out of one number: a hundred draws of their own would make examples slow."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pick(self, *ways: str) -> str:
        """Choose; the first way is the simplest."""
        self._number, index = divmod(self._number, len(ways))
        return ways[index]

    def key(self, path: Path) -> str:
        """Spell a dotted key."""
        return self.pick(".", " . ", "\t.").join(map(self._name, path))

    def _name(self, name: str) -> str:
        quoted = [f'"{name}"', f"'{name}'"]
        is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        plain = [name, name] if is_bare else quoted
        return self.pick(*plain, *quoted, *plain, *quoted, *plain, *quoted, f'"\\u{ord(name[0]):04x}{name[1:]}"')


_WAYS = st.integers(0, 10**12).map(_Ways)


@st.composite
def _header(draw: st.DrawFn, path: Path) -> str:
    ways = draw(_WAYS)
    space = ways.pick("", " ")
    return f"{ways.pick(*_INDENTS)}[{space}{ways.key(path)}{space}]{ways.pick('', ' # [x]')}"


@st.composite
def _pair(draw: st.DrawFn, path: Path, value: str) -> str:
    ways = draw(_WAYS)
    indent, equals, comment = ways.pick(*_INDENTS), ways.pick(" = ", "=", "\t= "), ways.pick("", " # c = '")
    return f"{indent}{ways.key(path)}{equals}{value}{comment}"


@st.composite
def _written(draw: st.DrawFn, statements: list[str]) -> str:
    """Join statements with comments and blank lines among them, in one style of line breaks or a mixed one."""
    breaks = draw(st.sampled_from([["\n"], ["\n"], ["\r\n"], ["\n", "\r\n"]]))
    text = ""
    for statement in [*statements, ""]:
        ways = draw(_WAYS)
        lines = [line for line in (ways.pick(*_TRIVIA), ways.pick(*_TRIVIA)) if line is not _NO_LINE]
        text += "".join(line + ways.pick(*breaks) for line in [*lines, *statement.split("\n")])
    return text if draw(st.booleans()) else text.rstrip("\r\n")


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
