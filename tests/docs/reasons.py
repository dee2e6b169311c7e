"""Collects from the code every word that an operator may meet as a reason or as a warning's code.

Looked at is what the command imports, in functions too: a part that nothing uses yet says nothing.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = "agent.__main__"
NODE_EVENTS = "agent.node_events"
#: It speaks systemd's language.
NO_REASONS = frozenset({"agent.systemd"})

#: Words of other people in the same spelling.
NOT_REASONS = frozenset(
    {"ExecCredential", "IfAvailable", "InternalIP", "NotFound", "RegistryConfigReady", "RuntimeReady", "SafeLoader"}
)

_TWO_HUMPS = re.compile(r"[A-Z][a-z]+[A-Z][A-Za-z]*")


def reasons() -> frozenset[str]:
    """Return the reasons of errors and verdicts; those of Events and codes of warnings are no part of it."""
    found = (
        word for name, tree in _modules().items() if name not in {NODE_EVENTS, *NO_REASONS} for word in _reasons(tree)
    )
    return frozenset(found) - NOT_REASONS


def event_reasons() -> frozenset[str]:
    """Return the reasons that only Events have."""
    return frozenset(_reasons(_modules()[NODE_EVENTS]))


def warning_codes() -> frozenset[str]:
    """Return the codes of all notices."""
    return frozenset(code for tree in _modules().values() for code in _warning_codes(tree))


@functools.cache
def _modules() -> dict[str, ast.Module]:
    """Return the agent's modules by name, from the command on along their imports."""
    found: dict[str, ast.Module] = {}
    pending = [COMMAND]
    while pending:
        name = pending.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name not in found and path.exists():
            found[name] = ast.parse(path.read_text())
            pending.extend(_imported(found[name]))
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reasons(tree: ast.Module) -> Iterator[str]:
    """Yield what is called a reason, and whatever else is spelled like one."""
    codes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "code"}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(word)) if _TWO_HUMPS.fullmatch(word) and id(node) not in codes:
                yield word
            case _:
                yield from _named(node)


def _named(node: ast.AST) -> Iterator[str]:
    """Yield the words, of one hump too, that are assigned to, passed as or keyed by `reason`."""
    match node:
        case ast.Assign(targets=[ast.Name(id="reason")], value=ast.Constant(value=str(word))):
            yield word
        case ast.keyword(arg="reason", value=ast.Constant(value=str(word))) if " " not in word:
            yield word
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "reason" and isinstance(value, ast.Constant):
                    yield str(value.value)
        case _:
            pass


def _warning_codes(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
