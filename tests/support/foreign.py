"""A directory in registry.d that somebody has made, with owners and modes of their own; needs root."""

import os
import stat
from pathlib import Path

SOMEBODY = 1234
"""Whose files they are when they came with `tar` or `rsync -a`."""


def configured(root: Path) -> Path:
    """Let somebody configure r0.test on a node, and return the directory."""
    directory = root / "etc/containerd/registry.d/r0.test"
    directory.mkdir(parents=True)
    for name, mode in (("hosts.toml", 0o640), ("client.key", 0o600)):
        (directory / name).write_text(f"[host] # {name}\n")
        os.chown(directory / name, SOMEBODY, SOMEBODY)
        (directory / name).chmod(mode)
    os.chown(directory, SOMEBODY, SOMEBODY)
    directory.chmod(0o2750)
    return directory


def shape(directory: Path) -> dict[str, tuple[int, int, str, bytes]]:
    """Return owner, group, mode and content of a directory and what is in it."""
    found = {}
    for path in (directory, *sorted(directory.iterdir())):
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[path.name] = (status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode)), content)
    return found
