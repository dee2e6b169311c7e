"""Parses the command line and maps outcomes to exit codes. Nothing else ends the process."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import __version__, stderr
from agent.cli import commands
from agent.errors import AgentError
from agent.settings import Option, Settings, load, options

EXIT_CODES = """\
exit codes:
  0  success; node ready (status); no difference (diff); nothing found (legacy)
  1  refused or failed; node not ready (status); differences (diff); something found (legacy)
  2  wrong usage; nothing to work on (no such file, no agent running); no diff possible;
     legacy configuration that cannot be read
"""

_RENDER_SETTINGS = {"registry_dir", "flavour", "containerd_version", "node_ip"}
_LEGACY_SETTINGS = {"root", "registry_dir", "flavour", "containerd_version"}
_RELEASE_SETTINGS = {
    *("root", "registry_dir", "state_dir", "run_dir", "beside_others", "containerd", "containerd_unit"),
    *("containerd_socket", "system_bus", "restart_timeout_s", "restart_kubelet", "containerd_version"),
}
_STATUS_SETTINGS = {"root", "run_dir"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = _parser()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    namespace = parser.parse_args(arguments)
    try:
        settings = _settings(vars(namespace), os.environ) if namespace.has_settings else Settings()
        code: int = namespace.command(settings, namespace)
        sys.stdout.flush()
    except AgentError as err:
        print(stderr.complaint(err, os.environ), file=sys.stderr)
        return commands.exit_code(err)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _settings(given: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    flags = {option.name: str(given[option.name]) for option in options() if given.get(option.name) is not None}
    config = given.get("config")
    return load(flags, environment, config=Path(str(config)) if config else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="registry-agent",
        description="Keeps a node's containerd registry configuration what the cluster wants.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"registry-agent {__version__}")
    known = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = _command(known, "run", commands.run, "run the agent until it gets SIGTERM or SIGINT")
    _add_settings(run, None)

    diff = _command(known, "diff", commands.diff, "show what the agent would change on this node, secrets masked")
    diff.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")
    _add_settings(diff, None)

    validate = _command(known, "validate", commands.validate, "check a desired config without touching anything")
    validate.add_argument("file", type=Path, metavar="FILE", help="the document, or a Secret's manifest around it")
    _add_settings(validate, _RENDER_SETTINGS)

    render = _command(known, "render", commands.render, "write the files of a desired config into a new directory")
    render.add_argument("file", type=Path, metavar="FILE", help="the document, or a Secret's manifest around it")
    render.add_argument("--out", type=Path, required=True, metavar="DIR", help="must be empty or not exist")
    _add_settings(render, _RENDER_SETTINGS)

    legacy = _command(
        known, "legacy", commands.legacy, "show registry configuration that keeps containerd from registry.d"
    )
    form = legacy.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--convert", type=Path, metavar="DIR", help="write what it says as registry.d; must be empty or not exist"
    )
    _add_settings(legacy, _LEGACY_SETTINGS)

    release = _command(
        known, "release", commands.release, "take the node back: what the agent wrote goes, what was there before comes"
    )
    _add_settings(release, _RELEASE_SETTINGS)

    status = _command(known, "status", commands.status, "ask the running agent how the node is")
    status.add_argument("--json", action="store_true", help="print the agent's /status as it is")
    _add_settings(status, _STATUS_SETTINGS)

    version = _command(known, "version", commands.version, "print the version")
    version.set_defaults(has_settings=False)
    return parser


def _command(
    known: argparse._SubParsersAction[argparse.ArgumentParser], name: str, action: commands.Command, text: str
) -> argparse.ArgumentParser:
    command = known.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=action, has_settings=True)
    return command


def _add_settings(parser: argparse.ArgumentParser, names: set[str] | None) -> None:
    group = parser.add_argument_group(
        "settings", "Each is also an environment variable and a key of the settings file; flags win."
    )
    group.add_argument("--config", metavar="FILE", help="settings file (default: /etc/registry-agent/config.toml)")
    for option in options():
        if names is None or option.name in names:
            group.add_argument(option.flag, dest=option.name, help=_help(option), metavar=_metavar(option))


def _help(option: Option) -> str:
    # argparse formats help with %, so a percent sign has to be doubled.
    return f"{option.description} [default: {option.default or 'empty'}; {option.variable}]".replace("%", "%%")


def _metavar(option: Option) -> str:
    return "|".join(option.choices) if option.choices else option.name.rpartition("_")[2].upper()
