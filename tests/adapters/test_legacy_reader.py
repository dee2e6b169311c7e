"""The legacy reader on a real disk: which files containerd would read, and what stands in their places."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path, PurePosixPath

import pytest

from agent.disk.legacy import MAX_FILES, LegacyReader
from agent.errors import DiskFailed, LegacyUnreadable, Obstructed
from agent.legacy import Legacy

REGISTRY = "[plugins.cri.registry]\n"
OTHER = "[plugins.cri]\nsandbox_image = 'pause'\n"
LABEL = "node.deckhouse.io/containerd-config-registry"


class Node:
    """A node in a folder, and what a reader finds on it."""

    def __init__(self, root: Path) -> None:
        """Make nothing but the root."""
        self.root = root
        self.reader = LegacyReader(root)

    def at(self, path: str) -> Path:
        """Return where the node's path is, its parents made."""
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def write(self, path: str, text: str = REGISTRY) -> Path:
        """Write a file, a registry table if nothing else is said."""
        self.at(path).write_text(text)
        return self.at(path)

    def imports(self, *patterns: str, beside: str = "") -> None:
        """Let config.toml import these."""
        self.write("/etc/containerd/config.toml", f"version = 2\nimports = {list(patterns)}\n{beside}")

    def read(self, *, major: int | None = None) -> Legacy:
        """Read with a reader that lives as long as the node."""
        return self.reader.read(major=major)

    def found(self, *, major: int | None = None) -> list[str]:
        """Return the files with findings, when every file could be read."""
        legacy = self.read(major=major)
        assert () == legacy.unreadable
        return [str(finding.path) for finding in legacy.findings]

    def refused(self, path: str) -> str:
        """Return why the one file could not be read."""
        (error,) = self.read().unreadable
        assert isinstance(error, LegacyUnreadable)
        assert error.message.startswith(f"containerd's {path} cannot be read: ")
        assert "custom" == self.read().label
        return error.message.partition("cannot be read: ")[2]


@pytest.fixture
def bare(tmp_path: Path) -> Node:
    """Return a node without containerd."""
    return Node(tmp_path / "node")


def test_a_node_without_containerd_is_default(bare: Node) -> None:
    """Not even the root has to be there."""
    assert Legacy() == bare.read()
    bare.at("/etc/containerd").mkdir()
    assert Legacy() == bare.read()


@pytest.mark.parametrize(
    ("major", "expected"),
    [(1, ["conf.d"]), (2, ["conf2.d"]), (None, ["conf.d", "conf2.d"]), (3, ["conf.d", "conf2.d"])],
)
def test_drop_ins_belong_to_a_generation(bare: Node, major: int | None, expected: list[str]) -> None:
    """Deckhouse merges conf.d into config.toml of v1, and lets config.toml of v2 import conf2.d."""
    for directory in ("conf.d", "conf2.d"):
        bare.write(f"/etc/containerd/{directory}/a.toml")
    assert [f"/etc/containerd/{directory}/a.toml" for directory in expected] == bare.found(major=major)


def test_only_files_with_the_ending_are_drop_ins(bare: Node) -> None:
    """Hidden ones too, as in Go; in the order of their names."""
    for name in ("b.toml", ".a.toml", "c.toml.bak", "toml", "d.TOML", "sub/e.toml"):
        bare.write(f"/etc/containerd/conf.d/{name}")
    bare.write("/etc/containerd/conf.d/a.toml", OTHER)
    assert ["/etc/containerd/conf.d/.a.toml", "/etc/containerd/conf.d/b.toml"] == bare.found()


def test_config_toml_itself_is_no_finding(bare: Node) -> None:
    """Its registry section is moved aside by the agent; not even an import of itself makes it one."""
    bare.imports("/etc/containerd/*.toml", "config.toml", beside=REGISTRY)
    assert [] == bare.found()
    assert not bare.read().is_custom


def test_a_broken_config_toml_is_unreadable(bare: Node) -> None:
    """Nobody knows what it imports."""
    bare.write("/etc/containerd/config.toml", "version = 2\nimports = [\n")
    assert "not TOML at its end, line 2" == bare.refused("/etc/containerd/config.toml")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/opt/x.toml", "/opt/x.toml"),
        ("/opt/x.conf", "/opt/x.conf"),
        ("more/x.toml", "/etc/containerd/more/x.toml"),
        ("../x.toml", "/etc/x.toml"),
        ("/opt/*.toml", "/opt/x.toml"),
        ("/opt/*", "/opt/without-ending"),
        ("/opt/*/containerd/x.toml", "/opt/a/containerd/x.toml"),
        ("/opt/?/*.toml", "/opt/a/x.toml"),
        ("/*.toml", "/x.toml"),
        ("more/*.toml", "/etc/containerd/more/x.toml"),
        ("more/*.toml", "/more/x.toml"),
        ("conf.d/*.toml", "/etc/containerd/conf.d/x.toml"),
        ("conf2.d/../conf.d/x.toml", "/etc/containerd/conf.d/x.toml"),
    ],
)
def test_imports_are_followed(bare: Node, pattern: str, path: str) -> None:
    """Absolute and relative, with patterns in any place, each file once."""
    bare.imports(pattern)
    bare.write(path)
    assert [path] == bare.found()


