"""Legacy registry configuration in one file: what is a finding, what is none, what cannot be told."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from agent import legacy
from agent.errors import LegacyPresent, LegacyUnreadable
from agent.legacy import Examined, Legacy, LegacyFinding, examine, matches

PATH = PurePosixPath("/etc/containerd/conf.d/registry.toml")
SCHEMA_2 = 'plugins."io.containerd.grpc.v1.cri".registry'
SCHEMA_3 = 'plugins."io.containerd.cri.v1.images".registry'


def _keys(text: str) -> list[str]:
    examined = examine(PATH, text.encode())
    assert examined.unreadable is None
    assert {PATH} >= {finding.path for finding in examined.findings}
    return [finding.key for finding in examined.findings]


def _why(raw: bytes) -> str:
    examined = examine(PATH, raw)
    assert examined.unreadable is not None
    assert ((), ()) == (examined.findings, examined.imports)
    message = examined.unreadable.message
    assert message.startswith(f"containerd's {PATH} cannot be read: ")
    return message.partition("cannot be read: ")[2]


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ('mirrors."docker.io"]\nendpoint = ["https://m"]', ['mirrors."docker.io"']),
        ("mirrors.localhost]\nendpoint = []", ["mirrors.localhost"]),
        ('configs."private.example:5000".auth]\nusername = "u"\npassword = "p"', ['configs."private.example:5000"']),
        ('configs."private.example".auth]\nauth = "dTpw"', ['configs."private.example"']),
        ('configs."private.example".tls]\nca_file = "/ca.crt"', ['configs."private.example"']),
        ('configs."private.example".tls]\ninsecure_skip_verify = true', ['configs."private.example"']),
        ('auths."https://gcr.io"]\nauth = "dTpw"', ['auths."https://gcr.io"']),
        ('headers]\nAuthorization = ["Basic dTpw"]', ["headers.Authorization"]),
        ('mirrors]\n"docker.io" = {endpoint = ["https://m"]}\n"*" = {}', ['mirrors."docker.io"', 'mirrors."*"']),
        ("mirrors]", ["mirrors"]),
    ],
)
@pytest.mark.parametrize("schema", ["plugins.cri.registry", SCHEMA_2, SCHEMA_3])
def test_every_documented_shape_is_named_by_its_key(schema: str, table: str, keys: list[str]) -> None:
    """As Deckhouse's FAQ and containerd's own documentation show them, in the schema of every generation."""
    assert [f"{schema}.{key}" for key in keys] == _keys(f"[{schema}.{table}\n")


def test_an_old_drop_in_is_seen_by_a_new_containerd() -> None:
    """A version 2 drop-in with mirrors switches registry.d off on containerd 2: the version says nothing."""
    text = f'version = 2\n[{SCHEMA_2}.mirrors."docker.io"]\nendpoint = ["https://m"]\n'
    assert [f'{SCHEMA_2}.mirrors."docker.io"'] == _keys(text)


@pytest.mark.parametrize(
    "text",
    [
        f"[{SCHEMA_2}]",
        f"{SCHEMA_2} = {{}}",
        "['plugins' . \"io.containerd.grpc.v1.cri\" . 'registry']",
        "plugins.'io.containerd.grpc.v1.cri' = {registry = {}}",
        "plugins = {'io.containerd.grpc.v1.cri'.registry = {}}",
        '[plugins]\n"io.containerd.grpc.v1.cri".registry = {}',
        '[plugins]\n[plugins."io.containerd.grpc.v1.cri"]\nregistry = {}',
        '["plug\\u0069ns"."io.containerd.grpc.v1\\u002Ecri"."\\u0072egistry"]',
        f"\ufeff[{SCHEMA_2}]",
        f"# first\r\n[{SCHEMA_2}]\r\n",
        f'{SCHEMA_2} = "wrong"',
        f"{SCHEMA_2} = false",
        f"[[{SCHEMA_2}]]",
    ],
)
def test_the_spelling_does_not_matter_nor_what_is_inside(text: str) -> None:
    """Dotted, inline, quoted, literal, escaped, with a byte order mark, empty, of a wrong type."""
    assert [SCHEMA_2] == _keys(text)


def test_every_finding_is_named_once_in_the_order_of_the_file() -> None:
    """Tables of several schemas, and `config_path` itself, which a drop-in must not set either."""
    old = f"[{SCHEMA_2}.mirrors.b]\n[{SCHEMA_2}.mirrors.a]\n[{SCHEMA_2}.configs.a.tls]\n"
    expected = [f"{SCHEMA_2}.mirrors.b", f"{SCHEMA_2}.mirrors.a", f"{SCHEMA_2}.configs.a", f"{SCHEMA_3}.config_path"]
    assert expected == _keys(f'[{SCHEMA_3}]\nconfig_path = "/x"\n{old}')


@pytest.mark.parametrize(
    "key",
    [
        'PLUGINS."io.containerd.grpc.v1.cri".REGISTRY.MIRRORS',
        'Plugins."io.containerd.grpc.v1.cri".rEgIsTrY.mirrors',
        "plugins.cri.Registry.mirrors",
    ],
)
def test_the_case_of_fields_does_not_matter(key: str) -> None:
    """1.x takes upper case, 2.x any case; the key is shown as it is written."""
    assert [key] == _keys(f"[{key}]")


def test_the_dotless_case_of_go_is_seen() -> None:
    """containerd 2.1 takes a Turkish capital İ for an i."""
    assert ['"PLUGİNS".cri.registry'] == _keys('["PLUGİNS".cri.registry]')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# [plugins.cri.registry]",
        'version = 2\nroot = "/var/lib/containerd"',
        '[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "pause"\nregistry_x = 1',
        '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]\nSystemdCgroup = true',
        '[plugins."io.containerd.grpc.v1.cri".containerd.registry]',
        '[plugins."io.containerd.cri.v1.runtime".registry]',
        '[plugins."io.containerd.transfer.v1.local"]\nconfig_path = "/x"',
        '[plugins."IO.containerd.grpc.v1.cri".registry]\n[plugins.CRI.registry]',
        "[plugins.io.containerd.grpc.v1.cri.registry]",
        "[plugins.registry]\n[registry.cri]\n[cri.registry]\n[x.plugins.cri.registry]",
        'root = """\n[plugins.cri.registry]\n"""',
        "plugins = 1",
        "plugins = [{cri = {registry = {}}}]",
        "[plugins]\ncri = 'registry'\n'io.containerd.grpc.v1.cri' = []",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """Other keys, other plugins, ids in another case, text that only looks like a table."""
    assert [] == _keys(text)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"version = 2\nroot = SECRET\n", "not TOML at line 2, column 8"),
        (b"[a]\n[a]\n", "not TOML at line 2, column 3"),
        (b"\xef\xbb\xbfa = 1\nb", "not TOML at its end, line 2"),
        (b'a = 1\nb = """SECRET\n', "not TOML at its end, line 2"),
        (b"SECRET.a = 1\n[SECRET]\n", "not TOML at line 2, column 8"),
        (b"a = {SECRET = 1, SECRET = 2}", "not TOML at line 1, column 28"),
        (b'a = 1\nb = "\xffSECRET"\n', "line 2 is not UTF-8"),
        (b"\xef\xbb\xbf\n\n\xff", "line 3 is not UTF-8"),
        ("\ufeff[plugins]".encode("utf-16"), "line 1 is not UTF-8"),
        (b"a\0 = 1", "not TOML at line 1, column 2"),
        (b"a = " + b"[" * 100_000, "a number in it is too long, or it is nested too deeply"),
        (b"a = " + b"1" * 5_000, "a number in it is too long, or it is nested too deeply"),
        (b"\n" + b"a." * 100_000 + b"a = 1", "line 2 has more than 1000 dots"),
        (b"#" * (1024 * 1024 + 1), "larger than 1048576 bytes"),
    ],
)
def test_what_cannot_be_read_says_where_and_quotes_nothing(raw: bytes, why: str) -> None:
    """A place for the administrator; the document may hold passwords."""
    assert why == _why(raw)


