"""Finds ``templates/`` wherever the package runs from: checkout, editable install, wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def read(name: str) -> str:
    """Return the text of a template; in a wheel they lie inside the package, else beside it."""
    installed = _PACKAGE / "templates" / name
    return (installed if installed.exists() else _PACKAGE.parent / "templates" / name).read_text(encoding="utf-8")
