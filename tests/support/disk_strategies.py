"""Hypothesis strategies: trees to want, and disks that any history may have left."""

import contextlib

from hypothesis import strategies as st

from agent.errors import Obstructed
from agent.tree import HOSTS_TOML, Tree
from tests.support import disk_model
from tests.support.disk_model import TEMPORARY, Disk
from tests.support.folders import Entry, Folder, Link, Plain
from tests.support.trees import ca_name, hosts_toml, tree

HOSTS = ("a.test", "b.test:5000", "c.test", "_default")
MIRRORS = ("m1.test", "m2.test:8443", "m3.test")
#: Names that the agent never writes; `ca.crt` is what Deckhouse's ModuleSources have.
FOREIGN_NAMES = ("ca.crt", "notes.txt", "old")

_mirrors = st.dictionaries(st.sampled_from(MIRRORS), st.sampled_from((None, "PEM 1", "PEM 2")), min_size=1)
_notes = st.sampled_from(("", "old", "new"))
_modes = st.sampled_from((0o600, 0o644, 0o700, 0o755, 0o666, 0o4755))


def trees() -> st.SearchStrategy[Tree]:
    """Return trees over the hosts, the empty one included."""
    return st.builds(
        lambda hosts, note: tree(hosts, note=note),
        st.dictionaries(st.sampled_from(HOSTS), _mirrors, min_size=2)
        | st.dictionaries(st.sampled_from(HOSTS), _mirrors),
        _notes,
    )


@st.composite
def _tomls(draw: st.DrawFn) -> bytes:
    return hosts_toml(draw(st.sampled_from(HOSTS)), draw(_mirrors), note=draw(_notes))


_files: st.SearchStrategy[Entry] = st.builds(
    lambda content, mode: Plain(content=content, mode=mode),
    _tomls() | st.sampled_from((b"", b"PEM 1", b"PEM 2")),
    _modes,
)
_links: st.SearchStrategy[Entry] = st.builds(Link, st.sampled_from(("/nowhere", "ca.crt", "../a.test")))
_inner: st.SearchStrategy[Entry] = st.builds(
    lambda entries, mode: Folder(entries=entries, mode=mode),
    st.dictionaries(st.sampled_from(("x", "y")), _files, max_size=2),
    _modes.map(lambda mode: mode | 0o700),
)
_names = st.sampled_from((HOSTS_TOML, *map(ca_name, MIRRORS), "http-m9-client.key", *FOREIGN_NAMES, f"{TEMPORARY}0f"))
_folders: st.SearchStrategy[Entry] = st.builds(
    lambda entries, mode: Folder(entries=entries, mode=mode),
    st.dictionaries(_names, _files | _files | _files | _links | _inner, max_size=6),
    _modes.map(lambda mode: mode | 0o700),
)
_hosts = _folders | _folders | _folders | _files | _links
_saved = st.builds(
    lambda entries, mode: Folder(entries=entries, mode=mode),
    st.dictionaries(_names.filter(lambda name: not name.startswith(TEMPORARY)), _files | _links, max_size=4),
    _modes.map(lambda mode: mode | 0o700),
)


def disks() -> st.SearchStrategy[Disk]:
    """Return any disk: after a life with foreign directories, configs and drift, or with records that fit nothing."""
    return lived_disks() | arbitrary_disks()


@st.composite
def lived_disks(draw: st.DrawFn) -> Disk:
    """Return a disk on which others were first, then perhaps a config was applied, then something drifted."""
    known = draw(st.dictionaries(st.sampled_from(HOSTS), _folders, min_size=1, max_size=2))
    disk = Disk(registry=dict(known), state=draw(st.sampled_from((frozenset(), frozenset({"other.test"})))))
    with contextlib.suppress(Obstructed):
        disk = disk_model.settle(disk, draw(trees()))
    for host in sorted(disk.registry):
        entry = disk.registry[host]
        if isinstance(entry, Folder):
            drift = draw(st.dictionaries(_names, _files | _files | _links | _inner, max_size=1))
            disk = disk.with_host(host, Folder(mode=entry.mode, entries={**entry.entries, **drift}))
    return disk


def arbitrary_disks() -> st.SearchStrategy[Disk]:
    """Return any disk, also with records that fit nothing and things that stand in the way."""
    places = (*HOSTS, "other.test", f"{TEMPORARY}1a")
    return st.builds(
        lambda registry, state, canonical, ours, backups: Disk(
            registry=registry, state=state, is_canonical=canonical, ours=ours, backups=backups
        ),
        st.fixed_dictionaries({}, optional=dict.fromkeys(places, _hosts)),
        st.frozensets(st.sampled_from((*HOSTS, "other.test")), max_size=3),
        st.booleans(),
        st.frozensets(st.sampled_from(HOSTS), max_size=3),
        st.dictionaries(st.sampled_from(HOSTS), _saved, max_size=2),
    )


def foreign_folders() -> st.SearchStrategy[Entry]:
    """Return directories that an admin or another program made."""
    return _folders
