"""The README is true: its commands run, and print what it says. So are those of CONTRIBUTING.md."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.checkout import copy_checkout

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: Run as targets of their own by CI; one of them is running this test.
MAKE_TARGETS = ["make demo", "make test"]

#: A person reads before typing the next line; a script has to wait for the agent.
WAIT = "timeout 15 sh -c 'until registry-agent status --root {root} >/dev/null 2>&1; do :; done'"


def examples(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command with the output that the page shows for it."""
    for block in CONSOLE.findall(page):
        for chunk in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = chunk.splitlines()
            yield command, output


def run(shown: list[tuple[str, list[str]]], folder: Path, *, last: str = "") -> None:
    """Run each command in order in one shell, in a copy of the checkout, and compare what it prints."""
    copy_checkout(folder)
    script = ["set -m", f"PATH={folder}/bin:$PATH"]
    (folder / "bin").mkdir()
    for name, command in (("registry-agent", "-m agent"), ("python", "")):
        wrapper = folder / "bin" / name
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        wrapper.chmod(0o755)
    for number, (command, _) in enumerate(shown):
        script += [f"echo '<<{number}>>'", command.replace(".venv/bin/", "")]
        root = re.search(r"registry-agent run .*--root (\S+) &$", command)
        script += [WAIT.format(root=root[1])] if root else []
    result = subprocess.run(
        ["bash", "-c", "\n".join([*script, last])],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    printed = re.split(r"<<\d+>>\n", result.stdout)[1:]
    for (command, expected), actual in zip(shown, printed, strict=True):
        pattern = "".join(f"{re.escape(line)}\n" if line != "..." else r"(?:.*\n)*?" for line in expected)
        assert re.fullmatch(pattern, actual), f"$ {command}\n{actual}\n{result.stderr}"


@pytest.mark.timeout(60)
def test_the_examples_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    """All but the make targets, and what needs a cluster: tests/packaging has kubectl judge the same files."""
    run([each for each in examples(README) if each[0] not in MAKE_TARGETS and "kubectl" not in each[0]], tmp_path)


@pytest.mark.timeout(60)
def test_the_examples_for_contributors_print_what_they_show(tmp_path: Path) -> None:
    """The double and the agent; what kubectl makes of the double, tests/node/test_kubectl.py shows."""
    shown = [(command, output) for command, output in examples(CONTRIBUTING) if not command.startswith("kubectl ")]
    run(shown, tmp_path, last="kill %1 %2; wait")


def test_the_make_targets_of_the_readme_are_what_ci_runs() -> None:
    """CI calls the README's two commands by name."""
    script = (ROOT / ".ci/run").read_text()
    assert [target for target, _ in examples(README)][:2] == MAKE_TARGETS
    assert [f"step {target}" in script for target in MAKE_TARGETS] == [True, True]


def test_the_yaml_of_the_readme_is_the_demo_document() -> None:
    """The example document is demo/direct.yaml, the certificate apart."""
    shown = re.sub(r" *#.*", "", re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
    document = (ROOT / "demo/direct.yaml").read_text()
    for line in shown.replace("ca: ...", "").split("auth:")[0].splitlines():
        assert line.strip() in document


def test_every_link_of_the_docs_leads_to_a_file() -> None:
    """Relative links in the README and in docs/ exist."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text())]
    assert [] == [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
