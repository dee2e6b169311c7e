"""A model of the node's disk: what a plan means, told in dictionaries instead of system calls.

It also says which states a crash can leave behind: one after each operation and, where an operation
writes or removes several files, one after each file.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from agent import plan as planning
from agent.ownership import Owned
from agent.plan import Kind, Observed, ObservedFile, ObservedHost, Operation, Plan
from agent.tree import HOST_DIRECTORY_MODE, HOSTS_TOML, File, Tree, is_our_file
from tests.support import reader
from tests.support.folders import Entry, Folder, Link, Plain, Special

TEMPORARY = ".registry-agent-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """registry.d with the names in its state file, and the agent's own record and backups."""

    registry: dict[str, Entry] = field(default_factory=dict)
    state: frozenset[str] = frozenset()
    is_canonical: bool = True
    ours: frozenset[str] = frozenset()
    backups: dict[str, Entry] = field(default_factory=dict)

    def without(self, host: str) -> "Disk":
        """Return the disk with nothing at `host`."""
        return self._with({name: entry for name, entry in self.registry.items() if name != host})

    def with_host(self, host: str, entry: Entry) -> "Disk":
        """Return the disk with `entry` at `host`."""
        return self._with({**self.registry, host: entry})

    def folder(self, host: str) -> Folder:
        """Return the directory at `host`, which must be one."""
        entry = self.registry[host]
        assert isinstance(entry, Folder), f"{host} is no directory"
        return entry

    def _with(self, registry: dict[str, Entry]) -> "Disk":
        return dataclasses.replace(self, registry=registry)


def observe(disk: Disk, names: frozenset[str]) -> Observed:
    """Return what an observation of the disk finds."""
    hosts = {name: _observed(disk.registry[name]) for name in sorted(names | disk.ours) if name in disk.registry}
    inner = [f"{host}/{name}" for host, found in hosts.items() for name in found.files if name.startswith(TEMPORARY)]
    return Observed(
        hosts=hosts,
        leftovers=(*(name for name in sorted(disk.registry) if name.startswith(TEMPORARY)), *inner),
        backups=frozenset(disk.backups),
        owned=Owned(state=disk.state, ours=disk.ours),
        is_state_canonical=disk.is_canonical,
    )


def make_plan(disk: Disk, tree: Tree) -> Plan:
    """Plan on the model."""
    return planning.make_plan(tree, observe(disk, frozenset(host.name for host in tree.hosts)))


def apply(disk: Disk, plan: Plan) -> Disk:
    """Return the disk after the whole plan."""
    for found in prefixes(disk, plan):
        disk = found
    return disk


def settle(disk: Disk, tree: Tree) -> Disk:
    """Plan and apply."""
    return apply(disk, make_plan(disk, tree))


def prefixes(disk: Disk, plan: Plan) -> Iterator[Disk]:
    """Yield every disk that a crash inside the plan can leave, the first and the last included."""
    yield disk
    for operation in plan.operations:
        for found in _steps(disk, operation):
            disk = found
            yield disk


def missing(disk: Disk, host: str) -> set[str]:
    """Return what the hosts.toml of `host` lacks: the files that it names, or TOML itself."""
    toml = hosts_toml(disk, host)
    if toml is None:
        return set()
    try:
        names = reader.referenced(toml)
    except ValueError:
        return {"not TOML"}
    present = {
        str(reader.REGISTRY_DIR / host / name)
        for name, entry in disk.folder(host).entries.items()
        if not isinstance(entry, Folder)  # where a symlink leads to is its author's business
    }
    return set(names) - present


def hosts_toml(disk: Disk, host: str) -> bytes | None:
    """Return the bytes of a host's hosts.toml, None when there is no such regular file."""
    entry = disk.registry.get(host)
    found = entry.entries.get(HOSTS_TOML) if isinstance(entry, Folder) else None
    return found.content if isinstance(found, Plain) else None


def _observed(entry: Entry) -> ObservedHost:
    if not isinstance(entry, Folder):
        return ObservedHost(kind=Kind.OTHER)
    files = {name: _observed_file(name, inner) for name, inner in entry.entries.items()}
    return ObservedHost(kind=Kind.DIRECTORY, mode=entry.mode, files=files)


def _observed_file(name: str, entry: Entry) -> ObservedFile:
    match entry:
        case Plain(content=content, mode=mode):
            digest = hashlib.sha256(content).hexdigest() if is_our_file(name) else None
            return ObservedFile(kind=Kind.FILE, mode=mode, digest=digest)
        case Folder():
            return ObservedFile(kind=Kind.DIRECTORY)
        case Link() | Special():
            return ObservedFile(kind=Kind.OTHER)


