"""Trees as values, with a hosts.toml that is small but names its CA files as the real one does."""

from collections.abc import Mapping

from agent.tree import HOSTS_TOML, PUBLIC_MODE, SECRET_MODE, File, HostDirectory, Tree
from tests.support.reader import REGISTRY_DIR


def ca_name(mirror: str) -> str:
    """Return the name of a mirror's CA file."""
    return f"https-{mirror}-ca.crt"


def hosts_toml(host: str, mirrors: Mapping[str, str | None], *, note: str = "") -> bytes:
    """Return a hosts.toml for mirrors with (content) or without (None) a CA."""
    lines = [f"# {note}", "[host]"]
    for mirror, ca in mirrors.items():
        lines.append(f'[host."https://{mirror}"]')
        if ca is not None:
            lines.append(f'ca = ["{REGISTRY_DIR / host / ca_name(mirror)}"]')
    return "\n".join([*lines, ""]).encode()


def directory(host: str, mirrors: Mapping[str, str | None], *, note: str = "") -> HostDirectory:
    """Return the directory of one host, referenced files first."""
    files = [File(name=ca_name(name), content=ca.encode(), mode=PUBLIC_MODE) for name, ca in mirrors.items() if ca]
    toml = File(name=HOSTS_TOML, content=hosts_toml(host, mirrors, note=note), mode=SECRET_MODE)
    return HostDirectory(name=host, files=(*files, toml))


def tree(hosts: Mapping[str, Mapping[str, str | None]], *, note: str = "") -> Tree:
    """Return a tree from ``{host: {mirror: CA or None}}``."""
    return Tree(hosts=tuple(directory(name, hosts[name], note=note) for name in sorted(hosts)))
