"""containerd versions: how they are read and compared, and what unknown means."""

from __future__ import annotations

import pytest

from agent.runtime import Containerd, ContainerdVersion, Flavour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.7.24", (1, 7, 24)),
        ("v2.1.9", (2, 1, 9)),
        ("1.7.24~ds1-6", (1, 7, 24)),
        ("containerd://1.7.23-k3s2", (1, 7, 23)),
        ("2.1.0-rc.1", (2, 1, 0)),
        ("1.6.20+unknown", (1, 6, 20)),
        (" 2.2.3\n", (2, 2, 3)),
        ("2.0", (2, 0, 0)),
        ("10.20.300", (10, 20, 300)),
    ],
)
def test_versions_are_read_as_distributions_write_them(text: str, expected: tuple[int, int, int]) -> None:
    """Prefixes and suffixes are dropped."""
    assert ContainerdVersion(*expected) == ContainerdVersion.parse(text)


@pytest.mark.parametrize("text", ["", "latest", "v", "2", "x1.7.24", "docker://24.0.1", "-1.7"])
def test_anything_else_is_no_version(text: str) -> None:
    """The message shows an example and does not quote."""
    with pytest.raises(ValueError, match="expected for example"):
        ContainerdVersion.parse(text)


def test_versions_are_ordered_by_number() -> None:
    """Not by letter: 1.10 is after 1.9."""
    texts = ["1.6.9", "1.6.10", "1.7.0", "1.10.0", "2.0.7", "2.1.0", "10.0.0"]
    assert texts == [str(version) for version in sorted(map(ContainerdVersion.parse, reversed(texts)))]


@pytest.mark.parametrize(
    ("version", "is_before", "is_from"),
    [(None, False, False), ("1.6.16", True, False), ("1.6.17", False, True), ("2.0.0", False, True)],
)
def test_an_unknown_version_is_known_to_be_neither_before_nor_after(
    version: str | None, *, is_before: bool, is_from: bool
) -> None:
    """Both questions ask for certainty."""
    border = ContainerdVersion(1, 6, 17)
    parsed = ContainerdVersion.parse(version) if version else None
    containerd = Containerd(flavour=Flavour.STOCK, version=parsed)
    assert (is_before, is_from) == (containerd.is_known_before(border), containerd.is_known_from(border))