def _steps(disk: Disk, operation: Operation) -> Iterator[Disk]:
    match operation:
        case planning.RemoveLeftovers(paths=paths):
            for path in paths:
                disk = _remove(disk, path)
                yield disk
        case planning.RecordOurs(names=names):
            yield dataclasses.replace(disk, ours=names)
        case planning.RecordState(names=names):
            yield dataclasses.replace(disk, state=names, is_canonical=True)
        case planning.SyncRegistryDirectory():
            yield disk
        case planning.SaveForeign() | planning.RestoreForeign() | planning.DropBackup():
            yield from _foreign_steps(disk, operation)
        case _:
            yield from _host_steps(disk, operation)


def _foreign_steps(
    disk: Disk, operation: planning.SaveForeign | planning.RestoreForeign | planning.DropBackup
) -> Iterator[Disk]:
    match operation:
        case planning.SaveForeign(host=host):
            yield dataclasses.replace(disk, backups={**disk.backups, host: disk.folder(host)})
        case planning.RestoreForeign(host=host, names=names):
            yield from _restore(disk, host, names)
        case planning.DropBackup(host=host):
            kept = {name: entry for name, entry in disk.backups.items() if name != host}
            yield dataclasses.replace(disk, backups=kept)
        case _:
            assert_never(operation)


_InHost = (
    planning.ClearPath
    | planning.PublishHost
    | planning.FixDirectory
    | planning.ReplaceFiles
    | planning.RemoveFiles
    | planning.RetireHost
)


def _host_steps(disk: Disk, operation: _InHost) -> Iterator[Disk]:
    match operation:
        case planning.ClearPath(host=host, name=name):
            yield _remove(disk, f"{host}/{name}" if name else host)
        case planning.PublishHost(directory=directory):
            entries = {file.name: _plain(file) for file in directory.files}
            yield disk.with_host(directory.name, Folder(mode=HOST_DIRECTORY_MODE, entries=entries))
        case planning.FixDirectory(host=host):
            yield disk.with_host(host, dataclasses.replace(disk.folder(host), mode=HOST_DIRECTORY_MODE))
        case planning.ReplaceFiles(host=host, files=files):
            yield from _put_each(disk, host, files)
        case planning.RemoveFiles(host=host, names=names):
            yield from _remove_each(disk, host, names)
        case planning.RetireHost(host=host, names=names):
            yield from _retire(disk, host, names)
        case _:
            assert_never(operation)


def _put_each(disk: Disk, host: str, files: tuple[File, ...]) -> Iterator[Disk]:
    for file in files:
        disk = _put(disk, host, file.name, _plain(file))
        yield disk


def _retire(disk: Disk, host: str, names: tuple[str, ...]) -> Iterator[Disk]:
    for found in _remove_each(disk, host, names):
        disk = found
        yield disk
    if not disk.folder(host).entries:
        yield disk.without(host)


def _restore(disk: Disk, host: str, names: tuple[str, ...]) -> Iterator[Disk]:
    saved = disk.backups[host]
    assert isinstance(saved, Folder)
    if host not in disk.registry:
        kept = {name: entry for name, entry in saved.entries.items() if not name.startswith(TEMPORARY)}
        yield disk.with_host(host, dataclasses.replace(saved, entries=kept))
        return
    originals = [name for name in saved.entries if is_our_file(name)]
    for name in sorted(originals, key=lambda name: (name == HOSTS_TOML, name)):
        if not isinstance(saved.entries[name], Folder):
            disk = _put(disk, host, name, saved.entries[name])
            yield disk
    for found in _remove_each(disk, host, tuple(name for name in names if name not in originals)):
        disk = found
        yield disk
    yield disk.with_host(host, dataclasses.replace(disk.folder(host), mode=saved.mode))


def _plain(file: File) -> Plain:
    return Plain(content=file.content, mode=file.mode)


def _put(disk: Disk, host: str, name: str, entry: Entry) -> Disk:
    found = disk.folder(host)
    return disk.with_host(host, dataclasses.replace(found, entries={**found.entries, name: entry}))


def _remove_each(disk: Disk, host: str, names: tuple[str, ...]) -> Iterator[Disk]:
    for name in names:
        disk = _remove(disk, f"{host}/{name}")
        yield disk


def _remove(disk: Disk, path: str) -> Disk:
    host, _, name = path.partition("/")
    if not name:
        return disk.without(host)
    found = disk.folder(host)
    kept = {inner: entry for inner, entry in found.entries.items() if inner != name}
    return disk.with_host(host, dataclasses.replace(found, entries=kept))