def test_a_pattern_without_a_star_is_a_name(bare: Node) -> None:
    """As in containerd, which would look for a file with a question mark in its name."""
    bare.imports("/opt/?.toml")
    bare.write("/opt/x.toml")
    assert "No such file or directory" == bare.refused("/opt/?.toml")
    bare.write("/opt/?.toml")
    assert ["/opt/?.toml"] == bare.found()


def test_imported_files_import_in_turn(bare: Node) -> None:
    """From where they are, and in circles."""
    bare.imports("more/a.toml")
    bare.write("/etc/containerd/more/a.toml", "imports = ['b.toml', '../config.toml', 'a.toml']")
    bare.write("/etc/containerd/more/b.toml", "imports = ['/opt/*.toml']")
    bare.write("/opt/c.toml", f"imports = ['/opt/*.toml']\n{REGISTRY}")
    assert ["/opt/c.toml"] == bare.found()


def test_patterns_may_match_nothing(bare: Node) -> None:
    """In no directory, in an empty one, and where a file is in the place of the directory."""
    bare.imports("/none/*.toml", "/none/*/x.toml", "/opt/*.toml", "/opt/x/*.toml", "/opt/gone/*.toml")
    bare.write("/opt/x")
    bare.at("/opt/gone").symlink_to("/nowhere")
    assert [] == bare.found()


def test_an_import_that_is_missing_is_unreadable(bare: Node) -> None:
    """containerd does not start with it, so nobody knows what it would read."""
    bare.imports("/opt/x.toml")
    assert "No such file or directory" == bare.refused("/opt/x.toml")


@pytest.mark.parametrize("written", ["a\0b", "a" * 300, "x.toml/b"])
def test_an_import_that_is_no_path_is_unreadable(bare: Node, written: str) -> None:
    """A NUL in it, a name too long, a file taken for a directory."""
    bare.write("/etc/containerd/x.toml", "")
    bare.write("/etc/containerd/config.toml", f'imports = ["{written}"]'.replace("\0", "\\u0000"))
    (error,) = bare.read().unreadable
    assert error.message.isprintable()


def test_a_pattern_that_finds_half_the_disk_is_unreadable(bare: Node) -> None:
    """It ends, and says so."""
    bare.imports("/opt/*")
    for number in range(MAX_FILES + 1):
        bare.write(f"/opt/{number}", "")
    assert f"more than {MAX_FILES} files are imported" == bare.refused("/opt/*")


def test_too_many_files_are_unreadable(bare: Node) -> None:
    """One after the other as well."""
    bare.imports(*(f"/opt/{number}" for number in range(MAX_FILES + 10)))
    for number in range(MAX_FILES + 10):
        bare.write(f"/opt/{number}", "")
    assert f"more than {MAX_FILES} files are imported" in str(bare.read().unreadable[-1])


def test_links_are_followed_below_the_root(bare: Node) -> None:
    """An absolute link is the node's; what stands in its place on the agent's own disk is not read."""
    outside = bare.root.parent / "outside.toml"
    outside.write_text("not TOML")
    for name, target in (("absolute", str(outside)), ("up", "../" * 40 + str(outside)[1:]), ("near", "../../x.toml")):
        bare.at(f"/etc/containerd/conf.d/{name}.toml").symlink_to(target)
    bare.write(str(outside))
    bare.write("/etc/x.toml")
    assert [f"/etc/containerd/conf.d/{name}.toml" for name in ("absolute", "near", "up")] == bare.found()


def test_linked_directories_are_followed_below_the_root(bare: Node) -> None:
    """The drop-in directory and the one of containerd itself, through more than one link."""
    bare.write("/srv/containerd/config.toml", "imports = ['more/*.toml']")
    bare.write("/srv/containerd/more/b.toml")
    bare.write("/srv/drop-ins/a.toml")
    bare.at("/srv/link").symlink_to("drop-ins")
    bare.at("/srv/containerd/conf.d").symlink_to("/srv/./link/../link/")
    bare.at("/etc/containerd").symlink_to("/srv/containerd")
    assert ["/etc/containerd/conf.d/a.toml", "/etc/containerd/more/b.toml"] == bare.found()


