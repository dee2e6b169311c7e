"""Outcome to `Report`: what the agent says about its node. Pure; every sink takes the same value.

Nothing secret gets in: of credentials only the user name, of certificates only that they are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.desired import Origin
from agent.errors import (
    AgentError,
    ConfigInvalid,
    ConfigUnsupported,
    LegacyPresent,
    LegacyUnreadable,
    RenderFailed,
)
from agent.legacy import Legacy
from agent.managers import Manager
from agent.model import DesiredConfig, Mirror, Notice, RegistryHost
from agent.outcome import Mode, Outcome, Standing, Step
from agent.runtime import Containerd
from agent.switching import State, Switched

#: What the version annotation says when nothing is desired (contract, section 0).
UNKNOWN_VERSION = "unknown"

#: A wrong document at the source: the node keeps the last good one, but is not what is wanted.
_REFUSALS = (ConfigInvalid, ConfigUnsupported, RenderFailed)

#: registry.d may be right, but these keep containerd from reading it alone.
_LEGACY = (LegacyPresent, LegacyUnreadable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the node is what the desired config says, in a word and in a sentence."""

    is_ready: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One registry host and whether its directory is what it should be."""

    host: RegistryHost
    is_in_place: bool
    is_taken_over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the agent publishes after a pass."""

    verdict: Verdict
    mode: Mode
    standing: Standing
    desired_version: str | None
    desired_origin: Origin | None
    desired_as_of: float | None
    desired_mode: str | None
    images_base: str | None
    applied_version: str
    #: What the version annotation may say: None when no config is fully applied.
    published_version: str | None
    legacy: Legacy | None
    managers: tuple[Manager, ...]
    containerd: Containerd | None
    switched: Switched
    hosts: tuple[HostReport, ...]
    pending: tuple[str, ...]
    changed: tuple[str, ...]
    taken_over: tuple[str, ...]
    is_drift: bool
    steps: tuple[Step, ...]
    warnings: tuple[Notice, ...]
    errors: tuple[AgentError, ...]


