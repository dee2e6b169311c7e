"""Desired config to `Tree`: the only door to Jinja2.

Every string goes through one TOML filter, every file is parsed back with a TOML parser and compared
with what was meant before it leaves this module. Same input, same bytes.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass

import jinja2

from agent.errors import RenderFailed
from agent.hosts_toml import Composed, HostsToml, Target, ca_file_name, client_file_names, compose, meaning
from agent.model import DesiredConfig, Mirror, Notice, RegistryHost
from agent.tree import HOSTS_TOML, PUBLIC_MODE, SECRET_MODE, File, HostDirectory, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The tree, and what could not be put into it."""

    tree: Tree
    notices: tuple[Notice, ...]


class Renderer:
    """Holds the compiled template."""

    def __init__(self, template: str) -> None:
        """Compile the text of ``templates/hosts.toml.j2``."""
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # noqa: S701 -- TOML, not HTML: every string passes the toml filter
            keep_trailing_newline=True,
        )
        environment.filters["toml"] = toml_string
        environment.filters["toml_list"] = _toml_list
        self._template = environment.from_string(template)

    def render(self, config: DesiredConfig, target: Target) -> Rendered:
        """Return the files for this node, and in each hosts.toml where it comes from; raises like `render_hosts`."""
        comment = (
            "Managed by registry-agent. Do not edit: changes here are undone.",
            f"Desired config version {toml_string(config.version)}.",
            f"To change it, change {toml_string(target.origin)}.",
        )
        return self.render_hosts(config.hosts, target, comment=comment)

    def render_hosts(self, hosts: tuple[RegistryHost, ...], target: Target, *, comment: tuple[str, ...]) -> Rendered:
        """Return the files of these hosts; each hosts.toml begins with the lines of `comment`.

        Raises ConfigUnsupported when the node's containerd cannot do what the config asks, and
        RenderFailed when a rendered file would not say what was meant.
        """
        composed = [(host, compose(host, target)) for host in hosts]
        return Rendered(
            tree=Tree(hosts=tuple(self._directory(host, parts, comment) for host, parts in composed)),
            notices=tuple(notice for _, parts in composed for notice in parts.notices),
        )

    def _directory(self, host: RegistryHost, parts: Composed, comment: tuple[str, ...]) -> HostDirectory:
        # Endpoints that differ in their path only have their certificates in common.
        referenced = dict.fromkeys(file for mirror in parts.mirrors for file in _certificate_files(mirror))
        text = self._template.render(comment=comment, server=parts.file.server, endpoints=parts.file.endpoints)
        _check(host.name, text, parts.file)
        return HostDirectory(
            name=host.name,
            files=(*referenced, File(name=HOSTS_TOML, content=text.encode(), mode=SECRET_MODE)),
        )


def toml_string(value: str) -> str:
    r"""Quote a string for TOML.

    JSON's basic string is TOML's, but for DEL, which TOML wants escaped; non-ASCII must stay as it
    is, because JSON escapes astral characters as surrogate pairs, which TOML refuses.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_list(values: tuple[str, ...]) -> str:
    return f"[{', '.join(map(toml_string, values))}]"


def _certificate_files(mirror: Mirror) -> list[File]:
    files = []
    if mirror.ca:
        files.append(File(name=ca_file_name(mirror), content=_pem(mirror.ca), mode=PUBLIC_MODE))
    if mirror.client:
        certificate, key = client_file_names(mirror)
        files.append(File(name=certificate, content=_pem(mirror.client.certificate), mode=PUBLIC_MODE))
        files.append(File(name=key, content=_pem(mirror.client.key.reveal()), mode=SECRET_MODE))
    return files


def _pem(text: str) -> bytes:
    return text.encode() if text.endswith("\n") else f"{text}\n".encode()


def _check(name: str, text: str, file: HostsToml) -> None:
    expected = meaning(file)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = {}  # its message may quote the file, so it goes no further
    if found != expected or list(found["host"]) != list(expected["host"]):
        message = f"the hosts.toml rendered for {name} does not say what was meant"
        raise RenderFailed(message, remedy="nothing was written; please report this as a defect of the agent")
