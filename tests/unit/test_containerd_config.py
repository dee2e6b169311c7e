"""config.toml's registry section, case by case: what is read, what an edit gives, what is refused."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from agent import containerd_config
from agent.containerd_config import Edit
from agent.errors import (
    ContainerdConfigUnreadable,
    ContainerdConfigUnsupported,
    ContainerdEditFailed,
    LegacyRestoreFailed,
)
from agent.runtime import Containerd, ContainerdVersion, Flavour
from tests.support import config_tomls
from tests.support.config_tomls import MARKER, NAMES, REGISTRY_DIR, SECRET, after, before, point

CRI = 'plugins."io.containerd.grpc.v1.cri"'
IMAGES = 'plugins."io.containerd.cri.v1.images"'
OURS = f'config_path = "{REGISTRY_DIR}"'

#: Files of schema 3 are for containerd 2.
VERSION = {name: "2.1.9" if b"version = 3" in before(name) else "1.7.24" for name in NAMES}


def restored(edit: Edit, raw: bytes | None = None) -> bytes | None:
    """Undo an edit, in the file that it gave or in another one."""
    assert edit.saved is not None
    return containerd_config.restore(edit.content if raw is None else raw, edit.saved)


def codes(edit: Edit) -> list[str]:
    return [notice.code for notice in edit.notices]


# Real files.


@pytest.mark.parametrize("name", NAMES)
def test_a_real_file_is_edited_as_reviewed(name: str) -> None:
    """What people run today; the result stands in tests/support/config_toml/after."""
    assert after(name) == point(before(name), VERSION[name]).content


@pytest.mark.parametrize("name", [name for name in NAMES if before(name) != after(name)])
def test_a_real_file_comes_back_byte_for_byte(name: str) -> None:
    """Also from a file that has been restored already: a crash may have come in between."""
    edit = point(before(name), VERSION[name])
    assert before(name) == restored(edit) == restored(edit, before(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_right_is_left_alone(name: str) -> None:
    """Nothing to do, nothing to save, and what was saved before stays."""
    edit = point(after(name), VERSION[name], saved=b"kept")
    assert (after(name), False, b"kept", (), ()) == dataclasses.astuple(edit)


# Reading.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1, "plugins.cri.registry", (), ())),
        ("version = 0", (1, "plugins.cri.registry", (), ())),
        ("version = 2", (2, f"{CRI}.registry", (), ())),
        ("version = 4", (4, f"{IMAGES}.registry", (), ())),
        (f'version = 2\n[{CRI}.registry]\nconfig_path = "/a:/b"', (2, f"{CRI}.registry", ("/a", "/b"), ())),
        (f'version = 2\n[{IMAGES}.registry]\nconfig_path = "/a"', (2, f"{CRI}.registry", (), ())),
        (f"version = 3\n[{IMAGES}.registry.mirrors.x]", (3, f"{IMAGES}.registry", (), ("mirrors",))),
        (f"version = 2\n[{CRI}.registry.mirrors]", (2, f"{CRI}.registry", (), ())),
        (
            f"version = 2\n[{CRI}]\nregistry = {{ CONFIGS = {{x = {{}}}}, Headers.y = ['z'] }}",
            (2, f"{CRI}.registry", (), ("CONFIGS", "Headers")),
        ),
    ],
)
def test_what_a_file_says_is_read(text: str, expected: tuple[object, ...]) -> None:
    """Legacy keys count in any case, and only if they hold something."""
    found = containerd_config.inspect(text.encode())
    assert expected == (found.schema, found.key, found.directories, found.legacy())


def test_a_missing_file_says_nothing() -> None:
    """As an empty one."""
    assert containerd_config.inspect(b"") == containerd_config.inspect(None)


# Files that say nothing.


@pytest.mark.parametrize(
    ("version", "head"),
    [
        (None, f"version = 2\n\n[{CRI}.registry]\n"),
        ("1.6.20", f"version = 2\n\n[{CRI}.registry]\n"),
        ("2.0.0", f"version = 3\n\n[{IMAGES}.registry]\n"),
        ("2.1.9", f"version = 3\n\n[{IMAGES}.registry]\n"),
    ],
)
def test_a_missing_file_is_made_with_the_newest_schema_that_fits(version: str | None, head: str) -> None:
    """It says nothing else, so that containerd's defaults hold as they did; and it goes away again."""
    edit = point(None, version)
    assert f"{head}  {OURS}\n".encode() == edit.content
    assert ["ContainerdConfigCreated"] == codes(edit)
    assert restored(edit) is None