def make_report(outcome: Outcome, *, notices: tuple[Notice, ...] = ()) -> Report:
    """Say what a pass means for the node; `notices` are warnings from outside the pass."""
    config = outcome.config
    paths = outcome.plan.changed_paths
    is_pending = not outcome.is_in_place
    return Report(
        verdict=_verdict(outcome),
        mode=outcome.mode,
        standing=outcome.standing,
        desired_version=config.version if config else None,
        desired_origin=outcome.origin,
        desired_as_of=outcome.as_of,
        desired_mode=config.mode if config else None,
        images_base=config.images_base if config else None,
        applied_version=config.version if config and outcome.is_applied else UNKNOWN_VERSION,
        published_version=_published_version(outcome),
        legacy=outcome.legacy,
        managers=outcome.managers,
        containerd=outcome.containerd,
        switched=outcome.switched,
        hosts=_hosts(config, outcome) if config else (),
        pending=paths if is_pending else (),
        changed=() if is_pending else paths,
        taken_over=outcome.plan.taken_over,
        is_drift=outcome.is_drift,
        steps=outcome.steps,
        warnings=(*outcome.notices, *notices),
        errors=outcome.errors,
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as `/status` shows it."""
    return {
        "ready": report.verdict.is_ready,
        "reason": report.verdict.reason,
        "message": report.verdict.message,
        "mode": report.mode.value,
        "standing": report.standing.value,
        "desired": {
            "version": report.desired_version,
            "mode": report.desired_mode,
            "images_base": report.images_base,
            "origin": report.desired_origin.value if report.desired_origin else None,
        },
        "applied_version": report.applied_version,
        "legacy": report.legacy.label if report.legacy else None,
        "managers": [{"reason": other.reason, "message": other.message} for other in report.managers],
        "containerd": {
            "version": str(report.containerd.version) if report.containerd and report.containerd.version else None,
            "flavour": report.containerd.flavour.value if report.containerd else None,
            "state": report.switched.state.value,
            "reason": report.switched.reason,
            "message": report.switched.message,
            "detail": report.switched.detail,
        },
        "hosts": [_host_json(host) for host in report.hosts],
        "pending": list(report.pending),
        "steps": [
            {"name": step.name, "result": step.result.value, "duration_s": round(step.duration_s, 6)}
            for step in report.steps
        ],
        "warnings": [{"code": notice.code, "message": notice.message} for notice in report.warnings],
        "errors": [
            {"reason": error.reason, "message": error.message, "remedy": error.remedy} for error in report.errors
        ],
    }


def _published_version(outcome: Outcome) -> str | None:
    is_custom = outcome.legacy is None or outcome.legacy.is_custom
    if not outcome.is_applied:
        return None
    if outcome.standing is Standing.NOT_CONFIGURED:
        return UNKNOWN_VERSION
    return outcome.config.version if outcome.config and not is_custom else None


def _verdict(outcome: Outcome) -> Verdict:
    is_blocking = (*_REFUSALS, *_LEGACY)
    blocking = [error for error in outcome.errors if isinstance(error, is_blocking) or not outcome.is_applied]
    if blocking:
        return Verdict(is_ready=False, reason=blocking[0].reason, message=str(blocking[0]))
    if not outcome.is_complete:
        return Verdict(is_ready=False, reason="Interrupted", message="the agent was stopped before it was done")
    if outcome.switched.state is State.WAITING:
        return Verdict(is_ready=False, reason=outcome.switched.reason, message=outcome.switched.message)
    return _observing_verdict(outcome) if outcome.managers else _standing_verdict(outcome)


def _observing_verdict(outcome: Outcome) -> Verdict:
    """Say who else is in charge, and what the agent would do if it were."""
    standing, other = _standing_verdict(outcome), outcome.managers[0]
    message = f"{other.message}: the agent observes; {standing.message}"
    return Verdict(is_ready=standing.is_ready, reason=other.reason, message=message)


def _standing_verdict(outcome: Outcome) -> Verdict:
    match outcome.standing:
        case Standing.NOT_CONFIGURED:
            message = "no desired config: the agent manages nothing on this node"
            return Verdict(is_ready=outcome.is_in_place, reason="NotConfigured", message=message)
        case Standing.OTHER_AGENT:
            message = "another node agent owns registry.d (an agent block or .managed-by-agent): standing down"
            return Verdict(is_ready=False, reason="OtherAgent", message=message)
        case Standing.CONFIRMING_DELETION:
            message = "the desired config is gone; it is read once more before the node is released"
            return Verdict(is_ready=outcome.is_in_place, reason="ConfirmingDeletion", message=message)
        case _:
            return _configured_verdict(outcome)


def _configured_verdict(outcome: Outcome) -> Verdict:
    if outcome.is_applied and outcome.errors:
        message = f"registry.d is what the last good config says; {outcome.errors[0]}"
        return Verdict(is_ready=True, reason="LastGoodInPlace", message=message)
    if outcome.is_applied:
        return Verdict(is_ready=True, reason="InPlace", message="registry.d is what the desired config says")
    count = len(outcome.plan.changed_paths)
    is_switched = outcome.switched.state is not State.WOULD_CHANGE
    message = f"mode observe: {count} paths in registry.d{'' if is_switched else ', and config.toml,'} differ"
    return Verdict(is_ready=False, reason="WouldChange", message=message)


def _hosts(config: DesiredConfig, outcome: Outcome) -> tuple[HostReport, ...]:
    touched = outcome.plan.changed_hosts
    return tuple(
        HostReport(
            host=host,
            # A plan that could not be made says nothing about a single host.
            is_in_place=outcome.is_in_place or (bool(touched) and host.name not in touched),
            is_taken_over=host.name in outcome.saved or host.name in outcome.plan.taken_over,
        )
        for host in config.hosts
    )


def _host_json(report: HostReport) -> dict[str, Any]:
    host = report.host
    return {
        "host": host.name,
        "in_place": report.is_in_place,
        "taken_over": report.is_taken_over,
        "server": host.server,
        "fallback": host.fallback,
        "mirrors": [_mirror_json(mirror) for mirror in host.mirrors],
    }


def _mirror_json(mirror: Mirror) -> dict[str, Any]:
    return {
        "url": mirror.url,
        "capabilities": [capability.value for capability in mirror.capabilities],
        "ca": mirror.ca is not None,
        "client_certificate": mirror.client is not None,
        "user": mirror.auth.username if mirror.auth else None,
        "rewrites": len(mirror.rewrites),
    }
