"""Witnesses of containerd's restarts: how many, what stood in registry.d, how long CRI was away."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from agent.cri import Cri
from agent.errors import RuntimeUnavailable
from tests.node.config_tomls import BAD_KEY
from tests.node.node import Node
from tests.node.waiting import until

CONTAINERD = "containerd.service"
DROP_INS = "etc/systemd/system/containerd.service.d"
WITNESS = "run/containerd-starts"
CONFIG = "etc/containerd/config.toml"
SOCKET = "run/containerd/containerd.sock"


class Starts:
    """Every start of containerd since this began; each is a line that the unit itself has written."""

    def __init__(self, path: Path) -> None:
        """Count from here."""
        self._path = path
        self._begin = 0

    @property
    def hosts(self) -> tuple[frozenset[str], ...]:
        """What stood in registry.d at each start."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return tuple(frozenset(line.split()) for line in lines[self._begin :])

    @property
    def last_at(self) -> float:
        """The Unix time of the last start."""
        return self._path.stat().st_mtime

    def __len__(self) -> int:
        """Count the starts."""
        return len(self.hosts)

    def forget(self) -> None:
        """Count from now on."""
        self._begin += len(self)


@contextmanager
def witnessed(node: Node) -> Iterator[Starts]:
    """Let containerd's unit write down each of its starts."""
    line = "echo $$(ls /etc/containerd/registry.d) >>/run/containerd-starts"
    (node.root / WITNESS).unlink(missing_ok=True)
    with drop_in(node, "witness", f"ExecStartPre=-/bin/sh -c '{line}'"):
        yield Starts(node.root / WITNESS)


@contextmanager
def drop_in(node: Node, name: str, *settings: str, section: str = "Service") -> Iterator[None]:
    """Add settings to containerd's unit."""
    folder = node.root / DROP_INS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.conf"
    path.write_text("\n".join((f"[{section}]", *settings, "")))
    node.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        path.unlink()
        node.run("systemctl", "daemon-reload")


@contextmanager
def trapped(node: Node) -> Iterator[None]:
    """Let an import of IMPORTING_TOML turn bad when containerd is started with registry.d, after every check of it."""
    folder = node.root / "etc/containerd/conf.d"
    folder.mkdir()
    (folder / "good").write_text("version = 2\n")
    (folder / "bad").write_text(f"version = 2\n{BAD_KEY}")
    choose = "grep -q config_path config.toml && f=bad || f=good; cp conf.d/$$f conf.d/x.toml"
    with drop_in(node, "trap", f"ExecStartPre=/bin/sh -c 'cd /etc/containerd; {choose}'"):
        yield


def restart(node: Node) -> None:
    """Restart containerd as a person does; no start before counts for systemd's limit."""
    node.run("systemctl", "reset-failed", CONTAINERD)
    node.run("systemctl", "restart", CONTAINERD)


def run_with(node: Node, starts: Starts, config: str) -> None:
    """Let containerd run with this config.toml; only what comes then counts."""
    (node.root / CONFIG).write_text(config)
    restart(node)
    until(lambda: answers(node), what="containerd")
    starts.forget()


def answers(node: Node) -> bool:
    """Tell whether CRI answers."""
    try:
        asyncio.run(Cri(node.root / SOCKET).version())
    except RuntimeUnavailable:
        return False
    return True


class Absence:
    """Asks CRI without a pause, and knows the longest time between two answers."""

    def __init__(self, node: Node) -> None:
        """Ask nothing yet."""
        self.longest_s = 0.0
        self._cri = Cri(node.root / SOCKET)
        self._has_answered = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="absence")

    def __enter__(self) -> Self:
        """Return when there was a first answer."""
        self._thread.start()
        self._has_answered.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """End with one more answer."""
        self._is_stopping = True
        self._thread.join()

    async def _ask(self) -> None:
        last: float | None = None
        while True:
            is_last = self._is_stopping
            try:
                await self._cri.version()
            except RuntimeUnavailable:
                continue
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - (last if last is not None else now))
            last = now
            self._has_answered.set()
            if is_last:
                return
