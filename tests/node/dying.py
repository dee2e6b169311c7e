"""The agent, killed at one call that it makes: ``python -m tests.node.dying "before 1 restart" run ...``.

A moment is "before" or "after", which of the calls, and the method; then what stands in its arguments.
"""

import functools
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from agent import switcher
from agent.cli.main import main
from agent.disk.containerd import ContainerdFiles
from agent.systemd import Systemd


def _arm(when: str, number: str, method: str, *words: str) -> None:
    """Let the agent die at a method of its files or of systemd."""
    port = next(each for each in (ContainerdFiles, Systemd) if hasattr(each, method))
    call = getattr(port, method)
    numbers = itertools.count(1)

    def is_it(args: tuple[Any, ...]) -> bool:
        return all(word in args for word in words) and next(numbers) == int(number)

    wrapped = _later if inspect.iscoroutinefunction(call) else _now
    setattr(port, method, functools.wraps(call)(wrapped(call, is_it, is_before=when == "before")))


def _now(call: Callable[..., Any], is_it: Callable[[tuple[Any, ...]], bool], *, is_before: bool) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        is_end = is_it(args)
        if is_end and is_before:
            _die()
        result = call(*args, **kwargs)
        if is_end:
            _die()
        return result

    return called


def _later(
    call: Callable[..., Awaitable[Any]], is_it: Callable[[tuple[Any, ...]], bool], *, is_before: bool
) -> Callable[..., Awaitable[Any]]:
    async def called(*args: Any, **kwargs: Any) -> Any:
        is_end = is_it(args)
        if is_end and is_before:
            _die()
        result = await call(*args, **kwargs)
        if is_end:
            _die()
        return result

    return called


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    switcher.CLEAR_SETTLE_S = 0.0  # nobody edits legacy files here
    _arm(*sys.argv[1].split())
    sys.exit(main(sys.argv[2:]))
