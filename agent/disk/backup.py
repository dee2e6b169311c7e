"""Foreign host directories: saved once before a takeover, given back on release."""

from __future__ import annotations

import secrets
import stat

from agent.disk.directory import Directory, permissions
from agent.errors import Obstructed
from agent.tree import HOSTS_TOML, TEMPORARY_PREFIX, is_our_file

#: Nothing in a registry.d directory is this large; a larger file is a sign of something else.
MAX_SAVED_FILE_BYTES = 16 * 1024 * 1024


def save(registry: Directory, backups: Directory, host: str) -> None:
    """Copy ``registry/host`` into ``backups/host``, complete and durable or not at all."""
    staged = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with registry.child(host) as source:
        mode = permissions(source.own_stat())
        with backups.make_child(staged, mode=mode) as target:
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
        mode = permissions(saved.own_stat())
        if registry.stat(host) is None:
            _publish_copy(registry, saved, host, mode=mode)
            return
        with registry.child(host) as target:
            originals = [name for name in saved.names() if is_our_file(name)]
            for name in sorted(originals, key=lambda name: (name == HOSTS_TOML, name)):
                _give_back(saved, target, name)
            target.sync()
            for name in names:
                if name not in originals:
                    target.remove(name)
            target.set_mode(mode)
            target.sync()


def _publish_copy(registry: Directory, saved: Directory, host: str, *, mode: int) -> None:
    staged = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with registry.make_child(staged, mode=mode) as target:
        _copy(saved, target)
    registry.rename(staged, host)
    registry.sync()


def _give_back(saved: Directory, target: Directory, name: str) -> None:
    status = saved.stat(name)
    if status is None or stat.S_ISDIR(status.st_mode):
        return
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    _copy_entry(saved, target, name, new_name=temporary)
    target.rename(temporary, name)


def _copy(source: Directory, target: Directory) -> None:
    for name in source.names():
        if not name.startswith(TEMPORARY_PREFIX):
            _copy_entry(source, target, name, new_name=name)
    target.sync()


def _copy_entry(source: Directory, target: Directory, name: str, *, new_name: str) -> None:
    status = source.stat(name)
    if status is None:
        return
    if stat.S_ISLNK(status.st_mode):
        target.link(new_name, source.read_link(name))
    elif stat.S_ISDIR(status.st_mode):
        with source.child(name) as inner, target.make_child(new_name, mode=permissions(status)) as copy:
            _copy(inner, copy)
    else:
        content = source.read(name, max_bytes=MAX_SAVED_FILE_BYTES)
        if content is None:
            message = f"{source.path}/{name} is no plain file of at most {MAX_SAVED_FILE_BYTES} bytes"
            raise Obstructed(message, remedy="move it away, so that the directory can be saved before its takeover")
        target.create(new_name, content, mode=permissions(status))
