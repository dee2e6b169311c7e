"""Foreign host directories: saved once before a takeover, given back on release."""

from __future__ import annotations

import secrets
import stat

from agent.disk.directory import Directory, owner_of, permissions
from agent.errors import Obstructed
from agent.tree import HOSTS_TOML, TEMPORARY_PREFIX, is_our_file

#: Nothing in a registry.d directory is this large; a larger file is a sign of something else.
MAX_SAVED_FILE_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 16


def save(registry: Directory, backups: Directory, host: str) -> None:
    """Copy ``registry/host`` into ``backups/host``, complete and durable or not at all."""
    staged = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with registry.child(host) as source:
        status = source.own_stat()
        with backups.make_child(staged, mode=permissions(status), owner=owner_of(status)) as target:
            _copy(source, target)
    backups.remove(host)
    backups.rename(staged, host)
    backups.sync()


def restore(registry: Directory, backups: Directory, host: str, names: tuple[str, ...]) -> None:
    """Give the saved files back under their names and remove ours; runs again after a crash.

    `names` are the files in the directory that bear our names now. What others put beside them was
    never touched and stays.
    """
    with backups.child(host) as saved:
        if registry.stat(host) is None:
            _publish_copy(registry, saved, host)
            return
        with registry.child(host) as target:
            originals = [name for name in saved.names() if is_our_file(name)]
            for name in sorted(originals, key=lambda name: (name == HOSTS_TOML, name)):
                _give_back(saved, target, name)
            target.sync()
            for name in names:
                if name not in originals:
                    target.remove(name)
            status = saved.own_stat()
            target.set_mode(permissions(status), owner=owner_of(status))
            target.sync()


def _publish_copy(registry: Directory, saved: Directory, host: str) -> None:
    staged = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    status = saved.own_stat()
    with registry.make_child(staged, mode=permissions(status), owner=owner_of(status)) as target:
        _copy(saved, target)
    registry.rename(staged, host)
    registry.sync()


def _give_back(saved: Directory, target: Directory, name: str) -> None:
    status = saved.stat(name)
    if status is None or stat.S_ISDIR(status.st_mode):
        return
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    _copy_entry(saved, target, name, new_name=temporary)
    in_the_way = target.stat(name)
    if in_the_way is not None and stat.S_ISDIR(in_the_way.st_mode):
        target.remove(name)
    target.rename(temporary, name)


def _copy(source: Directory, target: Directory, *, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        message = f"{source.path} is nested deeper than {MAX_DEPTH} directories"
        raise Obstructed(message, remedy="move it away, so that the rest can be saved before its takeover")
    for name in source.names():
        if not name.startswith(TEMPORARY_PREFIX):
            _copy_entry(source, target, name, new_name=name, depth=depth)
    target.sync()


def _copy_entry(source: Directory, target: Directory, name: str, *, new_name: str, depth: int = 0) -> None:
    status = source.stat(name)
    if status is None:
        return
    if stat.S_ISLNK(status.st_mode):
        target.link(new_name, source.read_link(name))
    elif stat.S_ISDIR(status.st_mode):
        mode, owner = permissions(status), owner_of(status)
        with source.child(name) as inner, target.make_child(new_name, mode=mode, owner=owner) as copy:
            _copy(inner, copy, depth=depth + 1)
    else:
        content = source.read(name, max_bytes=MAX_SAVED_FILE_BYTES)
        if content is None:
            message = f"{source.path}/{name} is no plain file of at most {MAX_SAVED_FILE_BYTES} bytes"
            raise Obstructed(message, remedy="move it away, so that the directory can be saved before its takeover")
        target.create(new_name, content, mode=permissions(status), owner=owner_of(status))
