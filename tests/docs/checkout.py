"""A copy of the checkout for the documented commands, so that they leave nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What the demo and the examples need.
FOLDERS = ("agent", "templates", "demo", "tests/apidouble")


def copy_checkout(folder: Path) -> None:
    """Copy what is needed into an empty folder."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("node", "node2", "__pycache__"))
    shutil.copyfile(ROOT / "tests/__init__.py", folder / "tests/__init__.py")
