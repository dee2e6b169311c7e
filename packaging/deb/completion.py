"""Makes the bash completion from the command line's own parser."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from agent.cli.main import _parser
from agent.settings import options


def script() -> str:
    """Return what bash-completion loads for `registry-agent`."""
    parser = _parser()
    _teach(parser)
    return shtab.complete(parser, shell="bash")


def _teach(parser: argparse.ArgumentParser) -> None:
    """Add what argparse does not know, because the settings check their values themselves."""
    choices = {option.name: option.choices for option in options() if option.choices}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _teach(command)
        elif action.dest in choices:
            action.choices = choices[action.dest]
        elif action.type is Path or action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own
