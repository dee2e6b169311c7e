"""One function per command: settings and arguments in, exit code out."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
from collections.abc import Callable

from agent import __version__, stderr
from agent.errors import AgentError, AgentUnreachable, AlreadyRunning, SettingsInvalid, SourceUnreadable
from agent.outcome import Mode, Outcome
from agent.report import make_report
from agent.settings import Settings
from agent.switching import State

Command = Callable[[Settings, argparse.Namespace], int]

OK = 0
FAILED = 1
TROUBLE = 2

_TROUBLE_ERRORS = (SettingsInvalid, AlreadyRunning, AgentUnreachable, SourceUnreadable)


def exit_code(error: AgentError) -> int:
    """Return the exit code for an error that ended a command."""
    return TROUBLE if isinstance(error, _TROUBLE_ERRORS) else FAILED


def run(settings: Settings, _: argparse.Namespace) -> int:
    """Run the daemon."""
    from agent import daemon  # noqa: PLC0415 -- loads aiohttp, Jinja2 and watchdog: only where needed

    handler = logging.StreamHandler()
    handler.setFormatter(stderr.formatter(os.environ))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("watchdog").setLevel(logging.WARNING)  # it logs every event at debug
    asyncio.run(daemon.run(settings))
    return OK


def diff(settings: Settings, arguments: argparse.Namespace) -> int:
    """Show what a pass would change."""
    from agent.cli import difference  # noqa: PLC0415 -- see run

    logging.basicConfig(level=logging.CRITICAL)  # what the cluster side says is in the report
    # No settle time: a deleted config is shown as what it will lead to.
    observing = settings.model_copy(update={"mode": Mode.OBSERVE, "absent_settle_s": 0})
    outcome = asyncio.run(_observe(observing))
    report = make_report(outcome)
    for notice in report.warnings:
        print(f"registry-agent: warning: {notice.message}", file=sys.stderr)
    for error in outcome.errors:
        print(f"registry-agent: error: {error}", file=sys.stderr)
    if report.verdict.reason in {"OtherAgent", "NotConfigured"}:
        print(f"registry-agent: {report.verdict.message}", file=sys.stderr)
    is_terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    use_color = arguments.color == "always" or (arguments.color == "auto" and is_terminal)
    for line in difference.lines(outcome.plan, settings):
        print(difference.colored(line) if use_color else line)
    is_switch = outcome.switched.state is State.WOULD_CHANGE
    if is_switch:
        print("~ containerd's config.toml is pointed at registry.d, and containerd restarted once")
    if outcome.errors or report.verdict.reason == "OtherAgent":
        return TROUBLE
    return FAILED if outcome.plan.operations or is_switch else OK


async def _observe(settings: Settings) -> Outcome:
    """Run one pass that writes and reports nothing."""
    from agent import daemon  # noqa: PLC0415 -- see run

    async with daemon.joined(settings, lambda _reason: None, lambda _verb, _kind, _code: None) as side:
        return await daemon.build_reconciler(settings, side, daemon.make_legacy_reader(settings)).run_pass()


def release(settings: Settings, _: argparse.Namespace) -> int:
    """Take the node back by hand."""
    from agent.cli import release as back  # noqa: PLC0415 -- see run

    logging.basicConfig(level=logging.CRITICAL)  # all is printed
    return back.release(settings)


def validate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Check a document; with a setting about the node also whether that containerd can do what it asks."""
    from agent.cli import offline  # noqa: PLC0415 -- loads pydantic models and YAML

    is_node_known = settings.flavour != "auto" or settings.containerd_version != "auto" or bool(settings.node_ip)
    return offline.validate(settings, arguments.file, for_node=is_node_known)


def render(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write the tree of a document somewhere."""
    from agent.cli import offline  # noqa: PLC0415 -- see validate

    return offline.render(settings, arguments.file, arguments.out)


def legacy(settings: Settings, arguments: argparse.Namespace) -> int:
    """Show legacy registry configuration and other managers, or write what it says as registry.d."""
    from agent.cli import legacy as found  # noqa: PLC0415 -- see validate

    if arguments.convert is not None:
        return found.convert(settings, arguments.convert)
    return found.show(settings, as_json=arguments.json)


def status(settings: Settings, arguments: argparse.Namespace) -> int:
    """Ask the running agent."""
    from agent.cli import ask  # noqa: PLC0415 -- keeps `version` and --help fast

    found = ask.status(settings.on_node(settings.run_dir))
    print(json.dumps(found, indent=2) if arguments.json else ask.table(found))
    return OK if found["ready"] else FAILED


def version(_: Settings, __: argparse.Namespace) -> int:
    """Print the version."""
    print(f"registry-agent {__version__} (Python {platform.python_version()})")
    return OK
