"""The one error tree. Every failure an operator can meet is one of these.

A message says what is wrong and where; `remedy` says what to do about it. Neither may ever hold
file contents or a value that came from the desired config: both travel to logs, `/status` and the
Node condition.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import ClassVar

#: How many problems of one refused config are spelled out; the rest is counted.
MAX_PROBLEMS_SHOWN = 20


class AgentError(Exception):
    """A failure with a stable CamelCase reason, a message and a remedy."""

    reason = "InternalError"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Store both texts; `str()` of the error joins them."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason to refuse a config: the path of the field and the rule it breaks."""

    path: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}" if self.path else self.rule


class ConfigInvalid(AgentError):
    """The desired config breaks the contract and is refused as a whole."""

    reason = "ConfigInvalid"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Keep at least one problem; the first ones make the message."""
        shown = "; ".join(str(problem) for problem in problems[:MAX_PROBLEMS_SHOWN])
        more = len(problems) - MAX_PROBLEMS_SHOWN
        super().__init__(
            f"desired config refused: {shown}" + (f"; and {more} more" if more > 0 else ""),
            remedy="nothing on the node was changed; correct the config at its source",
        )
        self.problems = problems


class ConfigUnsupported(AgentError):
    """The desired config is valid, but this node's containerd cannot do what it asks."""

    def __init__(self, reason: str, message: str, *, remedy: str) -> None:
        """`reason` is the CamelCase word for the Node condition."""
        super().__init__(message, remedy=remedy)
        self.reason = reason


class RenderFailed(AgentError):
    """A rendered file does not say what was meant: a defect of the agent, never of its input."""

    reason = "RenderFailed"


class LastGoodUnusable(AgentError):
    """The copy of the last good config cannot be used, because it or the agent has changed."""

    reason = "LastGoodUnusable"

    def __init__(self, cause: AgentError) -> None:
        """Say what is wrong with the copy, without its values."""
        super().__init__(
            f"the kept copy of the last good config cannot be used: {cause.message}",
            remedy="what is on the node stays as it is until the source has a valid config",
        )


class SourceUnreadable(AgentError):
    """The source of the desired config cannot be read; the last good copy stays in force."""

    reason = "SourceUnreadable"


class DiskFailed(AgentError):
    """A file-system operation failed; what containerd can read is still whole."""

    reason = "DiskFailed"

    _REMEDIES: ClassVar = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "raise the quota or free some space",
        errno.EROFS: "the file system is read-only: mount it writable",
        errno.EACCES: "check the rights: is the agent running as root?",
        errno.EPERM: "check the rights: is the agent running as root?",
        errno.EMFILE: "raise the limit of open files (LimitNOFILE)",
    }

    def __init__(self, operation: str, path: str, cause: OSError) -> None:
        """Name the operation, the path and the system's word for the error."""
        self.errno = cause.errno
        text = cause.strerror or type(cause).__name__
        # A foreign file name may hold bytes that are no text; a message must always be printable.
        shown = path.encode(errors="backslashreplace").decode()
        remedy = self._REMEDIES.get(cause.errno or 0, "check the path and the disk (dmesg)")
        super().__init__(f"{operation} {shown}: {text}", remedy=remedy)


class Obstructed(AgentError):
    """Something that is not ours stands where a managed path has to be."""

    reason = "PathObstructed"


class Unsettled(AgentError):
    """registry.d is not what was written a moment ago: somebody else writes there too."""

    reason = "Unsettled"


class AlreadyRunning(AgentError):
    """Another agent works on the same root."""

    reason = "AlreadyRunning"


class SettingsInvalid(AgentError):
    """The agent's own settings are wrong."""

    reason = "SettingsInvalid"


class ListenFailed(AgentError):
    """The local health endpoint cannot be opened."""

    reason = "ListenFailed"


class AgentUnreachable(AgentError):
    """No agent answers on the local endpoint."""

    reason = "AgentUnreachable"


class CredentialsUnusable(AgentError):
    """The credentials for the Kubernetes API are not there, or cannot be used."""

    reason = "CredentialsUnusable"


