"""What the package makes of the command line: a man page and a completion, with nothing missing."""

import argparse
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from agent.cli.main import _parser
from agent.settings import options

FOLDER = Path(__file__).parents[2] / "packaging/deb"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _commands() -> list[str]:
    found = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return list(found[0].choices)


def test_the_man_page_has_every_command_and_setting() -> None:
    """And no line that roff would take for a request of its own."""
    page: str = _load("manual").page(date="2026-01-02")
    terms = {line.removeprefix(r"\fB").removesuffix(r"\fR").replace("\\-", "-") for line in page.splitlines()}
    assert set(_commands()) <= terms
    assert {option.flag for option in options()} <= {term.partition(" ")[0] for term in terms}
    assert {option.variable for option in options()} <= terms
    requests = {line.partition(" ")[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert {".TH", ".SH", ".TP", ".RS", ".RE", ".B", ".br", ".nf", ".fi"} == requests


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sta"], {"status"}),
        (["run", "--secret-"], {"--secret-namespace", "--secret-name", "--secret-key"}),
        (["run", "--mode", ""], {"manage", "observe"}),
        (["diff", "--color", "n"], {"never"}),
        (["validate", "dir"], {"direct.yaml"}),
    ],
    ids=["command", "setting", "choice", "own", "file"],
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: set[str]) -> None:
    """The real shell, with what bash-completion would load."""
    script: str = _load("completion").script()
    (tmp_path / "direct.yaml").touch()
    function = script.rstrip().splitlines()[-1].split()[-2]
    quoted = " ".join(f"'{word}'" for word in ["registry-agent", *words])
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; {function}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    bash = shutil.which("bash")
    assert bash is not None
    command = [bash, "--norc", "-c", f"{script}\ncompopt() {{ :; }}\n{ask}"]
    answer = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert expected == set(answer.split())
