"""Tree and observed disk to an ordered plan. The order is meaning.

Intent before change, referenced file before referrer, removals after all writes and in reverse
order, fact last. Whatever prefix of a plan a crash leaves behind, each hosts.toml on disk names
only files that exist, and planning again finishes the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.errors import Obstructed
from agent.model import Notice
from agent.ownership import Owned
from agent.tree import HOST_DIRECTORY_MODE, HOSTS_TOML, File, HostDirectory, Tree, is_our_file


class Kind(Enum):
    """What stands at a path. Symlinks are OTHER: they are never followed."""

    DIRECTORY = "directory"
    FILE = "file"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedFile:
    """An entry of a host directory. `digest` is None when its content was not read."""

    kind: Kind
    mode: int = 0
    is_owner_right: bool = True
    digest: str | None = None

    def holds(self, file: File) -> bool:
        """Tell whether content, mode and owner are what `file` wants."""
        return self.kind is Kind.FILE and self.is_owner_right and self.mode == file.mode and self.digest == file.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedHost:
    """What stands where a host directory has to be."""

    kind: Kind
    mode: int = 0
    is_owner_right: bool = True
    files: Mapping[str, ObservedFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """registry.d and the agent's own state as the disk has them. Absent hosts are absent here."""

    hosts: Mapping[str, ObservedHost] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    state_leftovers: tuple[str, ...] = ()
    backups: frozenset[str] = frozenset()
    owned: Owned = field(default_factory=Owned)
    is_state_canonical: bool = True
    has_other_agent_marker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the disk holds, and what was odd about the records on it."""

    observed: Observed
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLeftovers:
    """Remove what an interrupted write left behind.

    `paths` are ``name`` or ``host/name`` below registry.d, `state_names` lie in the state directory.
    """

    paths: tuple[str, ...]
    state_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveForeign:
    """Keep the content of a directory that is not ours, before its takeover."""

    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOurs:
    """Write the agent's own record of the directories it manages."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordState:
    """Write the state file that is shared with bashible."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearPath:
    """Remove what has taken the place of a managed directory or file: ``host`` or ``host/name``."""

    host: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishHost:
    """Let a whole new directory appear at once."""

    directory: HostDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class FixDirectory:
    """Set mode and owner of a host directory."""

    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceFiles:
    """Replace files one by one, in this order, each by a rename."""

    host: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRegistryDirectory:
    """Make new directory entries durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFiles:
    """Remove files that nothing refers to any more."""

    host: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireHost:
    """Remove a directory of ours: hosts.toml first; files of others stay, and then the directory too."""

    host: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreForeign:
    """Give a directory back as it was saved; `names` are the files of ours that stand there now."""

    host: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBackup:
    """Remove a saved directory that has been given back."""

    host: str


