"""The strict reader of YAML: plain maps, lists and scalars, and a line number for all else."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import ConfigInvalid
from agent.parse import yaml_document
from agent.parse.document import parse
from agent.parse.yaml_document import MAX_DEPTH, UNQUOTED
from tests.support import documents

_LIMIT = 10_000

_ALIAS_BOMB = b"""\
a: &a [x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
"""

_REFUSED = {
    "empty": (b"", "line 1: the document is empty"),
    "blanks": (b" \n\n", "line 1: the document is empty"),
    "comment": (b"# nothing\n", "line 1: the document is empty"),
    "two-documents": (b"a: 1\n---\nb: 2\n", "line 2: a second YAML document begins here; one is expected"),
    "two-documents-after-end": (b"a: 1\n...\n---\nb: 2\n", "line 3: a second YAML document begins here"),
    "tag": (b"a: x\nb: !!python/object/apply:os.system [id]\n", "line 2: YAML tags are not allowed"),
    "standard-tag": (b"a: !!str 1\n", "line 1: YAML tags are not allowed"),
    "bare-tag": (b"a: ! 1\n", "line 1: YAML tags are not allowed"),
    "tag-on-map": (b"a: !!map {b: c}\n", "line 1: YAML tags are not allowed"),
    "tag-on-key": (b"!!str a: x\n", "line 1: a key must be a plain string"),
    "anchor": (b"a: &x y\n", "line 1: YAML anchors and aliases are not allowed"),
    "anchor-on-key": (b"&x a: y\n", "line 1: a key must be a plain string"),
    "anchor-on-list": (b"a: &x [y]\n", "line 1: YAML anchors and aliases are not allowed"),
    "alias": (b"a: *x\n", "line 1: YAML anchors and aliases are not allowed"),
    "alias-as-key": (b"*x : y\n", "line 1: a key must be a plain string"),
    "alias-bomb": (_ALIAS_BOMB, "line 1: YAML anchors and aliases are not allowed"),
    "merge-key": (b"a:\n  <<: {b: c}\n", "line 2: YAML merge keys are not allowed"),
    "duplicate-key": (b"a: 1\nb: 2\na: 3\n", "line 3: a key stands twice in one map"),
    "duplicate-key-quoted": (b"a: 1\n'a': 2\n", "line 2: a key stands twice in one map"),
    "duplicate-key-escaped": (b'a: 1\n"\\x61": 2\n', "line 2: a key stands twice in one map"),
    "duplicate-key-deep": (b"a:\n  b: {c: 1, c: 2}\n", "line 2: a key stands twice in one map"),
    "map-as-key": (b"? {a: b}\n: c\n", "line 1: a key must be a plain string"),
    "list-as-key": (b"[a]: c\n", "line 1: a key must be a plain string"),
    "nul": (b"a: b\0c\n", "the document holds a NUL byte"),
    "utf-16": ("a: b\n".encode("utf-16"), "the document holds a NUL byte"),
    "not-utf-8": (b"a: \xff\n", "the document is not UTF-8 at byte 3"),
    "latin-1": ("a: ä\n".encode("latin-1"), "the document is not UTF-8 at byte 3"),
    "surrogate-in-utf-8": (b"a: \xed\xa0\x80\n", "the document is not UTF-8 at byte 3"),
    "surrogate-escape": (b'a: "\\ud800"\n', "not valid YAML at line 1"),
    "control-character": (b"a: \x01\n", "not valid YAML: a character that YAML does not allow"),
    "del": (b"a: \x7f\n", "not valid YAML: a character that YAML does not allow"),
    "unclosed-quote": (b'a: "b\n', "not valid YAML at line"),
    "unclosed-list": (b"a: [b\n", "not valid YAML at line"),
    "tab-indent": (b"a:\n\tb: c\n", "not valid YAML at line 2"),
    "bad-indent": (b"a:\n  b: c\n d: e\n", "not valid YAML at line 3"),
    "undefined-tag-handle": (b"a: !x!y z\n", "not valid YAML at line 1"),
    "too-large": (b"a" * (_LIMIT + 1), f"has {_LIMIT + 1} bytes, more than the limit of {_LIMIT}"),
    "deep-lists": (b"[" * 5000, f"line 1: nested deeper than {MAX_DEPTH} levels"),
    "deep-maps": (b"{a: " * 1000, f"line 1: nested deeper than {MAX_DEPTH} levels"),
    "deep-block": (
        b"".join(b" " * depth + b"a:\n" for depth in range(MAX_DEPTH + 2)),
        f"line {MAX_DEPTH + 2}: nested deeper than {MAX_DEPTH} levels",
    ),
}


def _load(raw: bytes) -> Any:
    return yaml_document.load(raw, max_bytes=_LIMIT)


@pytest.mark.parametrize(("raw", "rule"), [pytest.param(*case, id=name) for name, case in _REFUSED.items()])
def test_what_is_not_plain_yaml_is_refused_with_its_line(raw: bytes, rule: str) -> None:
    """One problem, without a path, that says where and why."""
    with pytest.raises(ConfigInvalid) as caught:
        _load(raw)
    (problem,) = caught.value.problems
    assert "" == problem.path
    assert rule in problem.rule


def test_the_deepest_document_that_is_allowed_is_read() -> None:
    """The limit itself is inside; the contract's documents need half of it."""
    value = _load(b"[" * MAX_DEPTH + b"x" + b"]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert "x" == value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("text", "text"),
        ("127.0.0.1:5001", "127.0.0.1:5001"),
        ("registry.d8-system.svc:5001", "registry.d8-system.svc:5001"),
        ("fd00::1", "fd00::1"),
        ("1.2.3", "1.2.3"),
        ("5s", "5s"),
        ("1e3", "1e3"),
        ("^system/deckhouse", "^system/deckhouse"),
        ('"1234"', "1234"),
        ("'2024-01-01'", "2024-01-01"),
        ("'yes'", "yes"),
        ("'~'", "~"),
        ("|\n  line\n  line\n", "line\nline\n"),
        (">-\n  line\n  line\n", "line line"),
        ('"\\u00e9\\U0001f511\\u2028"', "é\U0001f511\u2028"),
        ("🔑", "🔑"),
        ("'it''s'", "it's"),
    ],
)
def test_text_stays_text(written: str, expected: str) -> None:
    """Quoted, block and plain styles; a plain word is text unless YAML says otherwise."""
    assert {"a": expected} == _load(f"a: {written}\n".encode())