@pytest.mark.parametrize(
    "raw", [b"", b"# a\n", b"# a", b"\n\n", b" \t", b"\xef\xbb\xbf", b"# a\r\n#b\r\n", b"\xef\xbb\xbf# a"]
)
def test_a_file_without_content_keeps_its_comments(raw: bytes) -> None:
    """Schema and section go behind them."""
    edit = point(raw)
    assert edit.content.startswith(raw.rstrip(b"\r\n"))
    assert {
        "version": 2,
        "plugins": {"io.containerd.grpc.v1.cri": {"registry": {"config_path": str(REGISTRY_DIR)}}},
    } == (tomllib.loads(edit.content.decode("utf-8-sig")))
    assert raw == restored(edit)
    assert () == edit.notices


def test_what_others_write_into_a_file_of_ours_keeps_its_schema() -> None:
    """Without `version`, containerd would read their tables as schema 1, or not at all."""
    edit = point(None)
    theirs = edit.content + f'[{CRI}]\nsandbox_image = "x"\n'.encode()
    back = restored(edit, theirs)
    assert back is not None
    expected = {"version": 2, "plugins": {"io.containerd.grpc.v1.cri": {"sandbox_image": "x"}}}
    assert expected == tomllib.loads(back.decode())


# Spellings.

SPELLINGS = {
    "value": ('[C.registry]\nconfig_path = ""', f"[C.registry]\n{OURS}"),
    "value with a comment": (
        "[C.registry]\n\tconfig_path\t=  '' # c",
        f'[C.registry]\n\tconfig_path\t=  "{REGISTRY_DIR}" # c',
    ),
    "value over two lines": ('[C.registry]\nconfig_path = """\\\n  /a"""', f"[C.registry]\n{OURS}"),
    "header without a value": ("[C.registry]\n[debug]", f"[C.registry]\n  {OURS}\n[debug]"),
    "header with another key": ("  [C.registry] # c\n  foo = 1", f"  [C.registry] # c\n    {OURS}\n  foo = 1"),
    "quoted header": (
        "[\"plugins\".'io.containerd.grpc.v1.cri' . registry]\n'config_path'=\"\"",
        f"[\"plugins\".'io.containerd.grpc.v1.cri' . registry]\n'config_path'=\"{REGISTRY_DIR}\"",
    ),
    "other tables of the plugin": (
        "[C]\na = 1\n  [C.cni]\n  b = 2\n# c\n[debug]",
        f"[C]\na = 1\n  [C.cni]\n  b = 2\n\n  [C.registry]\n    {OURS}\n# c\n[debug]",
    ),
    "tables of the plugin apart": (
        "[C.cni]\n[debug]\n[C]\na = 1",
        f"[C.cni]\n[debug]\n[C]\na = 1\n\n[C.registry]\n  {OURS}",
    ),
    "nothing of the plugin": ('[debug]\nlevel = ""', f'[debug]\nlevel = ""\n\n[C.registry]\n  {OURS}'),
    "dotted keys": ("[C]\nregistry.config_path = ''\na = 1", f'[C]\nregistry.config_path = "{REGISTRY_DIR}"\na = 1'),
    "dotted keys without it": (
        "[plugins]\n'io.containerd.grpc.v1.cri'.registry.foo = 1\n",
        f"[plugins]\n'io.containerd.grpc.v1.cri'.registry.foo = 1\n\"io.containerd.grpc.v1.cri\".registry.{OURS}\n",
    ),
    "inline table": ("[C]\nregistry = {} # c\na = 1", f"[C]\nregistry = {{ {OURS} }} # c\na = 1"),
    "inline legacy": (
        '[C]\nregistry = { config_path = "", mirrors.x.endpoint = ["http://x"] }',
        f"[C]\nregistry = {{ {OURS} }}",
    ),
    "only tables below": (
        "[C.registry.mirrors.x]\nendpoint = []\n[debug]",
        f"[C.registry]\n  {OURS}\n{MARKER}\n[debug]",
    ),
    "table above behind": (
        "[C.registry.configs.x.auth]\nauth = ''\n[C.registry]\n",
        f"{MARKER}\n[C.registry]\n  {OURS}\n",
    ),
    "apart": (
        "[C.registry.auths.x]\n[debug]\n[C.registry.mirrors.y]",
        f"[C.registry]\n  {OURS}\n{MARKER}\n[debug]\n{MARKER.replace('1', '2')}",
    ),
    "pairs, then tables": (
        "[C.registry]\nmirrors = {x={}}\n# c\n[C.registry.configs.x]\na = 1",
        f"[C.registry]\n  {OURS}\n{MARKER}\n# c\n{MARKER.replace('1', '2')}",
    ),
    "upper case": ("[C.registry.MIRRORS.x]\n", f"[C.registry]\n  {OURS}\n{MARKER}\n"),
    "list of tables": (
        "[C.registry.configs.x]\n[[C.registry.configs.x.y]]\n[debug]",
        f"[C.registry]\n  {OURS}\n{MARKER}\n[debug]",
    ),
    "marker of others": (
        f"{MARKER}\n[C.registry.mirrors.x]\n",
        f"{MARKER}\n[C.registry]\n  {OURS}\n{MARKER.replace('1', '2')}\n",
    ),
    "empty legacy tables": (
        "[C.registry]\nconfig_path = ''\n[C.registry.mirrors]\n[C.registry.configs]",
        f"[C.registry]\n{OURS}\n[C.registry.mirrors]\n[C.registry.configs]",
    ),
}


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize(("text", "expected"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_edited_in_place(text: str, expected: str, line_break: str) -> None:
    """All else keeps its bytes, line breaks and the missing one at the end included; and all comes back."""
    raw, wanted = (
        f"version = 2\n{one}".replace("[C", f"[{CRI}").replace("\n", line_break).encode() for one in (text, expected)
    )
    edit = point(raw)
    assert wanted.decode() == edit.content.decode()
    assert raw == restored(edit)


TRICKY = f'''\
a = 1
  "b.c" . 'd'\t= """x"
[{CRI}.registry.mirrors.no]
# no
\\""""" # c
e = 1979-05-27 07:32:00   # d
f = [ # ]
 "]", {{x = "}}"}}, \'\'\'
]\'\'\' ]
\t[ plugins . "x" ]\t# [c]
g={{}}\r
[{CRI}.registry.mirrors."#]"] # "
endpoint = [
  "http://[::1]", # ]
  [
  ]
]
# e
[[z]]

h = "#"'''


def test_what_looks_like_a_statement_is_not_taken_for_one() -> None:
    """Long strings, lists over several lines, comments and quoted keys do not mislead."""
    raw = f"version = 2\n{TRICKY}".encode()
    edit = point(raw)
    assert ("mirrors",) == edit.moved
    kept, rest = raw.split(f'[{CRI}.registry.mirrors."#]"]'.encode())
    behind = rest[rest.index(b"\n# e") :]
    ours = f"[{CRI}.registry]\n  {OURS}\n{MARKER}".encode()
    assert kept + ours + behind == edit.content
    assert raw == restored(edit)


def test_a_byte_order_mark_stays() -> None:
    """containerd 1 accepts it."""
    raw = b"\xef\xbb\xbfversion = 2\n"
    edit = point(raw)
    assert edit.content.startswith(raw)
    assert raw == restored(edit)


@pytest.mark.parametrize(
    ("version", "schema"),
    [("1.6.20", None), ("1.7.24", 1), ("2.3.4", 1), (None, 2), ("2.2.0", 2), ("2.0.0", 3), ("2.3.0", 4)],
)
def test_the_section_is_where_the_schema_of_the_file_has_it(version: str | None, schema: int | None) -> None:
    """Not where this containerd would write it."""
    edit = point(f"version = {schema}\n".encode() if schema else b"root = '/r'\n", version)
    key = {None: "plugins.cri", 1: "plugins.cri", 2: CRI, 3: IMAGES, 4: IMAGES}[schema]
    assert f"\n\n[{key}.registry]\n  {OURS}\n" in edit.content.decode()


# Notices.


@pytest.mark.parametrize(
    ("config_path", "expected"),
    [
        ("", []),
        ("/a", ["ConfigPathReplaced"]),
        ("/a:/b", ["SeveralConfigPaths", "ConfigPathReplaced", "ConfigPathReplaced"]),
        (f"{REGISTRY_DIR}:/b", ["SeveralConfigPaths", "ConfigPathReplaced"]),
        (f"{REGISTRY_DIR}:", ["SeveralConfigPaths", "ConfigPathReplaced"]),
    ],
)
def test_a_directory_that_is_no_longer_read_is_told(config_path: str, expected: list[str]) -> None:
    """Each by its name."""
    edit = point(f'version = 2\n[{CRI}.registry]\nconfig_path = "{config_path}"'.encode())
    assert expected == codes(edit)


@pytest.mark.parametrize("config_path", [f"{REGISTRY_DIR}", f"{REGISTRY_DIR}/", "/etc//containerd/registry.d"])
def test_the_same_directory_in_other_words_is_left_alone(config_path: str) -> None:
    """containerd opens the same files."""
    assert not point(f'version = 2\n[{CRI}.registry]\nconfig_path = "{config_path}"'.encode()).is_changed


def test_legacy_keys_that_were_moved_are_told_without_their_values() -> None:
    """Nothing that travels to logs may hold a credential."""
    edit = point(before("k3s"))
    assert ("configs",) == edit.moved
    assert f"moved aside from {CRI}.registry: configs" == edit.notices[-1].message
    assert SECRET not in f"{edit!r} {containerd_config.inspect(before('k3s'))!r}"
    assert edit.saved is not None
    assert SECRET in edit.saved.decode()


def test_a_section_of_another_schema_is_told() -> None:
    """It means nothing beside this `version`, which its writer may not know."""
    edit = point(f"version = 2\n[{IMAGES}.registry.mirrors.x]\n".encode(), "2.1.9")
    assert ["OtherSchemaSection"] == codes(edit)


# Refusals.

REFUSED = {
    "version text": ('version = "2"', None, "`version` is not one"),
    "version true": ("version = true", None, "`version` is not one"),
    "version 2.0": ("version = 2.0", None, "`version` is not one"),
    "version 5": ("version = 5", None, "`version` is not one"),
    "version -1": ("version = -1", None, "`version` is not one"),
    "imports text": ('imports = "x"', None, "`imports` is not a list of text"),
    "imports of numbers": ("imports = [1]", None, "`imports` is not a list of text"),
    "VERSION": ("VERSION = 2", None, "VERSION, which only some"),
    "Plugins": ("version = 2\n[Plugins.x]", None, "Plugins, which only some"),
    "Registry": (f"version = 2\n[{CRI}.Registry]", None, f"{CRI}.Registry, which only some"),
    "both": (f"version = 2\n[{CRI}.REGISTRY]\n[{CRI}.registry]", None, f"{CRI}.REGISTRY, which only some"),
    "CONFIG_PATH": (f"version = 2\n[{CRI}.registry]\nCONFIG_PATH = ''", None, "CONFIG_PATH, which only some"),
    "plugins number": ("version = 2\nplugins = 1", None, "plugins is not a table"),
    "plugins list": ("version = 2\n[[plugins]]", None, "plugins is not a table"),
    "plugin text": (f"version = 2\n{CRI} = ''", None, f"{CRI} is not a table"),
    "registry text": (f"version = 2\n{CRI}.registry = ''", None, f"{CRI}.registry is not a table"),
    "registry list": (f"version = 2\n[[{CRI}.registry]]", None, f"{CRI}.registry is not a table"),
    "config_path list": (f"version = 2\n{CRI}.registry.config_path = []", None, "config_path is not text"),
    "mirrors list": (f"version = 2\n[[{CRI}.registry.mirrors]]", None, "mirrors is not a table"),
    "configs of text": (f"version = 2\n[{CRI}.registry.configs]\nx = ''", None, "configs.HOST is not a table"),
    "inline plugins": ("version = 2\nplugins = {}", None, "plugins is an inline table (line 2)"),
    "inline plugin": (f"version = 2\n\n{CRI} = {{}}", None, f"{CRI} is an inline table (line 3)"),
    "inline unknown": (f"version = 2\n{CRI}.registry = {{ foo = 0 }}", None, f"{CRI}.registry is an inline table"),
    "escape": ('version = 2\n["plugins"."\\u0069o.containerd.grpc.v1.cri"]', None, "a key with an escape (line 2)"),
    "escape above": ('version = 2\n["\\u0070lugins"]', None, "a key with an escape (line 2)"),
    "schema 1 on 2.0": ("root = ''", "2.0.0", "containerd 2.0.0 does not read"),
    "schema 1 on 2.2": ("version = 1", "2.2.9", "containerd 2.2.9 does not read"),
    "schema 1, unknown": ("version = 1", None, "not every containerd reads schema 1"),
    "schema 3 on 1.7": ("version = 3", "1.7.24", "containerd 1.7.24 does not read"),
    "schema 3, unknown": ("version = 3", None, "not every containerd reads schema 3"),
    "schema 4 on 2.2": ("version = 4", "2.2.0", "containerd 2.2.0 does not read"),
    "two schemas on 2.3": (f"version = 3\n[{CRI}.registry.mirrors.x]", "2.3.0", f"{CRI}.registry besides"),
}


@pytest.mark.parametrize(("text", "version", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_in_doubt_is_refused_with_a_reason_and_a_remedy(text: str, version: str | None, message: str) -> None:
    """The file stays as it is."""
    with pytest.raises(ContainerdConfigUnsupported) as err:
        point(text.encode(), version)
    assert message in err.value.message
    assert err.value.message.startswith("config.toml was left as it is")
    assert err.value.remedy


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"version = 2\n[plugins\n", "not valid TOML (line 2, column 9)"),
        (b"a = 's3cr3t-value'\n[x]\n[x]\n", "not valid TOML (line 3, column 3)"),
        (b"a = '''\n\n", "not valid TOML (line 3)"),
        (b"# \xff\n", "not UTF-8 (line 1)"),
        (b"\n\nx = '\xe9'\n", "not UTF-8 (line 3)"),
        (b"\xff\xfev\0", "not UTF-8 (line 1)"),
        (b"x = " + b"1" * 5000, "not valid TOML (line 1)"),
        (b"x = " + b"[" * 5000, "not valid TOML (line 1)"),
        (b"x = " + b"[" * 65 + b"]" * 65, "more than 64 levels"),
    ],
)
def test_an_unreadable_file_is_refused_with_the_place_and_without_its_content(raw: bytes, where: str) -> None:
    """The parser's own words may quote the file."""
    with pytest.raises(ContainerdConfigUnreadable) as err:
        point(raw)
    assert where in err.value.message
    assert SECRET not in str(err.value)
    assert err.value.__cause__ is None


@pytest.mark.parametrize("directory", ["etc/registry.d", "/a:b", '/a"b', "/a\\b", "/a\nb", ""])
def test_a_directory_that_config_path_cannot_name_is_refused(directory: str) -> None:
    """A colon separates directories."""
    containerd = Containerd(flavour=Flavour.STOCK, version=ContainerdVersion(1, 7, 24))
    with pytest.raises(ContainerdConfigUnsupported, match="cannot name"):
        containerd_config.point_at(b"", registry_dir=PurePosixPath(directory), containerd=containerd)


# The way back, in a file that somebody has changed.

LEGACY = f"""version = 2
[{CRI}]
  a = 1
  [{CRI}.registry]
    config_path = ""
    [{CRI}.registry.mirrors.x] # c
      endpoint = ["http://x"]
  [{CRI}.cni]
    b = 2
""".encode()


def test_other_edits_survive_the_way_back() -> None:
    """Before, behind and beside the section."""
    edit = point(LEGACY)
    changes = [
        (b"a = 1", b"a = 3 # new"),
        (b"b = 2\n", b""),
        (b"version", b"# first\nversion"),
        (b'/registry.d"', b'/registry.d" # ours'),
    ]
    theirs, expected = edit.content, LEGACY
    for old, new in changes:
        theirs = theirs.replace(old, new)
        expected = expected.replace(old, new).replace(
            b'config_path = ""', b'config_path = "" # ours' if b"ours" in new else b'config_path = ""'
        )
    assert expected == restored(edit, theirs)


def test_a_tool_that_drops_comments_does_not_lose_the_section() -> None:
    """It comes back behind the plugin's registry tables."""
    edit = point(LEGACY)
    back = restored(edit, edit.content.replace(f"    {MARKER}\n".encode(), b"").replace(b"  ", b" "))
    assert back is not None
    assert tomllib.loads(LEGACY.decode()) == tomllib.loads(back.decode())


def test_pairs_of_a_table_come_back_into_it_without_their_comment() -> None:
    """Behind the table's other pairs; a table that is gone cannot take them."""
    raw = f"version = 2\n[{CRI}]\nregistry.mirrors.x.endpoint = []\na = 1\n[debug]\n".encode()
    edit = point(raw)
    stripped = edit.content.replace(MARKER.encode(), b"")
    back = restored(edit, stripped)
    assert back is not None
    assert tomllib.loads(raw.decode()) == tomllib.loads(back.decode())
    with pytest.raises(LegacyRestoreFailed, match="is gone"):
        restored(edit, stripped.replace(f"[{CRI}]\n".encode(), b"[other]\n"))


def test_root_keys_come_back_to_the_beginning_where_no_others_are_left() -> None:
    """Behind a table they would belong to that one."""
    raw = b"plugins.cri.registry.mirrors.x.endpoint = []\n[debug]\n"
    edit = point(raw)
    back = restored(edit, edit.content.replace(MARKER.encode(), b""))
    assert back is not None
    assert tomllib.loads(raw.decode()) == tomllib.loads(back.decode())


def test_a_section_that_somebody_has_put_back_is_not_put_back_twice() -> None:
    """Only config_path, which cannot stand beside it, goes."""
    edit = point(LEGACY)
    theirs = LEGACY.replace(b'config_path = ""', OURS.encode())
    assert LEGACY == restored(edit, theirs)


@pytest.mark.parametrize("old", ["", "/"])
def test_a_section_that_named_our_directory_before_is_restored_once(old: str) -> None:
    """A crash may have come between the restored file and the end of the saved copy."""
    text = f'version = 2\n[{CRI}.registry]\nconfig_path = "{REGISTRY_DIR}{old}"\nmirrors.x.endpoint = []\n'
    edit = point(text.encode())
    assert ("mirrors",) == edit.moved
    assert text.encode() == restored(edit) == restored(edit, text.encode())


@pytest.mark.parametrize("raw", [b"", b"version = 2\n", LEGACY, b"version = 3\n", before("kind")])
def test_a_file_in_which_nothing_is_ours_stays_as_it_is(raw: bytes) -> None:
    """Somebody has replaced it: theirs is the legacy configuration now."""
    assert raw == restored(point(LEGACY), raw)


def test_config_path_of_others_goes_when_the_legacy_section_comes_back() -> None:
    """They cannot stand side by side; its former value returns."""
    edit = point(LEGACY)
    assert LEGACY == restored(edit, edit.content.replace(b"/etc/containerd/registry.d", b"/other"))


def test_the_section_comes_back_without_config_path() -> None:
    """Somebody has taken that out."""
    edit = point(LEGACY)
    theirs = edit.content.replace(OURS.encode(), b"")
    assert LEGACY.replace(b'config_path = ""', b"") == restored(edit, theirs)


def test_a_table_of_ours_stays_when_others_have_used_it() -> None:
    """Their keys would else land in the table above."""
    edit = point(b"version = 2\n[debug]\n")
    theirs = edit.content + b"  foo = 1\n"
    back = restored(edit, theirs)
    assert back is not None
    assert {"foo": 1} == tomllib.loads(back.decode())["plugins"]["io.containerd.grpc.v1.cri"]["registry"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("version = 2", "version = 3", "schema version has been changed"),
        ("    # reg", '    mirrors.x.endpoint = ["http://y"]\n    # reg', "other legacy configuration"),
        ("    # reg", "    mirrors = {}\n    # reg", "registry section has been changed"),
    ],
)
def test_a_section_that_does_not_fit_any_more_is_not_forced_in(old: str, new: str, why: str) -> None:
    """A person has to decide; nothing is written."""
    edit = point(LEGACY)
    with pytest.raises(LegacyRestoreFailed, match=why) as err:
        restored(edit, edit.content.decode().replace(old, new).encode())
    assert "by hand" in err.value.remedy


