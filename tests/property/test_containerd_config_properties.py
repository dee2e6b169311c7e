"""What holds for any config.toml: only the registry section changes, and every edit can be undone."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent import containerd_config
from agent.config_toml import LEGACY_KEYS, SECTIONS
from agent.containerd_config import Edit
from agent.errors import AgentError, ContainerdConfigUnreadable, ContainerdConfigUnsupported, LegacyRestoreFailed
from tests.support import config_tomls
from tests.support.config_tomls import REGISTRY_DIR, SECRET, Sample, before, point

_MUTATIONS = [
    "[",
    "]",
    "{",
    "}",
    '"',
    '"""',
    "'",
    "'''",
    "\\",
    "#",
    "=",
    ".",
    ",",
    "\n",
    "\r",
    "\t",
    "a",
    "1",
    "é",
    "\0",
]
_NEW_COMMENT = "# somebody was here"

samples = config_tomls.config_tomls()


def _edited(sample: Sample) -> Edit:
    """Edit, or give the example up where a form has to be refused."""
    try:
        return point(sample.raw, sample.containerd)
    except ContainerdConfigUnsupported as err:
        assert "is an inline table" in err.message or "a key with an escape" in err.message  # noqa: PT017
        assume(False)  # noqa: FBT003 -- hypothesis' own signature
        raise


def _parsed(raw: bytes) -> tuple[Any, dict[str, Any]]:
    """Parse in another way than the agent's: all but the registry section, and the section."""
    tables = json.loads(json.dumps(tomllib.loads(raw.decode("utf-8-sig")), default=str))
    plugins, plugin, registry = SECTIONS[tables.get("version", 1)]
    section = tables.setdefault(plugins, {}).setdefault(plugin, {}).pop(registry, {})
    return json.dumps(tables, sort_keys=True), section


def _declared(sample: Sample) -> tuple[Any, dict[str, Any]]:
    """Parse, taking a file that says nothing for one with the schema that it is to get."""
    is_empty = not tomllib.loads(sample.raw.decode("utf-8-sig"))
    schema = b"version = 3" if sample.containerd.startswith("2") else b"version = 2"
    return _parsed(schema if is_empty else sample.raw)


def _declares(edit: Edit) -> bool:
    """Tell whether the edit has put in a schema version, too."""
    return "version" in json.loads(edit.saved or b"")["inserted"]


def _restored(edit: Edit, raw: bytes | None = None) -> bytes | None:
    assert edit.saved is not None
    return containerd_config.restore(edit.content if raw is None else raw, edit.saved)


@given(samples)
def test_editing_and_restoring_gives_the_same_bytes(sample: Sample) -> None:
    """Whatever the spelling; and what has been done once is not done again."""
    edit = _edited(sample)
    if not edit.is_changed:
        assert sample.raw == edit.content
        return
    assert sample.raw == _restored(edit)
    again = point(edit.content, sample.containerd, saved=edit.saved)
    assert (edit.content, False, edit.saved) == (again.content, again.is_changed, again.saved)
    assert sample.raw == _restored(edit, sample.raw), "restored twice"


@given(samples)
def test_only_the_registry_section_changes_its_meaning(sample: Sample) -> None:
    """It names one directory, and nothing legacy that holds anything is left."""
    edit = _edited(sample)
    (was_around, was), (around, section) = _declared(sample), _parsed(edit.content)
    assert was_around == around
    assert str(REGISTRY_DIR) == section["config_path"].removesuffix("/")
    unknown = {
        name: value for name, value in was.items() if name.lower() not in (*LEGACY_KEYS, "config_path") and value != {}
    }
    assert unknown == {name: value for name, value in section.items() if name in unknown}
    assert not any(section[name] for name in section.keys() - unknown.keys() - {"config_path"})


@given(samples)
def test_lines_outside_of_the_section_stay_as_they_are(sample: Sample) -> None:
    """All lines of before are there, but for those moved aside and that of config_path; restoring shows the order."""
    edit = _edited(sample)
    saved = json.loads(edit.saved) if edit.saved else {"pieces": [], "value": None}
    moved = [line for piece in saved["pieces"] for line in piece["text"].splitlines()]
    lines, found = (Counter(raw.decode("utf-8-sig").splitlines()) for raw in (sample.raw, edit.content))
    missing = lines - found - Counter(moved)
    assert missing.total() <= (0 if saved["value"] is None else saved["value"].count("\n") + 1)


