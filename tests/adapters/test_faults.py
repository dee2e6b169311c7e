"""Every system call that changes the disk fails once in every way it can, and the machine stops at each.

After each fault an independent reader must find only whole files: each managed hosts.toml is the old
one or the new one, and every file that it names is there. Then the agent runs again without faults
and the disk must be exactly what was wanted.
"""

import contextlib
import errno
import itertools
import shutil
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.tree import Tree
from tests.support import folders, reader
from tests.support.faults import Calls, Crash, every_fault
from tests.support.folders import Entry, Folder, Link, Plain
from tests.support.nodes import Node
from tests.support.trees import ca_name, tree

CRASH = None
FAULTS = [
    pytest.param(CRASH, False, id="crash"),
    pytest.param(errno.ENOSPC, True, id="ENOSPC-lasting"),
    pytest.param(errno.EIO, False, id="EIO-once"),
    pytest.param(errno.EACCES, False, id="EACCES-once"),
    pytest.param(errno.EROFS, True, id="EROFS-lasting"),
    pytest.param(errno.EMFILE, True, id="EMFILE-lasting"),
]

EMPTY = Tree()
FIRST = tree(
    {
        "a.test": {"m1.test": "PEM a1", "m2.test": "PEM a2"},
        "b.test:5000": {"m1.test": "PEM b1"},
        "c.test": {"m3.test": "PEM c3", "m4.test": None},
    }
)
SECOND = tree(
    {
        "a.test": {"m2.test": "PEM a2 new", "m5.test": "PEM a5"},
        "b.test:5000": {"m1.test": None},
        "c.test": {"m3.test": "PEM c3", "m6.test": "PEM c6"},
    },
    note="second",
)
FOREIGN_TOML = f'server = "https://a.test"\nca = "{reader.REGISTRY_DIR}/a.test/ca.crt"\n'.encode()
FOREIGN_OWN_TOML = f'[host."https://x"]\nca = ["{reader.REGISTRY_DIR}/c.test/{ca_name("m3.test")}"]\n'.encode()
FOREIGN: dict[str, Entry] = {
    "a.test": Folder(
        mode=0o750,
        entries={
            "ca.crt": Plain(content=b"theirs", mode=0o444),
            "hosts.toml": Plain(content=FOREIGN_TOML, mode=0o640),
            "link": Link("/nowhere"),
        },
    ),
    "c.test": Folder(
        entries={
            ca_name("m3.test"): Plain(content=b"theirs", mode=0o600),
            "hosts.toml": Plain(content=FOREIGN_OWN_TOML),
        },
    ),
    "untouched.test": Folder(entries={"hosts.toml": Plain(content=b"[host]\n"), "deep": Folder(mode=0o700)}),
}

#: What stands there before, what is in place already, and what is wanted then.
SCENARIOS = [
    pytest.param({}, EMPTY, FIRST, id="first-apply"),
    pytest.param({}, FIRST, SECOND, id="update-of-all"),
    pytest.param(FOREIGN, EMPTY, FIRST, id="takeover"),
    pytest.param({}, FIRST, EMPTY, id="release"),
    pytest.param(FOREIGN, FIRST, EMPTY, id="release-with-restore"),
]


@pytest.fixture(scope="module")
def covered() -> dict[str, int]:
    """Count the states over all tests of this file."""
    return {}


@pytest.mark.parametrize(("error", "is_lasting"), FAULTS)
@pytest.mark.parametrize(("foreign", "before", "after"), SCENARIOS)
def test_no_fault_breaks_what_containerd_reads(  # noqa: PLR0917 -- one table of cases
    fast_dir: Path,
    covered: dict[str, int],
    request: pytest.FixtureRequest,
    foreign: dict[str, Entry],
    before: Tree,
    after: Tree,
    error: int | None,
    *,
    is_lasting: bool,
) -> None:
    """After any fault at any call, readers find whole files; a run without faults converges exactly."""
    template, expected = (
        _prepared(fast_dir / "template", foreign, before),
        _prepared(fast_dir / "expected", foreign, before),
    )
    expected.settle(after)
    numbers = itertools.count()

    def scenario(calls: Calls) -> None:
        root = fast_dir / str(next(numbers))
        shutil.copytree(template.root, root, symlinks=True)
        node = Node(root)
        with contextlib.suppress(AgentError, Crash):
            node.settle(after, calls)
        _check_whole(node, foreign, before, after)
        node.settle(after)
        assert expected.read() == node.read()
        shutil.rmtree(root)

    met = every_fault(scenario, error=error, is_lasting=is_lasting)
    covered[request.node.name] = met
    assert met >= 4, f"only {met} faults were met"


def test_the_states_are_many(covered: dict[str, int]) -> None:
    """The table above is not empty by mistake: all scenarios and faults together cover this many states."""
    if len(covered) == len(SCENARIOS) * len(FAULTS):  # not when a single case was selected
        print(f"\n{sum(covered.values())} crash and fault states over {len(covered)} cases")
        assert sum(covered.values()) >= 1500


def _prepared(root: Path, foreign: dict[str, Entry], tree: Tree) -> Node:
    root.mkdir()
    node = Node(root)
    for name, entry in foreign.items():
        node.make(name, entry)
    node.settle(tree)
    return node


def _check_whole(node: Node, foreign: dict[str, Entry], *trees: Tree) -> None:
    """Whatever has happened, each hosts.toml is somebody's whole file and names only files that exist."""
    if not node.registry.exists():
        return
    # A half-built directory has a name that no image reference can have.
    hosts = [path.name for path in node.registry.iterdir() if not path.name.startswith(".registry-agent-")]
    assert reader.problems(node.root, hosts) == []
    known = {(host.name, file.name, file.content) for tree in trees for host in tree.hosts for file in host.files}
    for name, entry in foreign.items():
        assert isinstance(entry, Folder)
        known |= {(name, file, inner.content) for file, inner in entry.entries.items() if isinstance(inner, Plain)}
    found = {
        (path.parent.name, path.name, path.read_bytes()) for path in node.registry.glob("[!.]*/[!.]*") if path.is_file()
    }
    assert found <= known, f"unknown bytes in {sorted((host, name) for host, name, _ in found - known)}"
    _check_foreign(node, foreign)


def _check_foreign(node: Node, foreign: dict[str, Entry]) -> None:
    ours = {"hosts.toml", ca_name("m3.test")}
    for name, entry in foreign.items():
        assert isinstance(entry, Folder)
        found = folders.read(node.registry / name)
        assert isinstance(found, Folder)
        names = set(entry.entries) - (ours if name != "untouched.test" else set())
        assert {inner: entry.entries[inner] for inner in names} == {inner: found.entries[inner] for inner in names}