class ApiFailed(AgentError):
    """A request to the Kubernetes API got no answer, or an answer that is no success."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        remedy: str = "",
        code: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """`code` is the HTTP status, None without an answer; `retry_after_s` is what the server asked for."""
        super().__init__(message, remedy=remedy)
        self.reason = reason
        self.code = code
        self.retry_after_s = retry_after_s


class LegacyPresent(AgentError):
    """Legacy registry configuration would shadow or break registry.d."""

    reason = "LegacyRegistryConfig"


class LegacyUnreadable(AgentError):
    """A containerd drop-in cannot be read, so nobody knows whether it configures registries."""

    reason = "LegacyUnreadable"


class BusGone(AgentError):
    """The system bus, or systemd on it, cannot be reached or does not answer."""

    reason = "BusGone"

    def __init__(self, message: str) -> None:
        """Say what was tried."""
        super().__init__(message, remedy="is /run/dbus/system_bus_socket there, and are systemd and dbus running?")


class UnitFailed(AgentError):
    """systemd refused a call, or could not run a command."""

    reason = "UnitFailed"

    def __init__(self, message: str, *, error_name: str = "") -> None:
        """`error_name` is the D-Bus name of a refusal."""
        super().__init__(message)
        self.error_name = error_name


class RuntimeUnavailable(AgentError):
    """A CRI or health call on containerd's socket failed."""

    reason = "RuntimeUnavailable"

    def __init__(self, call: str, code: str, details: str) -> None:
        """`code` is gRPC's word; UNIMPLEMENTED is what containerd answers while its CRI plugin is not loaded."""
        super().__init__(f"containerd did not answer {call}: {code}" + (f" ({details})" if details else ""))
        self.code = code


class RestartFailed(AgentError):
    """containerd cannot be restarted, or not with the config.toml that is wanted."""

    reason = "RestartFailed"


class CandidateRefused(AgentError):
    """containerd itself would not take the new config.toml; nothing was written."""

    reason = "CandidateRefused"

    def __init__(self, problem: str) -> None:
        """`problem` holds nothing of the file."""
        message = f"containerd would not take the new config.toml: {problem}"
        super().__init__(message, remedy="nothing was changed; look at the file and what it imports")


class ContainerdConfigChanged(AgentError):
    """Somebody has changed config.toml between the reading and the writing of it."""

    reason = "ContainerdConfigChanged"

    def __init__(self) -> None:
        """Nothing was written."""
        super().__init__("somebody has just changed config.toml", remedy="the agent looks at it again by itself")


class ContainerdUnitMissing(AgentError):
    """containerd's unit is not there, or must not be started."""

    reason = "NoContainerdUnit"

    def __init__(self, unit: str) -> None:
        """Name the unit that was looked for."""
        message = f"there is no unit {unit}, or it is masked: what containerd reads is not known"
        super().__init__(message, remedy="set containerd_unit; or containerd=leave, if config.toml is not the agent's")


class SwitchUnfinished(AgentError):
    """A switch was begun, and must not be finished because the agent only observes."""

    reason = "SwitchUnfinished"

    def __init__(self) -> None:
        """Leave it to a person."""
        message = "a switch of containerd was begun and not finished, and the agent observes"
        super().__init__(message, remedy="let the agent manage the node until it is done, or look at config.toml")


class BackupMissing(AgentError):
    """The copy of config.toml that has to come back is gone."""

    reason = "BackupMissing"


class RolledBack(AgentError):
    """containerd was not well with the new config.toml, so the old one is back; not tried again as it is."""

    reason = "RolledBack"

    def __init__(self, message: str) -> None:
        """Say what was wrong."""
        super().__init__(message, remedy="the old config.toml is back; mend the cause: any change of it is tried again")


class ApprovalLost(AgentError):
    """The permission to restart was lost while it was in use: another node may restart now as well."""

    reason = "ApprovalLost"


class ContainerdConfigUnreadable(AgentError):
    """containerd's config.toml is not text that a TOML parser accepts."""

    reason = "ContainerdConfigUnreadable"


class ContainerdConfigUnsupported(AgentError):
    """config.toml is valid TOML, but its registry section cannot be changed safely, or to no effect."""

    reason = "ContainerdConfigUnsupported"


class ContainerdEditFailed(AgentError):
    """An edit of config.toml did not give exactly what was meant: a defect of the agent; nothing was written."""

    reason = "ContainerdEditFailed"


class LegacyRestoreFailed(AgentError):
    """The saved legacy registry section cannot be put back into config.toml as it is now."""

    reason = "LegacyRestoreFailed"
