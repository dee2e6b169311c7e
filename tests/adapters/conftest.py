"""Nodes in folders, and time limits for tests that run many of them."""

from pathlib import Path

import pytest

from tests.support.nodes import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return an empty node on a real file system."""
    return Node(tmp_path)
