"""docs/session.md: commands that are typed on a fresh node, one after another, and what they print there.

`make session` types them and writes down what they print now; the words around them, and the commands, are written by
hand. It needs root, and a package that `make deb` has built.
"""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tests.node import roots
from tests.node.daemon import REPOSITORY, Daemon
from tests.node.node import Node, booted
from tests.node.starts import CONFIG, restart

PAGE = REPOSITORY / "docs/session.md"
SUITE = "trixie"
#: The nodes of the tests share one network, and the agent's port is taken there.
OWN_NETWORK = "[Service]\nPrivateNetwork=yes\n"
#: When a session is written down: the agent has long done then what it has to do.
PATIENCE_S = 5.0

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROMPT, _MORE = "# ", "> "
#: What only looks may be typed until it shows what is waited for.
_READERS = ("registry-agent status", "registry-agent diff", "journalctl ")

#: What is another in each session, and what is the same in all.
_VARIES = (
    (r"^\w{3} [ \d]\d \d\d:\d\d:\d\d", "WHEN"),
    (r"\[\d+\]:", "[PID]:"),
    (r"\b\d+\.\d+\.\d+(?=_\w+\.deb|\) \.\.\.| started:)", "VERSION"),
    (r"_\w+\.deb", "_ARCHITECTURE.deb"),
    (r"\d+ files and directories", "N files and directories"),
    (r"number \d+ \([a-z ]+\), [\d.]+ ms", "number N (WHY), N ms"),
    # systemd's words come on another way than the agent's: now a line sooner, now later.
    (r".* systemd\[PID\]: .*\n?", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command as it is typed, and what it prints."""

    typed: tuple[str, ...]
    output: str

    @property
    def command(self) -> str:
        """What the shell gets."""
        return "\n".join(line[len(_PROMPT) :] for line in self.typed)

    @property
    def is_reading(self) -> bool:
        """Whether it changes nothing."""
        return self.command.startswith(_READERS)


def steps(page: str) -> Iterator[Step]:
    """Yield what a page shows."""
    for block in _BLOCK.findall(page):
        yield from _steps(block)


def masked(output: str) -> str:
    """Leave out what is another in each session."""
    for pattern, word in _VARIES:
        output = re.sub(pattern, word, output, flags=re.MULTILINE)
    return output


def typed(node: Node, command: str) -> str:
    """Type a command as root, and return what a terminal would show."""
    if command.endswith("release-on-remove"):
        Daemon(node).forget_restarts()  # an operator's day is longer than the budget of restarts
    environment = ("env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    printed = node.run(*environment, "bash", "-c", f"exec 2>&1; cd; {command}\ntrue")
    return re.sub(r"^.*\r", "", printed, flags=re.MULTILINE)


@contextmanager
def fresh(folder: Path) -> Iterator[Node]:
    """Boot a node with Debian's own containerd, and the package in root's home."""
    (package,) = (REPOSITORY / "dist").glob("registry-agent_*.deb")
    root = roots.pristine(next(suite for suite in roots.SUITES if suite.name == SUITE))
    with booted(root, folder, name=f"ra-session-{os.getpid()}", names=(), trusted=b"") as node:
        node.run("hostname", "worker-1")
        (node.root / CONFIG).write_bytes((root.path / CONFIG).read_bytes())
        restart(node)
        (node.root / "root" / package.name).write_bytes(package.read_bytes())
        drop_in = node.root / "run/systemd/system/registry-agent.service.d/network.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(OWN_NETWORK)
        yield node


def _steps(block: str) -> Iterator[Step]:
    for chunk in re.split(rf"^(?={_PROMPT})", block, flags=re.MULTILINE)[1:]:
        first, *others = chunk.splitlines(keepends=True)
        more = list(takewhile(lambda line: line.startswith(_MORE), others))
        shown = tuple(line.rstrip("\n") for line in (first, *more))
        yield Step(typed=shown, output="".join(others[len(more) :]))


def _rewritten(page: str, outputs: Iterator[str]) -> str:
    def block(found: re.Match[str]) -> str:
        lines = ["\n".join((*step.typed, next(outputs))) for step in _steps(found[1])]
        return f"```console\n{''.join(lines)}```"

    return _BLOCK.sub(block, page)


def _outputs(node: Node, page: str) -> Iterator[str]:
    for step in steps(page):
        if step.is_reading:
            time.sleep(PATIENCE_S)
        yield typed(node, step.command)


def main() -> None:
    """Write the page anew."""
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder, fresh(Path(folder)) as node:
        PAGE.write_text(_rewritten(page, _outputs(node, page)))


if __name__ == "__main__":
    main()