def test_an_inline_section_that_was_written_anew_is_not_guessed_at() -> None:
    """Its former value fits an inline table only."""
    edit = point(f"version = 2\n[{CRI}]\nregistry = {{ mirrors.x = {{}} }}".encode())
    with pytest.raises(LegacyRestoreFailed, match="has been changed"):
        restored(edit, f"version = 2\n[{CRI}.registry]\n{OURS}\n".encode())


@pytest.mark.parametrize("saved", [b"", b"{}", b"[]", b"\xff", b'{"format": 2}', b'{"format": 1, "pieces": [{}]}'])
def test_a_damaged_copy_of_the_section_is_an_error_of_its_own(saved: bytes) -> None:
    """The file stays as it is, and an edit begins afresh."""
    with pytest.raises(LegacyRestoreFailed, match="is damaged"):
        containerd_config.restore(after("kind"), saved)
    assert LEGACY == restored(point(LEGACY, saved=saved))


def test_a_damaged_value_of_config_path_is_not_written() -> None:
    """The file stays as it is."""
    saved = (point(LEGACY).saved or b"").replace(b'"value": "', b'"value": "}')
    with pytest.raises(ContainerdEditFailed, match="not TOML"):
        containerd_config.restore(point(LEGACY).content, saved)


# Edited again.


