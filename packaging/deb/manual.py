"""Makes the man page from the command line's own parser and the settings' own texts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from agent import __version__
from agent.cli.main import EXIT_CODES, _parser
from agent.settings import Option, options

_ABOUT = """\
registry-agent makes containerd's registry configuration on this node, /etc/containerd/registry.d, what one document
says: the desired config, from a Secret of the cluster or from a file. It replaces files atomically, repairs drift,
and says on the Node and on its own endpoint what became of it. The unit registry-agent.service runs it.
"""
_SETTINGS = """\
Each is a flag, an environment variable and a key of the settings file; the first that is set wins. --config FILE names
another settings file.
"""
_SIGNALS = {
    "SIGTERM, SIGINT": "End: a write that has begun is finished, nothing is undone.",
    "SIGHUP": "Run a pass at once, as systemctl reload does. The settings are read at start only.",
}
_FILES = {
    "/etc/registry-agent/config.toml": "Settings: NAME = VALUE, as TOML.",
    "/etc/registry-agent/desired.yaml": 'The desired config with source = "file".',
    "/etc/registry-agent/release-on-remove": "If it exists, removing the package releases the node first.",
    "/etc/containerd/registry.d": "What the agent writes; its own directories only.",
    "/var/lib/registry-agent": "What it needs to go on, and what was there before. Holds passwords; 0700.",
    "/run/registry-agent/agent.sock": "Answers /healthz, /readyz, /status and /metrics.",
}


def page(*, date: str) -> str:
    """Return registry-agent(8) as roff."""
    parser = _parser()
    title = f'.TH REGISTRY-AGENT 8 {date} "registry-agent {__version__}" "System Administration"'
    name = [".SH NAME", "registry-agent \\- keeps containerd's registry configuration what the cluster wants"]
    synopsis = [".SH SYNOPSIS", ".B registry-agent", r"\fICOMMAND\fR [\fIOPTION\fR]..."]
    lines = [title, *name, *synopsis, ".SH DESCRIPTION", _text(_ABOUT), ".SH COMMANDS"]
    for command in _commands(parser):
        lines += [*_term(command.prog.partition(" ")[2], command.description or ""), *_own_options(command)]
    lines += [".SH SETTINGS", _text(_SETTINGS)]
    for option in options():
        lines += _term(_flag(option), f"{option.description} Default: {option.default or 'empty'}.")
        lines += [".br", _text(option.variable)]
    for heading, entries in (("SIGNALS", _SIGNALS), ("FILES", _FILES)):
        lines += [f".SH {heading}", *(line for entry in entries.items() for line in _term(*entry))]
    exits = EXIT_CODES.partition("\n")[2].rstrip()
    lines += [".SH EXIT STATUS", ".nf", _text(exits), ".fi"]
    lines += [".SH SEE ALSO", r"\fBcontainerd\fR(8), \fBsystemctl\fR(1)"]
    return "\n".join(lines) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _own_options(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield what only this command knows; settings have a section of their own."""
    settings = {option.name for option in options()} | {"help", "config"}
    for action in command._actions:
        if action.dest not in settings:
            value = action.metavar or "|".join(action.choices or ())
            name = " ".join(filter(None, (*action.option_strings, f"{value}")))
            yield from (".RS", *_term(name, f"{action.help or ''}"), ".RE")


def _flag(option: Option) -> str:
    return f"{option.flag} {'|'.join(option.choices) or option.name.rpartition('_')[2].upper()}"


def _term(name: str, text: str) -> list[str]:
    return [".TP", rf"\fB{_text(name)}\fR", _text(text)]


def _text(text: str) -> str:
    """Escape what roff would take for its own."""
    escaped = text.strip("\n").replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n"))
