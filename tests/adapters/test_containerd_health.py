"""What a restart has cost, and which start of containerd this is."""

import os
from pathlib import Path

from agent.containerd_health import ContainerdHealth
from agent.cri import Status, Version


class Socket:
    """Containers that run, and those whose end nobody has seen."""

    def __init__(self, running: frozenset[str], cut_off: frozenset[str] = frozenset()) -> None:
        self._running, self._cut_off = running, cut_off

    async def running_containers(self) -> frozenset[str]:
        return self._running

    async def is_cut_off(self, container: str) -> bool:
        return container in self._cut_off

    async def version(self) -> Version:
        raise AssertionError("not asked")

    async def status(self, *, verbose: bool) -> Status:
        raise AssertionError(f"not asked, {verbose=}")

    async def is_serving(self) -> bool:
        raise AssertionError("not asked")


async def test_only_containers_whose_end_nobody_has_seen_are_lost() -> None:
    """A job that comes to its end, and a container that kubelet kills, were not ended by the restart."""
    health = ContainerdHealth(Socket(frozenset({"c1"}), frozenset({"c2", "not ours"})), Path("/nowhere"))
    assert await health.lost(frozenset({"c1", "c2", "c3"})) == {"c2"}


def test_a_socket_that_was_made_anew_is_another_start(tmp_path: Path) -> None:
    path = tmp_path / "containerd.sock"
    health = ContainerdHealth(Socket(frozenset()), path)
    assert health.sign() is None
    path.touch()
    first = health.sign()
    assert first == health.sign()
    (tmp_path / "new").touch()
    os.rename(tmp_path / "new", path)
    assert health.sign() not in {first, None}
