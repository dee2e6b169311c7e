"""Nodes in folders, and time limits for tests that run many of them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return an empty node on a real file system."""
    return Node(tmp_path)


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """Return a folder in memory where there is one: for tests that make hundreds of nodes."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)
