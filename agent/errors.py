"""The one error tree. Every failure an operator can meet is one of these.

A message says what is wrong and where; `remedy` says what to do about it. Neither may ever hold
file contents or a value that came from the desired config: both travel to logs, `/status` and the
Node condition.
"""

from __future__ import annotations

from dataclasses import dataclass

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


class SourceUnreadable(AgentError):
    """The source of the desired config cannot be read; the last good copy stays in force."""

    reason = "SourceUnreadable"


class DiskFailed(AgentError):
    """A file-system operation failed; what containerd can read is still whole."""

    reason = "DiskFailed"

    def __init__(self, operation: str, path: str, cause: OSError) -> None:
        """Name the operation, the path and the system's word for the error."""
        self.errno = cause.errno
        text = cause.strerror or type(cause).__name__
        # A foreign file name may hold bytes that are no text; a message must always be printable.
        shown = path.encode(errors="backslashreplace").decode()
        super().__init__(
            f"{operation} {shown}: {text}",
            remedy="nothing was left half-written; the agent tries again by itself",
        )


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
