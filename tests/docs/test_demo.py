"""`make demo` walks to its end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.parse.document import parse

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(90)
def test_the_demo_goes_through_every_station_and_ends_well(tmp_path: Path) -> None:
    """Ready after each station, refused at the broken one, and no secret on the screen."""
    for name in ("agent", "templates", "demo"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("node", "__pycache__"))
    result = subprocess.run(
        [sys.executable, "demo/walk.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=80
    )
    assert (0, ["200", "200", "200", "503", "200"]) == (
        result.returncode,
        re.findall(r"GET /readyz -> (\d+)", result.stdout),
    ), result.stderr
    assert "drift repaired" in result.stderr
    assert "password" not in result.stdout.replace(".auth.password:", "")


@pytest.mark.parametrize("name", ["unmanaged", "transition", "direct"])
def test_the_documents_of_the_demo_carry_their_true_digest(name: str) -> None:
    """A wrong version would teach readers to ignore the warning about it."""
    assert () == parse((ROOT / f"demo/{name}.yaml").read_bytes()).notices
