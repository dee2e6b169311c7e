"""The node's disk as the reconciler sees it: observe, apply, the last good config, the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import cast

from agent import ownership
from agent.disk import observe
from agent.disk.apply import Executor
from agent.disk.directory import Calls, Directory, open_below, permissions
from agent.errors import AlreadyRunning, DiskFailed
from agent.plan import Observation, Observed, Plan
from agent.tree import PUBLIC_MODE, SECRET_MODE, STATE_FILE

LAST_GOOD_FILE = "last-good.yaml"
NODE_ADDRESS_FILE = "node-address"
CONTAINERD_FILE = "containerd-version"
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
            shared = self._read_names(registry, STATE_FILE)
            backups = _backups(state)
            # Without a record, what was saved tells what was taken over: it must not be forgotten.
            ours = record.names if record.is_known else frozenset(filter(ownership.is_host_name, backups))
            found = observe.hosts(registry, names | ours) if registry else {}
            observed = Observed(
                hosts=found,
                leftovers=tuple(observe.leftovers(registry, found)) if registry else (),
                state_leftovers=observe.temporary_names(state) if state else (),
                backups=backups,
                owned=ownership.Owned(state=shared.names, ours=ours),
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
            mode = None if plan.is_cleanup else REGISTRY_DIRECTORY_MODE
            registry = _enter(stack, self._open_registry(mode=mode))
            state = stack.enter_context(self._writable_state())
            path = self._state_dir / BACKUP_DIRECTORY
            backups = stack.enter_context(_made(self._open(path, mode=STATE_DIRECTORY_MODE)))
            # Without registry.d there is nothing to clean up in it, so the stand-in is not touched.
            executor = Executor(registry or state, state, backups)
            for operation in plan.operations:
                if should_stop():
                    return False
                executor.run(operation)
        return True

    def has_written(self) -> bool:
        """Tell whether the agent's record names any host directory; if it is lost, whether any was saved."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            record = self._read_names(state, ownership.RECORD_FILE)
            return bool(record.names if record.is_known else _backups(state))

    def stand_down(self, document: bytes) -> None:
        """Keep a config that another agent follows, and give up what the agent has written."""
        self.write_last_good(document)
        with self._writable_state() as state:
            if _backups(state):  # not to be given back by the agent any more, but not lost either
                state.rename(BACKUP_DIRECTORY, f"{BACKUP_DIRECTORY}-given-up-{secrets.token_hex(4)}")
            if self._read_names(state, ownership.RECORD_FILE).names:
                state.replace(ownership.RECORD_FILE, ownership.write_names(()), mode=SECRET_MODE)
                state.sync()

    def read_last_good(self) -> bytes | None:
        """Return the last desired config that was accepted on this node."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            return state.read(LAST_GOOD_FILE, max_bytes=MAX_LAST_GOOD_BYTES) if state else None

    def last_good_at(self) -> float | None:
        """Return the Unix time at which the last good config was written."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            status = state.stat(LAST_GOOD_FILE) if state else None
            return status.st_mtime if status else None

    def write_last_good(self, document: bytes) -> None:
        """Keep an accepted config, 0600; equal bytes are not written again."""
        if self.read_last_good() == document:
            return
        with self._writable_state() as state:
            state.replace(LAST_GOOD_FILE, document, mode=SECRET_MODE)
            state.sync()

    def write_facts(self, *, node_ip: str | None, containerd: str | None) -> None:
        """Keep what was rendered for, as far as it is known, for a start without the API."""
        known = ((NODE_ADDRESS_FILE, node_ip), (CONTAINERD_FILE, containerd))
        for name, content in ((name, f"{fact}\n".encode()) for name, fact in known if fact is not None):
            with self._writable_state() as state:
                if state.read(name, max_bytes=len(content)) != content:
                    state.replace(name, content, mode=SECRET_MODE)
                    state.sync()

    def drop_last_good(self) -> None:
        """Forget the config, once the node has been released."""
        with contextlib.ExitStack() as stack:
            state = _enter(stack, self._open_state())
            if state is not None and state.stat(LAST_GOOD_FILE) is not None:
                state.remove(LAST_GOOD_FILE)
                state.sync()

    def _writable_state(self) -> Directory:
        """Open the state directory, made if it is missing, closed to others if it is not (systemd's is 0755)."""
        state = _made(self._open_state(mode=STATE_DIRECTORY_MODE))
        if permissions(state.own_stat()) != STATE_DIRECTORY_MODE:
            state.set_mode(STATE_DIRECTORY_MODE)
        return state

    def _open(self, path: PurePosixPath, *, mode: int | None = None) -> Directory | None:
        return open_below(self._root, path, calls=self._calls, mode=mode)

    def _open_registry(self, *, mode: int | None = None) -> Directory | None:
        return self._open(self._registry_dir, mode=mode)

    def _open_state(self, *, mode: int | None = None) -> Directory | None:
        return self._open(self._state_dir, mode=mode)

    @staticmethod
    def _read_names(directory: Directory | None, name: str) -> ownership.NameList:
        if directory is None:
            return ownership.NameList(names=frozenset(), is_known=False)
        raw = directory.read(name, max_bytes=MAX_RECORD_BYTES)
        if raw is None and directory.stat(name) is not None:
            raw = b""  # too large or no file: damaged, which is not the same as absent
        return ownership.read_names(raw, path=f"{directory.path}/{name}")


@contextlib.contextmanager
def exclusive(root: Path, directories: tuple[PurePosixPath, ...]) -> Iterator[None]:
    """Hold the lock in each of these directories; raises AlreadyRunning when another agent holds one."""
    with contextlib.ExitStack() as stack:
        for path in directories:
            descriptor = _open_lock(root, path)
            stack.callback(os.close, descriptor)
            _lock(descriptor, root)
        yield


def _open_lock(root: Path, path: PurePosixPath) -> int:
    with _made(open_below(root, path, calls=cast("Calls", os), mode=RUN_DIRECTORY_MODE)) as directory:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(LOCK_FILE, flags, SECRET_MODE, dir_fd=directory.descriptor)
        except OSError as err:
            raise DiskFailed("open lock", f"{directory.path}/{LOCK_FILE}", err) from err


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
        return frozenset(backups.names())


def _is_canonical(registry: Directory | None, names: frozenset[str]) -> bool:
    """Tell whether the state file is byte for byte and in mode what the agent would write."""
    if registry is None:
        return not names
    status = registry.stat(STATE_FILE)
    if status is None:
        return False
    content = registry.read(STATE_FILE, max_bytes=MAX_RECORD_BYTES)
    return content == ownership.write_names(names) and permissions(status) == PUBLIC_MODE


def _has_marker(registry: Directory | None) -> bool:
    return registry is not None and registry.stat(ownership.OTHER_AGENT_MARKER) is not None