def test_a_link_to_nowhere_is_unreadable(bare: Node) -> None:
    """Like in containerd, which finds its name and cannot open it."""
    bare.at("/etc/containerd/conf.d/a.toml").symlink_to("/nowhere")
    assert "No such file or directory" == bare.refused("/etc/containerd/conf.d/a.toml")


def test_a_link_to_itself_is_unreadable(bare: Node) -> None:
    """It ends, as a file and as a directory."""
    loop = bare.at("/etc/containerd/conf.d/a.toml")
    loop.symlink_to("a.toml")
    assert "Too many levels of symbolic links" == bare.refused("/etc/containerd/conf.d/a.toml")
    loop.unlink()
    loop.parent.rmdir()
    loop.parent.symlink_to("conf.d")
    assert "Too many levels of symbolic links" == bare.refused("/etc/containerd/conf.d/*.toml")


def test_a_drop_in_masked_with_dev_null_is_empty(tmp_path: Path) -> None:
    """A habit from systemd; here the root is the machine's own."""
    config = tmp_path / "containerd" / "config.toml"
    (config.parent / "conf.d").mkdir(parents=True)
    (config.parent / "conf.d" / "a.toml").symlink_to("/dev/null")
    (config.parent / "conf.d" / "b.toml").write_text(REGISTRY)
    config.write_text("imports = ['/dev/null', 'conf.d/*.toml']")
    legacy = LegacyReader(Path("/"), lambda: PurePosixPath(config)).read()
    assert ([PurePosixPath(config.parent / "conf.d" / "b.toml")], ()) == (
        [finding.path for finding in legacy.findings],
        legacy.unreadable,
    )


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_what_is_no_file_is_unreadable_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A FIFO without a writer would be waited for, a device might never end."""
    config = tmp_path / "config.toml"
    path = tmp_path / "conf.d" / "a.toml"
    path.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            monkeypatch.chdir(path.parent)  # a socket's path is short
            listener.bind(path.name)
        (error,) = LegacyReader(Path("/"), lambda: PurePosixPath(config)).read().unreadable
    assert f"containerd's {path} cannot be read: not a regular file" == error.message


def test_a_file_is_not_read_beyond_the_limit(bare: Node) -> None:
    """The same for one that only seems to be large."""
    os.truncate(bare.write("/etc/containerd/conf.d/a.toml"), 2**40)
    assert "larger than 1048576 bytes" == bare.refused("/etc/containerd/conf.d/a.toml")


@pytest.mark.parametrize("closed", ["conf.d/a.toml", "conf.d", "."])
def test_what_the_agent_may_not_read_is_custom(bare: Node, closed: str) -> None:
    """Root may; another user has an unreadable file. Either way the node is custom and the file named."""
    bare.imports(beside=OTHER)
    bare.write("/etc/containerd/conf.d/a.toml")
    path = bare.root / "etc" / "containerd" / closed
    path.chmod(0)
    may_read = os.access(path, os.R_OK)
    try:
        legacy = bare.read()
    finally:
        path.chmod(0o700)
    assert "custom" == legacy.label
    assert all("/etc/containerd/" in error.message for error in legacy.errors())
    assert may_read is not bool(legacy.unreadable)


def test_names_that_are_no_text_are_named_printably(bare: Node) -> None:
    """The message goes to the API, as UTF-8."""
    bare.write(os.fsdecode(b"/etc/containerd/conf.d/\xff.toml"))
    bare.write("/etc/containerd/conf.d/\n.toml", "[")
    for error in bare.read().errors():
        assert error.message.isprintable()
        assert error.message.encode()


def _later() -> int:
    return time.time_ns() + 10**12


def test_an_unchanged_file_is_not_parsed_again(bare: Node) -> None:
    """Its findings are the same objects, as long as it is the same file."""
    path = bare.write("/etc/containerd/conf.d/a.toml")
    reader = LegacyReader(bare.root, now_ns=_later)
    (first,), (second,) = reader.read().findings, reader.read().findings
    assert first is second
    new = path.with_name("new")
    new.write_text(REGISTRY)
    new.rename(path)
    (third,) = reader.read().findings
    assert first is not third
    path.write_text(REGISTRY + OTHER.replace("cri", "other"))
    (fourth,) = reader.read().findings
    assert third is not fourth


@pytest.mark.parametrize(("age_ns", "is_trusted"), [(-5, False), (0, False), (10**9, False), (10**9 + 1, True)])
def test_a_file_that_has_just_been_written_is_parsed_again(bare: Node, age_ns: int, *, is_trusted: bool) -> None:
    """Two writes within a tick of the kernel's clock leave the same times, and maybe the same size."""
    written_ns = bare.write("/etc/containerd/conf.d/a.toml").stat().st_ctime_ns
    reader = LegacyReader(bare.root, now_ns=lambda: written_ns + age_ns)
    (first,), (second,) = reader.read().findings, reader.read().findings
    assert is_trusted is (first is second)