Operation = (
    RemoveLeftovers
    | SaveForeign
    | RecordOurs
    | RecordState
    | ClearPath
    | PublishHost
    | FixDirectory
    | ReplaceFiles
    | SyncRegistryDirectory
    | RemoveFiles
    | RetireHost
    | RestoreForeign
    | DropBackup
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Operations in order. An empty plan means the disk is what the tree says."""

    operations: tuple[Operation, ...] = ()

    @property
    def is_cleanup(self) -> bool:
        """Tell whether nothing but the agent's own leftovers is touched."""
        return all(isinstance(operation, RemoveLeftovers | DropBackup) for operation in self.operations)

    @property
    def changed_paths(self) -> tuple[str, ...]:
        """Paths below registry.d that the plan writes or removes, for logs and reports."""
        return tuple(path for operation in self.operations for path in _paths(operation))

    @property
    def changed_hosts(self) -> frozenset[str]:
        """Host directories that the plan touches."""
        return frozenset(path.partition("/")[0] for path in self.changed_paths)

    @property
    def taken_over(self) -> tuple[str, ...]:
        """Hosts whose directory belonged to somebody else."""
        return tuple(operation.host for operation in self.operations if isinstance(operation, SaveForeign))


def make_plan(tree: Tree, observed: Observed) -> Plan:
    """Return what has to be done so that registry.d holds `tree`; raises Obstructed.

    An empty tree releases everything that the agent has written.
    """
    desired = frozenset(host.name for host in tree.hosts)
    owned = observed.owned
    released = owned.ours - desired
    if not tree.hosts and not owned.ours:
        return Plan(operations=tuple(_cleanup(observed)))
    _refuse_obstacles(tree, observed)
    writes = [operation for host in tree.hosts for operation in _write(host, observed)]
    removals = [operation for host in tree.hosts for operation in _remove_stale(host, observed)]
    removals += [operation for name in sorted(released) for operation in _release(name, observed)]
    intent = list(_intent(owned, desired))
    body = [
        *_cleanup(observed),
        *(SaveForeign(host=host.name) for host in tree.hosts if _is_foreign(host.name, observed)),
        *intent,
        *writes,
        *([SyncRegistryDirectory()] if any(isinstance(write, PublishHost) for write in writes) else []),
        *removals,
        *_fact(observed, desired, released, intent),
        *(DropBackup(host=name) for name in sorted(observed.backups & released)),
    ]
    return Plan(operations=tuple(body))


def _cleanup(observed: Observed) -> Iterator[Operation]:
    if observed.leftovers or observed.state_leftovers:
        yield RemoveLeftovers(paths=observed.leftovers, state_names=observed.state_leftovers)
    # A saved directory that nobody manages now was given back, or its takeover never began.
    orphans = observed.backups - observed.owned.ours - observed.owned.state
    yield from (DropBackup(host=name) for name in sorted(orphans))


def _intent(owned: Owned, desired: frozenset[str]) -> Iterator[Operation]:
    """Record first: a host in the state alone would count as adopted, and its backup as orphaned."""
    if not desired <= owned.ours:
        yield RecordOurs(names=owned.ours | desired)
    if not desired <= owned.state:
        yield RecordState(names=owned.state | desired)


def _fact(
    observed: Observed, desired: frozenset[str], released: frozenset[str], intent: list[Operation]
) -> Iterator[Operation]:
    """State first: a host that is no longer in the record would stay in the state for ever."""
    is_canonical = observed.is_state_canonical or any(isinstance(write, RecordState) for write in intent)
    if released & observed.owned.state or not is_canonical:
        yield RecordState(names=(observed.owned.state - released) | desired)
    if released:
        yield RecordOurs(names=desired)


def _is_managed(name: str, observed: Observed) -> bool:
    return name in observed.owned.ours or name in observed.owned.state


def _is_foreign(name: str, observed: Observed) -> bool:
    return name in observed.hosts and not _is_managed(name, observed)


def _refuse_obstacles(tree: Tree, observed: Observed) -> None:
    """Refuse to clear away what was never ours; inside a directory of ours, only the names we write."""
    for host in tree.hosts:
        is_foreign = _is_foreign(host.name, observed)
        if not is_foreign and host.name not in observed.backups:
            continue
        found = observed.hosts.get(host.name, ObservedHost(kind=Kind.DIRECTORY))
        # In a directory that was taken over, only hosts.toml is sure to be ours.
        names = [file.name for file in host.files if is_foreign or file.name != HOSTS_TOML]
        names = [name for name in names if _kind(found, name) is Kind.DIRECTORY]
        if (is_foreign and found.kind is not Kind.DIRECTORY) or names:
            path = "/".join([host.name, *names[:1]])
            message = f"{path} in registry.d is not the agent's and cannot be replaced safely"
            raise Obstructed(message, remedy="move it away; the agent goes on by itself")


def _kind(found: ObservedHost, name: str) -> Kind | None:
    file = found.files.get(name)
    return file.kind if file else None


def _write(host: HostDirectory, observed: Observed) -> Iterator[Operation]:
    found = observed.hosts.get(host.name)
    if found is None or found.kind is not Kind.DIRECTORY:
        if found is not None:
            yield ClearPath(host=host.name)
        yield PublishHost(directory=host)
        return
    if found.mode != HOST_DIRECTORY_MODE or not found.is_owner_right:
        yield FixDirectory(host=host.name)
    wrong = tuple(file for file in host.files if not _holds(found, file))
    yield from (
        ClearPath(host=host.name, name=file.name) for file in wrong if _kind(found, file.name) is Kind.DIRECTORY
    )
    if wrong:
        yield ReplaceFiles(host=host.name, files=wrong)


def _holds(found: ObservedHost, file: File) -> bool:
    return file.name in found.files and found.files[file.name].holds(file)


def _remove_stale(host: HostDirectory, observed: Observed) -> Iterator[Operation]:
    found = observed.hosts.get(host.name)
    if found is None or found.kind is not Kind.DIRECTORY:
        return
    wanted = {file.name for file in host.files}
    stale = tuple(name for name in _our_files(found) if name not in wanted)
    if stale:
        yield RemoveFiles(host=host.name, names=stale)


def _release(name: str, observed: Observed) -> Iterator[Operation]:
    found = observed.hosts.get(name)
    names = _our_files(found) if found is not None else ()
    if name in observed.backups:
        if found is not None and found.kind is not Kind.DIRECTORY:
            yield ClearPath(host=name)
        yield RestoreForeign(host=name, names=names)
    elif found is not None and found.kind is Kind.DIRECTORY:
        yield RetireHost(host=name, names=names)


def _our_files(found: ObservedHost) -> tuple[str, ...]:
    """Names that the agent writes, hosts.toml first: the order of removal."""
    names = [name for name, file in found.files.items() if is_our_file(name) and file.kind is not Kind.DIRECTORY]
    return tuple(sorted(names, key=lambda name: (name != HOSTS_TOML, name)))


def _paths(operation: Operation) -> Iterator[str]:
    match operation:
        case PublishHost(directory=directory):
            yield from (f"{directory.name}/{file.name}" for file in directory.files)
        case ReplaceFiles(host=host, files=files):
            yield from (f"{host}/{file.name}" for file in files)
        case RemoveFiles(host=host, names=names) | RetireHost(host=host, names=names):
            yield from (f"{host}/{name}" for name in names)
        case RestoreForeign(host=host) | FixDirectory(host=host) | SaveForeign(host=host):
            yield host
        case ClearPath(host=host, name=name):
            yield f"{host}/{name}" if name else host
        case _:
            return