def test_limits_are_inclusive() -> None:
    """A file of exactly the size, a line of exactly the dots."""
    assert examine(PATH, b"#" * legacy.MAX_FILE_BYTES) == Examined()
    assert examine(PATH, b"# " + b"." * legacy.MAX_DOTS_IN_LINE) == Examined()


@pytest.mark.parametrize(
    ("written", "imports"),
    [
        ('["/etc/x.toml"]', ["/etc/x.toml"]),
        ('["a.toml", "../b.conf"]', ["/etc/containerd/conf.d/a.toml", "/etc/containerd/b.conf"]),
        ('["/opt/*.toml"]', ["/opt/*.toml", "/opt/*.toml"]),
        ('["./sub//*.toml"]', ["/etc/containerd/conf.d/sub/*.toml", "/sub/*.toml"]),
        ('["a?.toml"]', ["/etc/containerd/conf.d/a?.toml"]),
        ('["//opt/x", "/../y"]', ["/opt/x", "/y"]),
        ('[""]', ["/etc/containerd/conf.d"]),
        ('["/a", 1, ["/b"]]', ["/a"]),
        ('"/a"', []),
    ],
)
def test_imports_are_cleaned_like_in_containerd(written: str, imports: list[str]) -> None:
    """Relative ones begin beside the file; patterns in old versions in the working directory, which is /."""
    for field in ("imports", "IMPORTS", "Imports"):
        assert imports == list(examine(PATH, f"{field} = {written}".encode()).imports)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.toml", "*.toml", True),
        (".a.toml", "*.toml", True),
        ("a.toml.bak", "*.toml", False),
        ("A.TOML", "*.toml", False),
        ("a.toml", "?.toml", True),
        ("10-a.toml", "[0-9][0-9]-*.toml", True),
        ("a]b", "*[]]b", True),
        ("a*b", "a\\*b", True),
        ("a.toml", "a.toml", True),
        ("b.toml", "a.toml", False),
        ("line\nbreak.toml", "*.toml", True),
    ],
)
def test_patterns_match_as_in_go(name: str, pattern: str, *, expected: bool) -> None:
    """Hidden files too, which a shell would leave out."""
    assert expected is matches(name, pattern)


