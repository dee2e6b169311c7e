"""The suite's own rules, in a real pytest: no silent skips, no task left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agents import REPOSITORY, environment

FILES = {
    "good": "def test_good(): pass",
    "skip": "import pytest\n@pytest.mark.skip\ndef test_skip(): pass",
    "xfail": "import pytest\n@pytest.mark.xfail\ndef test_xfail(): assert False",
    "whole_file": "import pytest\npytest.skip(allow_module_level=True)",
    "task": "import asyncio\nkept = []\nasync def test_task(): kept.append(asyncio.create_task(asyncio.sleep(60)))",
}


@pytest.mark.parametrize(
    ("names", "flags", "code", "forbidden"),
    [
        (["good", "skip", "xfail", "whole_file"], [], 0, []),
        (["good"], ["--forbid-skips"], 0, []),
        (["good", "skip", "xfail", "whole_file"], ["--forbid-skips"], 1, ["skip", "xfail", "whole_file"]),
        (["task"], [], 1, []),
    ],
    ids=["allowed", "good", "forbidden", "task"],
)
def test_the_rules_are_enforced(
    tmp_path: Path, names: list[str], flags: list[str], code: int, forbidden: list[str]
) -> None:
    """A skip or an expected failure fails a session that forbids them; a pending task always fails its test."""
    for name in names:
        (tmp_path / f"test_{name}.py").write_text(FILES[name])
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", *options, *flags, str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert code == ended.returncode, ended.stdout
    named = [line for line in ended.stdout.splitlines() if line.startswith("FORBIDDEN SKIP")]
    assert sorted(forbidden) == sorted(line.partition("test_")[2].partition(".py")[0] for line in named)
