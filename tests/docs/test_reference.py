"""The generated parts of docs/ are current."""

from pathlib import Path

from tests.docs.settings_reference import reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_settings_reference_is_what_make_docs_writes() -> None:
    """docs/settings.md is made from agent/settings.py."""
    assert reference() == (DOCS / "settings.md").read_text()