def test_legacy_tables_that_were_added_since_come_back_together_with_the_first_ones() -> None:
    """One undo covers both."""
    first = point(LEGACY)
    added = f"\n[{CRI}.registry.configs.y.tls]\nca_file = '/a'\n".encode()
    second = point(first.content + added, saved=first.saved)
    assert ("mirrors", "configs") == second.moved
    assert LEGACY + added == restored(second)


def test_a_file_that_was_put_back_to_legacy_is_the_new_original() -> None:
    """As by an installer that writes the whole file."""
    first = point(LEGACY)
    theirs = LEGACY.replace(b"http://x", b"http://y")
    assert theirs == restored(point(theirs, saved=first.saved))


def test_a_changed_config_path_is_set_again_and_the_first_value_is_kept() -> None:
    """The legacy section in the saved copy belongs to that one."""
    first = point(LEGACY)
    second = point(first.content.replace(b"/etc/containerd/registry.d", b"/other"), saved=first.saved)
    assert (first.content, True) == (second.content, second.is_changed)
    assert LEGACY == restored(second)


def test_a_section_that_cannot_come_back_keeps_nobody_from_work_and_is_not_lost() -> None:
    """config_path is set; a person who reads the error finds both in what was saved."""
    first = point(LEGACY)
    theirs = first.content.replace(b"    # registry", b'    mirrors.x.endpoint = ["http://y"]\n    # registry')
    second = point(theirs, saved=first.saved)
    assert OURS in second.content.decode()
    assert second.saved is not None
    assert all(url in second.saved.decode() for url in ("http://x", "http://y"))
    with pytest.raises(LegacyRestoreFailed, match="other legacy configuration"):
        restored(second)
    third = point(LEGACY, saved=second.saved)
    assert LEGACY == restored(third)


# The last door.


def _gives_up(*_: object) -> str:
    raise LegacyRestoreFailed("no", remedy="none")


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("agent.config_toml.says", lambda *_: False),
        ("agent.containerd_config._restored", lambda *_: ""),
        ("agent.containerd_config._restored", _gives_up),
        ("agent.containerd_config._text", lambda *_: "version = 3"),
        ("agent.containerd_config._statements", lambda _: ()),
        ("agent.containerd_config._key", lambda _: None),
        ("agent.containerd_config._with_value", lambda text, value: (f"{text}{value}", "")),
    ],
)
def test_an_edit_that_is_not_what_was_meant_is_never_returned(
    monkeypatch: pytest.MonkeyPatch, name: str, replacement: Callable[..., object]
) -> None:
    """Were there a defect, the node would keep its file."""
    monkeypatch.setattr(name, replacement)
    with pytest.raises(ContainerdEditFailed):
        point(LEGACY)


def test_every_real_file_has_a_reviewed_result() -> None:
    """A file without one would not be tested."""
    folder = config_tomls._FOLDER
    assert NAMES == sorted(file.stem for file in (folder / "after").glob("*.toml"))
