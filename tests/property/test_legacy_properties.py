"""What holds for any containerd file: a registry table is found in any spelling, and no value ever gets out."""

from __future__ import annotations

import json
import tomllib
from pathlib import PurePosixPath
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent.legacy import Examined, Legacy, examine

_CANARY = "c4naryS3cret"
_PATH = PurePosixPath("/etc/containerd/conf.d/x.toml")
_IDS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")

#: Every name that could be taken for a registry table at another place.
_names = st.sampled_from(
    ["registry", "REGISTRY", "plugins", "mirrors", "imports", "docker.io", f"https://u:{_CANARY}@h", 'a"\\b', "", *_IDS]
)
_plain = st.sampled_from([_CANARY, f'{_CANARY}\n"', f"[plugins.cri.registry]\n#{_CANARY}", 7, True, [_CANARY]])
_values = st.recursive(_plain, lambda inner: st.dictionaries(_names, inner, max_size=3), max_leaves=6)
_other_names = _names.filter(lambda name: name.lower() not in {"registry", "plugins"})
_innocent_tables = st.fixed_dictionaries(
    {},
    optional={
        **{plugin: st.dictionaries(_other_names, _values, max_size=2) for plugin in _IDS},
        "io.containerd.cri.v1.runtime": st.dictionaries(_names, _values, max_size=2),
        "IO.CONTAINERD.GRPC.V1.CRI": st.dictionaries(_names, _values, max_size=2),
        "io": st.dictionaries(_names, _values, max_size=2),
    },
)


def _cased(word: str) -> st.SearchStrategy[str]:
    return st.lists(st.booleans(), min_size=len(word), max_size=len(word)).map(
        lambda upper: "".join(each.upper() if is_upper else each for each, is_upper in zip(word, upper, strict=True))
    )


@st.composite
def _innocent(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration without a registry table of the CRI plugin."""
    document: dict[str, Any] = draw(st.dictionaries(_other_names, _values, max_size=3))
    if draw(st.booleans()):
        document[draw(_cased("plugins"))] = draw(_innocent_tables)
    return document


@st.composite
def _legacy(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration and put a registry table, whatever is in it, into one of its CRI plugins."""
    document = draw(_innocent())
    tables = document.setdefault(draw(_cased("plugins")), {})
    tables.setdefault(draw(st.sampled_from(_IDS)), {})[draw(_cased("registry"))] = draw(_values)
    return document


def _spelled(draw: st.DrawFn, key: str) -> str:
    spellings = [json.dumps(key), '"' + "".join(f"\\u{ord(each):04x}" for each in key) + '"']
    if key and key.replace("_", "").isalnum():
        spellings.append(key)
    if "'" not in key:
        spellings.append(f"'{key}'")
    return draw(st.sampled_from(spellings))


def _inline(draw: st.DrawFn, value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{_spelled(draw, key)} = {_inline(draw, inner)}" for key, inner in value.items()) + "}"


def _dotted(draw: st.DrawFn, key: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        rest = [line for inner in value for line in _dotted(draw, inner, value[inner])]
        return [f"{_spelled(draw, key)} . {line}" for line in rest]
    return [f"{_spelled(draw, key)} = {_inline(draw, value)}"]


def _lines(draw: st.DrawFn, table: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """Write a table, each one inside it as a header, as dotted keys or inline."""
    plain: list[str] = []
    sections: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict) and draw(st.booleans()):
            here = (*path, key)
            header = ".".join(_spelled(draw, part) for part in here)
            sections += [f"[{header}]", *_lines(draw, value, here)]
        elif draw(st.booleans()):
            plain += _dotted(draw, key, value)
        else:
            plain.append(f"{_spelled(draw, key)} = {_inline(draw, value)}")
    return [*plain, *sections]


@st.composite
def _written(draw: st.DrawFn, documents: st.SearchStrategy[dict[str, Any]]) -> str:
    document = draw(documents)
    text = "\n".join(_lines(draw, document))
    assert tomllib.loads(text) == document
    return text


def _says_nothing(examined: Examined) -> None:
    """Fail if the value of any key is in what is known of the file."""
    unreadable = (examined.unreadable,) if examined.unreadable else ()
    legacy = Legacy(findings=examined.findings, unreadable=unreadable)
    errors = "".join(
        f"{error} {error.remedy} {error!r} {error.__cause__} {error.__context__}" for error in legacy.errors()
    )
    assert _CANARY not in f"{legacy} {examined.findings} {examined.unreadable} {errors}"
    assert errors.isprintable()


@given(_written(_legacy()))
def test_a_registry_table_is_found_in_any_spelling(text: str) -> None:
    """Under each schema, with any content, among anything else."""
    examined = examine(_PATH, text.encode())
    assert examined.unreadable is None
    assert examined.findings
    _says_nothing(examined)


@given(_written(_innocent()))
def test_anything_else_is_no_finding(text: str) -> None:
    """Whatever it looks like."""
    examined = examine(_PATH, text.encode())
    assert ((), None) == (examined.findings, examined.unreadable)


@given(_written(_legacy()), st.data())
def test_a_damaged_file_is_an_answer_and_says_nothing(text: str, data: st.DataObject) -> None:
    """A piece missing or a piece too much, as in a file that is just being written: never an exception."""
    raw = text.encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    piece = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b'"""', b"'", b"[[", b"]", b"=", b".", b"\n"])))
    _says_nothing(examine(_PATH, raw[:start] + piece + raw[end:]))


@given(st.one_of(st.binary(), st.text(alphabet="ab.=[]{}'\"\\#\n 09-:T+_é").map(str.encode)))
@example(b"a = 2021-02-30")
@example(b"a = 0x")
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
def test_any_bytes_have_an_answer(raw: bytes) -> None:
    """Nothing is raised, and a file that cannot be read says a line."""
    examined = examine(_PATH, raw)
    assert examined.unreadable is None or "line " in examined.unreadable.message
