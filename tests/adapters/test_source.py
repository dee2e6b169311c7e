"""The file source: what is a document, what is absence, and what is only trouble."""

from pathlib import Path

import pytest

from agent.desired import Absent, Present, Unreadable
from agent.source import FileSource
from tests.support import configs


async def test_a_file_is_a_document(tmp_path: Path) -> None:
    """Its bytes as they are."""
    path = tmp_path / "desired.yaml"
    path.write_bytes(configs.simple())
    assert await FileSource(path).read(is_confirming=False) == Present(document=configs.simple())


async def test_a_missing_file_is_absence(tmp_path: Path) -> None:
    """Only a missing file in a directory that is there says that nothing is desired."""
    assert await FileSource(tmp_path / "desired.yaml").read(is_confirming=False) == Absent()


@pytest.mark.parametrize("kind", ["no-directory", "file-as-directory", "directory", "loop", "device"])
async def test_anything_else_is_unreadable(tmp_path: Path, kind: str) -> None:
    """A volume that is not mounted, a wrong path and a loop must not release a node."""
    path = tmp_path / "mount" / "desired.yaml"
    if kind == "file-as-directory":
        path.parent.write_text("")
    elif kind == "directory":
        path.mkdir(parents=True)
    elif kind == "loop":
        path.parent.mkdir()
        path.symlink_to(path)
    elif kind == "device":  # a FIFO, which can hold up whoever opens it, is left to the daemon's tests
        path.parent.mkdir()
        path.symlink_to("/dev/zero")
    reading = await FileSource(path).read(is_confirming=False)
    assert isinstance(reading, Unreadable)
    assert ("SourceUnreadable", True) == (reading.error.reason, str(path) in reading.error.message)


async def test_a_broken_secret_is_unreadable_and_not_absent(tmp_path: Path) -> None:
    """A manifest whose data is not there or not base64 keeps the node as it is."""
    path = tmp_path / "desired.yaml"
    for data in ("{}", "{config: '%%%'}"):
        path.write_text(f"kind: Secret\ndata: {data}\n")
        reading = await FileSource(path).read(is_confirming=False)
        assert isinstance(reading, Unreadable)
        assert reading.error.reason == "ConfigInvalid"
