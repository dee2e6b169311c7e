r"""Rewrite rules are Go regexps and Go replacement templates; this says whether Go would take them.

Go's `regexp` and Google's RE2 share their syntax; the one thing RE2 has on top is ``\C``. A pattern
that does not compile makes containerd drop the whole hosts.toml, so it must be found here. RE2 is
imported when the first rewrite is seen: most configs have none, and it costs 2.6 MiB.
"""

from __future__ import annotations

import re

_REFERENCE = re.compile(r"\$(?:\$|\{(?P<braced>\w+)\}|(?P<bare>\w+)|)")
#: ``\C`` is RE2's alone; ``(?<name>`` is Go's from 1.22, ``(?P<name>`` everybody's.
_NOT_IN_GO = re.compile(r"(?<!\\)(?:\\\\)*(?:\\C|\(\?<)")
_LITERAL = re.compile(r"\^?(?P<text>[\w/:-]*)\$?")
_IDENTITY = {r"(.*)", r"^(.*)", r"(.*)$", r"^(.*)$", r"(.+)", r"^(.+)", r"(.+)$", r"^(.+)$"}

#: RE2's default of 8 MiB lets one pattern take 0.1 s; a path rewrite needs some kilobytes.
MAX_PATTERN_MEMORY = 256 * 1024
MAX_DIFFERENT_PATTERNS = 1000

BAD_PATTERN = "must be a regular expression that Go compiles (RE2: no look-around, no backreferences, not huge)"


class RewriteChecker:
    """Checks the rewrites of one document; mirrors usually share them, so each is compiled once."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._groups: dict[str, frozenset[str] | None] = {}

    def problems(self, pattern: str, replacement: str) -> tuple[str | None, str | None]:
        """Return what is wrong with `from` and with `to`, each None when it is right."""
        if pattern not in self._groups:
            if len(self._groups) >= MAX_DIFFERENT_PATTERNS:
                return f"is one of more than {MAX_DIFFERENT_PATTERNS} different patterns in the document", None
            self._groups[pattern] = _groups(pattern)
        groups = self._groups[pattern]
        return (BAD_PATTERN, None) if groups is None else (None, _replacement_problem(replacement, groups))


def _groups(pattern: str) -> frozenset[str] | None:
    """Return the names and numbers of the groups, None when Go would not compile the pattern."""
    import re2  # noqa: PLC0415 -- 2.6 MiB that a config without rewrites does not pay

    options = re2.Options()
    options.log_errors = False  # RE2 would print the pattern to stderr
    options.max_mem = MAX_PATTERN_MEMORY
    if _NOT_IN_GO.search(pattern):
        return None
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError):
        return None
    return frozenset(map(str, range(compiled.groups + 1))) | frozenset(compiled.groupindex)


def is_noop(pattern: str, replacement: str) -> bool:
    """Tell whether the rule provably leaves every name as it is (the simple forms only)."""
    if pattern in _IDENTITY:
        return replacement in {"$1", "${1}", "$0", "${0}"}
    literal = _LITERAL.fullmatch(pattern)
    return literal is not None and literal["text"] == replacement


def _replacement_problem(replacement: str, groups: frozenset[str]) -> str | None:
    for reference in _REFERENCE.finditer(replacement):
        name = reference["braced"] or reference["bare"]
        if name is None and reference.group() != "$$":
            return "has a '$' that refers to nothing (write $$ for a dollar sign)"
        if name is not None and name not in groups:
            return "refers to a group that `from` does not have (${1}text, not $1text)"
    return None
