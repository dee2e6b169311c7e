"""The image that `make image` has built, and a node with containerd that has it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.archive import Archive
from tests.node import pods, roots
from tests.node.node import Node, booted
from tests.node.starts import restart
from tests.node.waiting import until

ARCHIVE = Path(__file__).parents[2] / "build/image/registry-agent.tar"
MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep what was measured for the summary."""
    config.stash[MEASURED] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was measured."""
    for line in config.stash[MEASURED]:
        terminalreporter.write_line(line)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[str]:
    """Return a list whose lines are shown in the end; nothing is asserted on them."""
    return request.config.stash[MEASURED]


@pytest.fixture(scope="session")
def archive() -> Archive:
    """Return the built image."""
    return Archive(ARCHIVE)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Boot a node with containerd 1.7 that can run pods."""
    root = roots.pristine(next(suite for suite in roots.SUITES if suite.name == "trixie"))
    folder = tmp_path_factory.mktemp("node")
    with booted(root, folder, name=f"ra-image-{os.getpid()}", names=(), trusted=b"") as node:
        (node.root / "etc/containerd/config.toml").write_text(pods.CONFIG_TOML)
        restart(node)
        until(lambda: "ok" in node.run("ctr", "plugins", "list", "id==cri"), what="containerd")
        pods.prepare(node)
        yield node


@pytest.fixture(scope="session")
def image(node: Node, archive: Archive) -> str:
    """Import the image as docs say, and return its name."""
    shutil.copy(ARCHIVE, node.root / "run/image.tar")
    name = "registry-agent"
    node.run(
        *("ctr", "--namespace", "k8s.io", "images", "import"),
        *("--base-name", f"localhost/{name}", "/run/image.tar"),
    )
    return f"localhost/{name}:{archive.version}"


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave nothing of an agent on the node."""
    yield
    if "node" in request.fixturenames:
        node: Node = request.getfixturevalue("node")
        for path in ("etc/containerd/registry.d", "etc/registry-agent", "var/lib/registry-agent"):
            shutil.rmtree(node.root / path, ignore_errors=True)
