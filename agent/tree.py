"""The files that shall stand in registry.d, as a value. Two levels deep, so no path can leave it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

HOSTS_TOML = "hosts.toml"

#: Names that an interrupted write may leave behind; containerd never looks them up.
TEMPORARY_PREFIX = ".registry-agent-"

#: Lists the managed directories; shared with bashible (contract, section 0).
STATE_FILE = "deckhouse_hosts_state.json"

#: hosts.toml holds credentials; containerd runs as root, nobody else needs to read it.
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
HOST_DIRECTORY_MODE = 0o700

MAX_NAME_BYTES = 255

_SAFE_NAME = re.compile(r"(?!\.\.?$)[^/\0]+")
_OUR_FILES = re.compile(r"hosts\.toml|https?-.+-(?:ca\.crt|client\.crt|client\.key)")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file: a plain name, its bytes (hidden from `repr`: credentials) and its mode."""

    name: str
    content: bytes = field(repr=False)
    mode: int
    #: sha256 of the content, hex: compared in every pass, so computed once.
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the digest."""
        object.__setattr__(self, "digest", hashlib.sha256(self.content).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDirectory:
    """The directory of one registry host. Files stand in writing order: referenced before referrer."""

    name: str
    files: tuple[File, ...]

    def __post_init__(self) -> None:
        """Refuse names that are not plain; the validator has done so before, this is the last door."""
        for name in (self.name, *(file.name for file in self.files)):
            if not is_plain_name(name):
                raise ValueError("not a plain file name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All host directories, sorted by name."""

    hosts: tuple[HostDirectory, ...] = ()

    def files(self) -> Iterator[tuple[PurePosixPath, File]]:
        """Yield each file with its path below registry.d."""
        for host in self.hosts:
            for file in host.files:
                yield PurePosixPath(host.name, file.name), file


def is_plain_name(name: str) -> bool:
    """Tell whether `name` names an entry of a directory and nothing else."""
    is_entry = _SAFE_NAME.fullmatch(name) is not None and name.isprintable()
    return is_entry and len(name.encode()) <= MAX_NAME_BYTES


def is_our_file(name: str) -> bool:
    """Tell whether a file of this name in a managed directory is one that the agent writes."""
    return _OUR_FILES.fullmatch(name) is not None