def test_what_is_gone_is_forgotten(bare: Node) -> None:
    """File by file, down to the directory."""
    reader = LegacyReader(bare.root, now_ns=_later)
    paths = [bare.write(f"/etc/containerd/conf.d/{name}.toml") for name in "ab"]
    for left in (2, 1, 0):
        assert left == len(reader.read().findings)
        if paths:
            paths.pop().unlink()
    (bare.root / "etc/containerd/conf.d").rmdir()
    assert Legacy() == reader.read()


def test_every_directory_that_matters_is_to_be_watched(bare: Node) -> None:
    """Found or not: drop-ins, imports, what patterns look through, and where links lead."""
    fixed = ["etc/containerd", "etc/containerd/conf.d", "etc/containerd/conf2.d"]
    assert [bare.root / path for path in fixed] == list(bare.reader.watch_paths())
    bare.imports("/opt/x.toml", "/missing/*.toml", "/usr/*/y.toml")
    bare.write("/usr/share/y.toml")
    bare.write("/srv/z.toml")
    bare.at("/etc/containerd/conf.d/z.toml").symlink_to("/srv/z.toml")
    bare.read()
    found = [*fixed, "missing", "opt", "srv", "usr", "usr/share"]
    assert [bare.root / path for path in found] == list(bare.reader.watch_paths())


def _label_file(node: Node) -> Path:
    return node.at("/var/lib/node_labels/containerd-conf-registry")


def test_the_label_file_is_written_once(bare: Node) -> None:
    """With its mode whatever the umask, and only when it differs."""
    path = _label_file(bare)
    umask = os.umask(0o077)
    try:
        assert bare.reader.write_label_file("custom")
    finally:
        os.umask(umask)
    before = path.stat()
    assert (f"{LABEL}=custom\n", 0o644) == (path.read_text(), stat.S_IMODE(before.st_mode))
    assert not bare.reader.write_label_file("custom")
    assert (before.st_ino, before.st_mtime_ns) == (path.stat().st_ino, path.stat().st_mtime_ns)
    assert bare.reader.write_label_file("default")
    assert f"{LABEL}=default\n" == path.read_text()


def test_without_bashible_there_is_no_label_file(bare: Node) -> None:
    """Its directory is never made."""
    bare.at("/var/lib/x").write_text("")
    assert not bare.reader.write_label_file("default")
    assert not (bare.root / "var/lib/node_labels").exists()


@pytest.mark.parametrize("content", [f"{LABEL}=default", f"{LABEL}=default\n\n", f"{LABEL}=custom\n", ""])
def test_another_content_is_replaced(bare: Node, content: str) -> None:
    """To the byte, and what an interrupted write left goes with it."""
    path = _label_file(bare)
    path.write_text(content)
    path.with_name(".registry-agent-0a0b0c0d").write_text(f"{LABEL}=custom\n")
    path.with_name("other").write_text("a=b\n")
    assert bare.reader.write_label_file("default")
    assert f"{LABEL}=default\n" == path.read_text()
    assert [path.name, "other"] == sorted(os.listdir(path.parent))


def test_another_mode_is_replaced(bare: Node) -> None:
    """bashible has to read it."""
    path = _label_file(bare)
    assert bare.reader.write_label_file("default")
    path.chmod(0o600)
    assert bare.reader.write_label_file("default")
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("target", ["real", "/nowhere"])
def test_a_link_is_replaced_and_not_written_through(bare: Node, target: str) -> None:
    """What it points to stays."""
    path = _label_file(bare)
    path.with_name("real").write_text(f"{LABEL}=default\n")
    path.symlink_to(target)
    assert bare.reader.write_label_file("default")
    assert path.is_file()
    assert not path.is_symlink()
    assert f"{LABEL}=default\n" == path.with_name("real").read_text()


def test_what_stands_in_the_way_of_the_label_is_an_error(bare: Node) -> None:
    """A directory at its name, a file or a link in the place of its directory: all are left alone."""
    path = _label_file(bare)
    path.mkdir()
    with pytest.raises(DiskFailed, match="containerd-conf-registry"):
        bare.reader.write_label_file("default")
    assert [path.name] == os.listdir(path.parent)
    path.rmdir()
    path.parent.rmdir()
    path.parent.symlink_to("/tmp")
    with pytest.raises(Obstructed):
        bare.reader.write_label_file("default")
