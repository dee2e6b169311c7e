"""README.ru.md says what README.md says: a change in one that is missing in the other is noticed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, RUSSIAN = "README.md", "README.ru.md"

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a translation has to keep; words may come in another order, commands may not."""

    level: int
    blocks: tuple[str, ...]
    links: Counter[str]
    code: Counter[str]
    lines: Counter[str]


def sections(text: str) -> list[Section]:
    """Cut a page at its headings."""
    prose = _FENCED.sub(lambda found: re.sub("^#", " #", found[0], flags=re.MULTILINE), text)
    starts = [*(found.start() for found in _HEADING.finditer(prose)), len(prose)]
    return [_section(prose[start:end]) for start, end in pairwise(starts)]


def _section(text: str) -> Section:
    prose = _FENCED.sub("", text)
    other = {ENGLISH: RUSSIAN, RUSSIAN: ENGLISH}
    links = [min(link, other.get(link, link)) for link in _LINK.findall(prose)]
    return Section(
        level=text.index(" "),
        blocks=tuple(_FENCED.findall(text)),
        links=Counter(links),
        code=Counter(_CODE.findall(prose)),
        lines=Counter(line[0] for line in prose.splitlines() if line.startswith(("- ", "|"))),
    )


def test_the_russian_readme_has_what_the_english_one_has() -> None:
    """Section by section: headings, code blocks, links, words of code, points of lists and rows of tables."""
    english, russian = (sections((ROOT / name).read_text()) for name in (ENGLISH, RUSSIAN))
    assert [each.level for each in english] == [each.level for each in russian]
    for number, (expected, actual) in enumerate(zip(english, russian, strict=True)):
        assert expected == actual, f"section {number}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("## More", "## News\n\n## More"),
        ("$ make demo", "$ make show"),
        ("(docs/switch.md)", "(docs/cluster.md)"),
        ("`rollout_spread_s`", "`rollout_s`"),
        ("- License", "- News\n- License"),
        ("| `/metrics` |", "| `/readyz` | \n| `/metrics` |"),
    ],
    ids=["heading", "block", "link", "code", "point", "row"],
)
def test_a_change_of_one_readme_is_seen(old: str, new: str) -> None:
    """The judge of the test above can say no."""
    text = (ROOT / ENGLISH).read_text()
    assert old in text
    assert sections(text) != sections(text.replace(old, new))


def test_each_readme_leads_to_the_other() -> None:
    """Whoever reads the wrong one finds the right one."""
    assert f"]({RUSSIAN})" in (ROOT / ENGLISH).read_text()
    assert f"]({ENGLISH})" in (ROOT / RUSSIAN).read_text()