def test_a_class_takes_any_character() -> None:
    """Rather a file too many than one too few."""
    assert matches("b.toml", "[a].toml")
    assert not matches("bb.toml", "[a].toml")


def test_nothing_found_is_default() -> None:
    """The only way to be."""
    nothing = Legacy()
    assert (False, "default", ()) == (nothing.is_custom, nothing.label, nothing.errors())


def test_a_finding_is_custom_and_one_error_names_file_and_key() -> None:
    """One error for all of them, with what to do."""
    one = LegacyFinding(path=PATH, key=f"{SCHEMA_2}.mirrors.a")
    two = LegacyFinding(path=PurePosixPath("/opt/x.toml"), key=SCHEMA_3)
    found = Legacy(findings=(one, two))
    assert (True, "custom") == (found.is_custom, found.label)
    (error,) = found.errors()
    assert isinstance(error, LegacyPresent)
    assert f"{PATH} ({SCHEMA_2}.mirrors.a); /opt/x.toml ({SCHEMA_3})" in error.message
    assert "goes on by itself" in error.remedy


def test_an_unreadable_file_is_custom_and_an_error_of_its_own() -> None:
    """Nobody knows what is in it; the findings in other files come first."""
    unreadable = examine(PATH, b"[").unreadable
    assert unreadable is not None
    found = Legacy(findings=(LegacyFinding(path=PATH, key=SCHEMA_2),), unreadable=(unreadable,))
    assert (True, "custom") == (found.is_custom, found.label)
    assert [LegacyPresent, LegacyUnreadable] == [type(error) for error in found.errors()]
    assert "custom" == Legacy(unreadable=(unreadable,)).label
    assert (unreadable,) == Legacy(unreadable=(unreadable,)).errors()


@pytest.mark.parametrize(("count", "more"), [(6, ""), (7, "; and 1 more"), (500, "; and 494 more")])
def test_the_message_has_an_end(count: int, more: str) -> None:
    """The first keys are spelled out, the rest is counted: the Node condition is short."""
    hosts = "\n".join(f'[{SCHEMA_2}.mirrors."registry-{number}.example.com:5000"]' for number in range(count))
    (error,) = Legacy(findings=examine(PATH, hosts.encode()).findings).errors()
    assert min(count, 6) == error.message.count(".mirrors.")
    assert error.message.endswith(more or ")")
    assert len(str(error)) < 1024


def test_names_are_printable_short_and_hold_no_user() -> None:
    """Keys come from strangers: control characters, walls of text, and a password in a URL."""
    long = "x" * 1000
    text = (
        f'[{SCHEMA_2}.mirrors."a\\n\\u0000\\"b"]\n[{SCHEMA_2}.auths."https://u:SECRET@h"]\n[{SCHEMA_2}.configs.{long}]'
    )
    keys = _keys(text)
    assert [f'{SCHEMA_2}.mirrors."a\\n\\x00\\"b"', f'{SCHEMA_2}.auths."..."'] == keys[:2]
    assert keys[2].startswith(f'{SCHEMA_2}.configs."{"x" * 64}...x')
    assert len(keys[2]) < 200
    odd = PurePosixPath("/etc/conf.d/\udcff\n.toml")
    for error in Legacy(findings=(LegacyFinding(path=odd, key=SCHEMA_2),)).errors():
        assert "\\udcff\\n.toml" in error.message
        assert error.message.isprintable()
