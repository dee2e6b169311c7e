"""Names and digests of the files that shall stand in registry.d."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import pytest

from agent.tree import File, HostDirectory, Tree, is_our_file, is_plain_name

_FILE = File(name="hosts.toml", content=b"c4nary", mode=0o600)


@pytest.mark.parametrize("name", ["a", "a:5001", "[fd00::1]:5001", "_default", "...", ".a", "a..b", "a" * 255])
def test_a_plain_name_names_an_entry_of_a_directory(name: str) -> None:
    """Whatever the file system takes, but for the two that lead elsewhere."""
    assert is_plain_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../a", "a/..", "a\0b", "a" * 256])
def test_a_name_that_leads_elsewhere_is_not_plain(name: str) -> None:
    """The last door before the disk: nothing can leave registry.d."""
    assert not is_plain_name(name)
    with pytest.raises(ValueError, match="not a plain file name"):
        HostDirectory(name=name, files=())
    with pytest.raises(ValueError, match="not a plain file name"):
        HostDirectory(name="a", files=(File(name=name, content=b"", mode=0o644),))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hosts.toml", True),
        ("https-a:5001-ca.crt", True),
        ("http-a-ca.crt", True),
        ("https-[fd00::1]:5001-client.crt", True),
        ("https-a-client.key", True),
        ("ca.crt", False),
        ("hosts.toml.bak", False),
        ("xhosts.toml", False),
        ("https--ca.crt", False),
        ("ftp-a-ca.crt", False),
        ("https-a-ca.crt~", False),
        ("https-a-client.pem", False),
        ("", False),
    ],
)
def test_only_names_that_the_agent_writes_are_its_own(name: str, *, expected: bool) -> None:
    """Only these are ever removed from a directory that stays."""
    assert expected is is_our_file(name)


def test_a_files_content_does_not_show() -> None:
    """hosts.toml holds credentials; a tree may be logged."""
    tree = Tree(hosts=(HostDirectory(name="a", files=(_FILE,)),))
    assert "c4nary" not in repr(tree)
    assert hashlib.sha256(b"c4nary").hexdigest() == _FILE.digest


def test_files_come_with_their_path() -> None:
    """Host by host, in writing order."""
    ca = File(name="https-a-ca.crt", content=b"", mode=0o644)
    tree = Tree(hosts=(HostDirectory(name="a", files=(ca, _FILE)), HostDirectory(name="b", files=(_FILE,))))
    expected = [("a/https-a-ca.crt", ca), ("a/hosts.toml", _FILE), ("b/hosts.toml", _FILE)]
    assert [(PurePosixPath(path), file) for path, file in expected] == list(tree.files())
