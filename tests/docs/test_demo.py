"""`make demo` walks to its end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.parse.document import parse
from tests.docs.checkout import copy_checkout

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The demo, run to its end."""
    folder = tmp_path_factory.mktemp("demo")
    copy_checkout(folder)
    return subprocess.run(
        [sys.executable, "demo/walk.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=80
    )


@pytest.mark.timeout(90)
def test_act_one_goes_through_every_station(walk: subprocess.CompletedProcess[str]) -> None:
    """Ready after each station, refused at the broken one."""
    shown, _, _ = walk.stdout.partition("ACT TWO")
    assert ["200", "200", "200", "503", "200"] == re.findall(r"GET /readyz -> (\d+)", shown), walk.stderr
    assert "drift repaired" in walk.stderr


@pytest.mark.timeout(90)
def test_act_two_shows_on_the_node_what_became_of_the_secret(walk: subprocess.CompletedProcess[str]) -> None:
    """Created, refused, legacy, cleared, changed during an outage, deleted."""
    _, _, shown = walk.stdout.partition("ACT TWO")
    assert [
        ("default", "ea2f345c7ea1...", "True", "InPlace"),
        ("default", "ea2f345c7ea1...", "False", "ConfigInvalid"),
        ("custom", "(none)", "False", "LegacyRegistryConfig"),
        ("default", "ea2f345c7ea1...", "True", "InPlace"),
        ("default", "5060e3dfc8b3...", "True", "InPlace"),
        ("default", "unknown", "True", "NotConfigured"),
    ] == re.findall(
        r"config-registry: (\w+)\n.*/version: (\S+)\n(?:.*\n)*?    condition   RegistryConfigReady (\w+), (\w+):", shown
    ), walk.stderr
    assert [
        "Normal RegistryConfigApplied",
        "Warning ConfigInvalid",
        "Warning LegacyRegistryConfig",
        "Normal RegistryConfigApplied",
        "Normal RegistryConfigReleased",
    ] == re.findall(r"    Event       (\w+ \w+):", shown)


@pytest.mark.timeout(90)
def test_act_two_shows_that_the_node_survives_an_outage(walk: subprocess.CompletedProcess[str]) -> None:
    """Without the API the node is ready: from memory, from the copy after a restart, and live again."""
    _, _, shown = walk.stdout.partition("ACT TWO")
    assert [("200", "InPlace", "live"), ("200", "LastGoodInPlace", "last-good"), ("200", "InPlace", "live")] == (
        re.findall(r"GET /readyz -> (\d+) (\w+): .*\n  desired config: (\S+),", shown)
    )


@pytest.mark.timeout(90)
def test_the_demo_ends_well_and_shows_no_secret(walk: subprocess.CompletedProcess[str]) -> None:
    """Neither a password nor the API's token is on the screen."""
    assert walk.returncode == 0, walk.stderr
    screen = walk.stdout + walk.stderr
    assert "password" not in screen.replace(".auth.password:", "")
    assert "let-me-in" not in screen


@pytest.mark.parametrize("name", ["unmanaged", "transition", "direct"])
def test_the_documents_of_the_demo_carry_their_true_digest(name: str) -> None:
    """A wrong version would teach readers to ignore the warning about it."""
    assert () == parse((ROOT / f"demo/{name}.yaml").read_bytes()).notices