@pytest.mark.parametrize(
    "written",
    [
        "1234",
        "-1",
        "0",
        "017",
        "0x1F",
        "0b11",
        "1_000",
        "1.5",
        ".5",
        "1.5e+3",
        ".inf",
        ".nan",
        "190:20:30",
        "2024-01-01",
        "2024-01-01T10:00:00Z",
        "=",
    ],
)
def test_numbers_and_dates_without_quotes_are_marked(written: str) -> None:
    """They are never turned into text: what was written, 017 or 1_000, could not be told any more."""
    assert {"a": UNQUOTED} == _load(f"a: {written}\n".encode())


@pytest.mark.parametrize(
    ("written", "expected"),
    [("true", True), ("True", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("OFF", False)],
)
def test_booleans_are_booleans(written: str, *, expected: bool) -> None:
    """Every spelling that Go's YAML 1.1 library takes for one."""
    assert {"a": expected} == _load(f"a: {written}\n".encode())


@pytest.mark.parametrize("written", ["", "~", "null", "NULL"])
def test_null_is_none(written: str) -> None:
    """A field without a value counts as absent where it is optional."""
    assert {"a": None} == _load(f"a: {written}\n".encode())


@pytest.mark.parametrize("key", ["1234", "127.0.0.1:5001", "true", "2024-01-01", "~", "'<<'"])
def test_a_key_is_text_whatever_it_looks_like(key: str) -> None:
    """Registry hosts are keys, and some look like numbers."""
    assert {key.strip("'"): "x"} == _load(f"{key}: x\n".encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": ["b", {"c": true, "d": null}]}',
        b"\xef\xbb\xbfa: [b, {c: true, d: null}]",
        b"a:\r\n- b\r\n- c: true\r\n  d: null\r\n",
        b"%YAML 1.1\n---\na: [b, {c: true, d: null}]\n...\n",
        b"# comment\na: [b, {c: true, d: }] # comment\n",
    ],
    ids=["json", "bom", "crlf", "directive", "comments"],
)
def test_other_ways_to_write_the_same_document(raw: bytes) -> None:
    """JSON is YAML; a BOM, CRLF, directives and comments are harmless."""
    assert {"a": ["b", {"c": True, "d": None}]} == _load(raw)


@pytest.mark.parametrize("written", ["1234", "2024-01-01", "1.5", "true", "~", "[a]", "{a: b}"])
def test_an_unquoted_value_where_text_is_meant_is_refused_by_path(written: str) -> None:
    """The reader marks, the wire shape refuses, and the value is not shown."""
    raw = documents.raw(documents.document()).replace(b"opaque", written.encode())
    with pytest.raises(ConfigInvalid) as caught:
        parse(raw)
    assert ["version"] == [problem.path for problem in caught.value.problems]
    assert "must be text" in caught.value.problems[0].rule


@pytest.mark.parametrize("raw", [raw for raw, _ in _REFUSED.values()], ids=list(_REFUSED))
def test_the_library_error_is_not_chained(raw: bytes) -> None:
    """PyYAML's errors quote the input; a chained one would reach the log with a traceback."""
    with pytest.raises(ConfigInvalid) as caught:
        _load(raw)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
