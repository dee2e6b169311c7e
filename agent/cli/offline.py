"""`validate` and `render`: a document in, words or files out, no node involved."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath
from typing import cast

from agent import templates
from agent.desired import Absent, Present, Unreadable
from agent.disk.apply import Executor
from agent.disk.directory import Calls, Directory
from agent.disk.facts import NodeFacts
from agent.errors import ConfigInvalid, ConfigUnsupported, DiskFailed, RenderFailed, SourceUnreadable
from agent.model import Notice
from agent.parse.document import Parsed, parse
from agent.plan import PublishHost
from agent.render import Rendered, Renderer
from agent.settings import Settings
from agent.source import read_file
from agent.tree import Tree


def validate(settings: Settings, file: Path, *, for_node: bool) -> int:
    """Print a readable report; returns 0 for a config that would be accepted, 1 otherwise."""
    try:
        parsed = parse(_read(file))
        notices = parsed.notices + (_render(settings, file, parsed).notices if for_node else ())
    except ConfigInvalid as err:
        print(f"{file}: refused")
        for problem in err.problems:
            print(f"  {problem}")
        return 1
    except (ConfigUnsupported, RenderFailed) as err:
        print(f"{file}: valid, but not for this containerd\n  {err}")
        return 1
    config = parsed.config
    print(f"{file}: valid{', and followed by another agent' if config.other_agent else ''}")
    print(f"  mode {config.mode}, version {config.version}")
    for host in config.hosts:
        print(f"  {host.name}: {', '.join(mirror.url for mirror in host.mirrors)}")
    _print_warnings(notices)
    return 0


def render(settings: Settings, file: Path, out: Path) -> int:
    """Write the rendered tree into `out`; returns 0. Raises AgentError."""
    rendered = _render(settings, file, parse(_read(file)))
    write_tree(rendered.tree, out)
    _print_warnings(rendered.notices)
    return 0


def write_tree(tree: Tree, out: Path) -> None:
    """Write a tree into a new or empty directory and print its paths; raises AgentError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SourceUnreadable(f"{out} is not empty", remedy="name a directory that is empty or does not exist")
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise DiskFailed("create", str(out), err) from err
    with Directory(descriptor, str(out), cast("Calls", os)) as directory:
        executor = Executor(directory, directory, directory)
        for host in tree.hosts:
            executor.run(PublishHost(directory=host))
    for path, _ in tree.files():
        print(out / path)


def _render(settings: Settings, file: Path, parsed: Parsed) -> Rendered:
    target = NodeFacts(settings, origin=f"the file {PurePosixPath(file).name}").target()
    return Renderer(templates.read("hosts.toml.j2")).render(parsed.config, target)


def _read(file: Path) -> bytes:
    match read_file(file, allow_pipe=True):
        case Present(document=document):
            return document
        case Absent():
            raise SourceUnreadable(f"{file} does not exist", remedy="name an existing file")
        case Unreadable(error=error):
            raise error


def _print_warnings(notices: tuple[Notice, ...]) -> None:
    for notice in notices:
        print(f"  warning: {notice.message}", file=sys.stderr)