@given(samples, st.data())
def test_edits_of_others_survive_the_way_back(sample: Sample, data: st.DataObject) -> None:
    """A root key, a comment anywhere and a table at the end, written while the section was ours."""
    edit = _edited(sample)
    assume(edit.is_changed)
    has_bom = edit.content.startswith(b"\xef\xbb\xbf")
    lines = edit.content.decode("utf-8-sig").splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines)))
    lines[-1] = f"{lines[-1].rstrip()}\n"
    text = "".join(["added_root = 1\n", *lines[:place], f"{_NEW_COMMENT}\n", *lines[place:], "[added]\nx = 1\n"])
    theirs = text.encode("utf-8-sig" if has_bom else "utf-8")
    assume(_NEW_COMMENT not in str(_parsed(theirs)))  # else it came to stand in a string
    restored = _restored(edit, theirs)
    assert restored is not None
    around, section = _parsed(restored)
    expected_around, expected = _parsed(
        b"added_root = 1\n" + sample.raw.removeprefix(b"\xef\xbb\xbf") + b"\n[added]\nx = 1"
    )
    if _declares(edit):  # the schema of the new table is needed from now on
        assert json.loads(around)["version"] in (2, 3)
    else:
        assert (expected_around, expected) == (around, {k: v for k, v in section.items() if v != {} or k in expected})
    assert 1 == restored.decode().splitlines().count(_NEW_COMMENT)
    assert has_bom is restored.startswith(b"\xef\xbb\xbf")


@given(samples)
def test_the_section_comes_back_when_a_tool_has_dropped_the_comments(sample: Sample) -> None:
    """As tools do that parse the file and write it anew."""
    edit = _edited(sample)
    assume(edit.is_changed and not _declares(edit))
    lines = edit.content.decode().splitlines(keepends=True)
    stripped = "".join(line for line in lines if not line.lstrip().startswith("# registry-agent")).encode()
    assume(_parsed(stripped) == _parsed(edit.content))
    restored = _restored(edit, stripped)
    assert restored is not None
    assert _parsed(sample.raw) == _parsed(restored)


@given(config_tomls.config_tomls(schemas=(2,)))
def test_legacy_configuration_that_is_added_later_is_moved_aside_as_well(sample: Sample) -> None:
    """And comes back together with what was moved before."""
    edit = _edited(sample)
    assume(edit.is_changed)
    added = '\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."added.example"]\nendpoint = ["http://m"]\n'
    theirs = edit.content + added.encode()
    try:
        edit = point(theirs, sample.containerd, saved=edit.saved)
    except ContainerdConfigUnreadable:  # the section was not to be extended by a table
        assume(False)  # noqa: FBT003 -- hypothesis' own signature
    assert not _parsed(edit.content)[1].get("mirrors")
    try:
        restored = _restored(edit)
    except LegacyRestoreFailed:  # the first ones were spelled so that nothing can be added to them
        assert all(name in str(edit.saved) for name in ("added.example", "mirrors"))
        return
    assert restored is not None
    expected = _parsed(sample.raw)[1]
    expected.setdefault("mirrors", {})["added.example"] = {"endpoint": ["http://m"]}
    assert expected == _parsed(restored)[1]


@settings(max_examples=50)
@given(samples, samples)
def test_what_was_saved_never_damages_another_file(sample: Sample, other: Sample) -> None:
    """The file may have been replaced since: either it is refused, or only the section changes."""
    edit = _edited(sample)
    assume(edit.saved)
    try:
        restored = _restored(edit, other.raw)
    except LegacyRestoreFailed:
        return
    assert restored is not None
    assert _parsed(other.raw)[0] == _parsed(restored)[0]


@given(st.sampled_from([before(name) for name in config_tomls.NAMES]), st.data())
def test_a_damaged_file_is_refused_or_edited_but_never_crashes(raw: bytes, data: st.DataObject) -> None:
    """Only errors of ours, and none of them quotes the file."""
    text = raw.decode()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 20, len(text))))
        text = text[:start] + data.draw(st.sampled_from(["", *_MUTATIONS])) + text[stop:]
    sample = Sample(raw=text.encode(), containerd="2.1.9")
    try:
        edit = point(sample.raw, sample.containerd)
    except AgentError as err:
        assert SECRET not in str(err)  # noqa: PT017
        return
    assert not edit.is_changed or sample.raw == _restored(edit)
    assert _declared(sample)[0] == _parsed(edit.content)[0]


@given(st.binary() | st.text().map(str.encode))
@example(b"x = 0" + b"1" * 5000)
@example(b"x = " + b"1" * 5000)
@example(b"x = " + b"[" * 5000)
@example(b"x" + b".x" * 500 + b" = 1")
@example(
    b"version = 2\n# registry-agent: part 99999999999999999999 of the legacy registry configuration was moved aside"
)
def test_any_bytes_are_refused_or_edited(raw: bytes) -> None:
    """The agent meets whatever somebody left in that place."""
    try:
        edit = point(raw, "1.7.24")
    except (ContainerdConfigUnreadable, ContainerdConfigUnsupported):
        return
    assert raw == _restored(edit)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["format", "pieces", "table", "section", "value"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_was_saved_never_crashes(saved: bytes) -> None:
    """A damaged copy is an error of its own."""
    try:
        containerd_config.restore(before("debian"), saved)
    except LegacyRestoreFailed as err:
        assert "damaged" in err.message  # noqa: PT017
    else:
        raise AssertionError("taken for a saved section")
