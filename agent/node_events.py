"""Which Events a report is worth: what people look for in `kubectl describe node`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import ApiFailed, CredentialsUnusable
from agent.outcome import Standing
from agent.report import Report
from agent.switching import LONG_WAITS, State

#: Core v1 Events allow 1,024 bytes; messages are ASCII but for foreign names.
MAX_MESSAGE = 500
MAX_PATHS_SHOWN = 3

#: An Event that the API cannot be reached helps nobody once it can be sent.
_NOT_TOLD = (ApiFailed, CredentialsUnusable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened; equal Events are counted, not repeated."""

    reason: str
    message: str
    is_warning: bool = False


def events(before: Report | None, after: Report) -> tuple[Event, ...]:
    """Return what is new in a report against the one before."""
    return tuple(_events(before, after))


def _events(before: Report | None, after: Report) -> Iterator[Event]:
    for host in after.taken_over if after.changed else ():
        message = f"registry.d/{host} was somebody else's; its content is saved and given back on release"
        yield Event(reason="ForeignDirectoryTakenOver", message=message[:MAX_MESSAGE], is_warning=True)
    if after.changed:
        yield _change(after)
    if after.switched.state is State.RESTARTED:
        yield Event(reason="ContainerdRestarted", message=after.switched.message)
    yield from _waits(before, after)
    known = {(error.reason, str(error)) for error in before.errors} if before else set()
    for error in after.errors:
        if (error.reason, str(error)) not in known and not isinstance(error, _NOT_TOLD):
            yield Event(reason=error.reason, message=str(error)[:MAX_MESSAGE], is_warning=True)


def _waits(before: Report | None, after: Report) -> Iterator[Event]:
    """Tell once what a restart waits for, if that may take long."""
    switched = after.switched
    if switched.reason in LONG_WAITS and (before is None or before.switched.reason != switched.reason):
        message = f"{switched.reason}: {switched.message}"
        yield Event(reason="ContainerdRestartWaiting", message=message[:MAX_MESSAGE])


def _change(report: Report) -> Event:
    shown = ", ".join(report.changed[:MAX_PATHS_SHOWN])
    more = len(report.changed) - MAX_PATHS_SHOWN
    paths = f"{shown}{f' and {more} more' if more > 0 else ''}"
    if report.is_drift:
        reason, message = "RegistryConfigDriftRepaired", f"drift repaired: {paths}"
    elif report.standing is Standing.NOT_CONFIGURED:
        reason, message = "RegistryConfigReleased", f"the desired config is gone, registry.d was released: {paths}"
    else:
        mode, version = report.desired_mode, report.applied_version
        reason, message = "RegistryConfigApplied", f"mode {mode}, version {version} is in place: {paths}"
    return Event(reason=reason, message=message[:MAX_MESSAGE])
