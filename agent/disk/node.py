"""The node's disk as the reconciler sees it: observe, apply, the last good config, the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import cast

from agent import ownership
from agent.disk import observe
from agent.disk.apply import Executor
from agent.disk.directory import Calls, Directory, open_below, permissions
from agent.errors import AlreadyRunning, DiskFailed
from agent.plan import Observation, Observed, Plan
from agent.tree import PUBLIC_MODE, SECRET_MODE

LAST_GOOD_FILE = "last-good.yaml"
BACKUP_DIRECTORY = "backup"
LOCK_FILE = "agent.lock"

STATE_DIRECTORY_MODE = 0o700
REGISTRY_DIRECTORY_MODE = 0o755
RUN_DIRECTORY_MODE = 0o755

MAX_RECORD_BYTES = 1024 * 1024
MAX_LAST_GOOD_BYTES = 1024 * 1024


class NodeDisk:
    """All access to registry.d and to the agent's state directory. Synchronous: run it in a thread."""

    def __init__(
        self,
        root: Path,
        registry_dir: PurePosixPath,
        state_dir: PurePosixPath,
        *,
        calls: Calls | None = None,
    ) -> None:
        """Paths are absolute as the node sees them; `root` is where the node's ``/`` is mounted."""
        self._root = root
        self._registry_dir = registry_dir
        self._state_dir = state_dir
        self._calls = calls if calls is not None else cast("Calls", os)

    def observe(self, names: frozenset[str]) -> Observation:
        """Read the directories of `names` and of all hosts the agent has written; writes nothing."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            registry = _enter(stack, self._open_registry())
            record = self._read_names(state, ownership.RECORD_FILE)
            shared = self._read_names(registry, ownership.STATE_FILE)
            found = observe.hosts(registry, names | record.names) if registry else {}
            observed = Observed(
                hosts=found,
                leftovers=tuple(observe.leftovers(registry, found)) if registry else (),
                state_leftovers=observe.temporary_names(state) if state else (),
                backups=_backups(state),
                owned=ownership.Owned(state=shared.names, ours=record.names),
                is_state_canonical=_is_canonical(registry, shared.names),
                has_other_agent_marker=_has_marker(registry),
            )
        return Observation(observed=observed, notices=(*record.notices, *shared.notices))

    def apply(self, plan: Plan, *, should_stop: Callable[[], bool]) -> bool:
        """Carry out the plan; raises DiskFailed or Obstructed at the first operation that fails.

        `should_stop` is asked between operations, never inside one; returns False when it said yes
        before the plan was through.
        """
        if not plan.operations:
            return True
        with contextlib.ExitStack() as stack:
            registry = stack.enter_context(_made(self._open_registry(mode=REGISTRY_DIRECTORY_MODE)))
            state = stack.enter_context(_made(self._open_state(mode=STATE_DIRECTORY_MODE)))
            path = self._state_dir / BACKUP_DIRECTORY
            backups = stack.enter_context(_made(self._open(path, mode=STATE_DIRECTORY_MODE)))
            executor = Executor(registry, state, backups)
            for operation in plan.operations:
                if should_stop():
                    return False
                executor.run(operation)
        return True

    def has_written(self) -> bool:
        """Tell whether the agent's record names any host directory."""
        with contextlib.ExitStack() as stack:
            return bool(self._read_names(_enter(stack, self._open_state()), ownership.RECORD_FILE).names)

    def read_last_good(self) -> bytes | None:
        """Return the last desired config that was accepted on this node."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            return state.read(LAST_GOOD_FILE, max_bytes=MAX_LAST_GOOD_BYTES) if state else None

    def write_last_good(self, document: bytes) -> None:
        """Keep an accepted config, 0600; equal bytes are not written again."""
        if self.read_last_good() == document:
            return
        with _made(self._open_state(mode=STATE_DIRECTORY_MODE)) as state:
            state.replace(LAST_GOOD_FILE, document, mode=SECRET_MODE)
            state.sync()

    def drop_last_good(self) -> None:
        """Forget the config, once the node has been released."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            if state is not None and state.stat(LAST_GOOD_FILE) is not None:
                state.remove(LAST_GOOD_FILE)
                state.sync()

    def read_node_ip(self, path: PurePosixPath) -> str | None:
        """Return the first line of bashible's file with the node's address, if it is there."""
        with contextlib.ExitStack() as stack:
            directory = _enter(stack, self._open(path.parent))
            raw = directory.read(path.name, max_bytes=1024) if directory else None
        return raw.decode(errors="replace").strip() or None if raw else None

    def _open(self, path: PurePosixPath, *, mode: int | None = None) -> Directory | None:
        return open_below(self._root, path, calls=self._calls, mode=mode)

    def _open_registry(self, *, mode: int | None = None) -> Directory | None:
        return self._open(self._registry_dir, mode=mode)

    def _open_state(self, *, mode: int | None = None) -> Directory | None:
        return self._open(self._state_dir, mode=mode)

    @staticmethod
    def _read_names(directory: Directory | None, name: str) -> ownership.NameList:
        if directory is None:
            return ownership.NameList(names=frozenset())
        raw = directory.read(name, max_bytes=MAX_RECORD_BYTES)
        return ownership.read_names(raw, path=f"{directory.path}/{name}")


@contextlib.contextmanager
def exclusive(root: Path, run_dir: PurePosixPath) -> Iterator[None]:
    """Hold the one lock per root; raises AlreadyRunning when another agent holds it."""
    directory = _made(open_below(root, run_dir, calls=cast("Calls", os), mode=RUN_DIRECTORY_MODE))
    with directory:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(LOCK_FILE, flags, SECRET_MODE, dir_fd=directory.descriptor)
        except OSError as err:
            raise DiskFailed("open lock", f"{directory.path}/{LOCK_FILE}", err) from err
    try:
        _lock(descriptor, root)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        message = f"another registry-agent (pid {holder}) already works on {root}"
        raise AlreadyRunning(message, remedy="stop it first, or use another --root") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _enter(stack: contextlib.ExitStack, directory: Directory | None) -> Directory | None:
    return stack.enter_context(directory) if directory is not None else None


def _made(directory: Directory | None) -> Directory:
    assert directory is not None, "open_below with a mode makes what is missing"
    return directory


def _backups(state: Directory | None) -> frozenset[str]:
    if state is None or state.stat(BACKUP_DIRECTORY) is None:
        return frozenset()
    with state.child(BACKUP_DIRECTORY) as backups:
        return frozenset(name for name in backups.names())


def _is_canonical(registry: Directory | None, names: frozenset[str]) -> bool:
    """Tell whether the state file is byte for byte and in mode what the agent would write."""
    if registry is None:
        return not names
    status = registry.stat(ownership.STATE_FILE)
    if status is None:
        return False
    content = registry.read(ownership.STATE_FILE, max_bytes=MAX_RECORD_BYTES)
    return content == ownership.write_names(names) and permissions(status) == PUBLIC_MODE


def _has_marker(registry: Directory | None) -> bool:
    return registry is not None and registry.stat(ownership.OTHER_AGENT_MARKER) is not None
