"""What holds for every suite: hypothesis' settings, no task left behind, no silent skips."""

import asyncio
import inspect
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

SKIPPED = pytest.StashKey[list[str]]()

hypothesis.settings.register_profile(
    "agent",
    deadline=None,  # two busy cores make single examples slow without meaning anything
    derandomize="CI" in os.environ,  # CI judges the change at hand; developers look for news
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("agent")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that CI runs with."""
    parser.addoption("--forbid-skips", action="store_true", help="fail when a test was skipped or xfailed")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing skipped."""
    config.stash[SKIPPED] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember every test that was skipped or was expected to fail."""
    report = yield
    if report.skipped or hasattr(report, "wasxfail"):
        item.config.stash[SKIPPED].append(item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Remember every file that was skipped as a whole."""
    report = yield
    if report.skipped:
        collector.config.stash[SKIPPED].append(collector.nodeid)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the session fail when something was skipped and that is forbidden."""
    if session.config.option.forbid_skips and session.config.stash[SKIPPED]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was skipped although that is forbidden."""
    if config.option.forbid_skips:
        for name in config.stash[SKIPPED]:
            terminalreporter.write_line(f"FORBIDDEN SKIP {name}", red=True)


@pytest.fixture(autouse=True)
def _tasks_end(request: pytest.FixtureRequest) -> None:
    """Check every asynchronous test for tasks that it leaves behind."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_pending_tasks")


@pytest.fixture
async def _no_pending_tasks() -> AsyncIterator[None]:
    """Fail when tasks still run after the test and its fixtures have ended."""
    before = asyncio.all_tasks()
    yield
    pending = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    assert not pending, f"the test left tasks behind: {[task.get_name() for task in pending]}"


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """Return a folder in memory where there is one: for tests that make hundreds of nodes."""
    memory = "/dev/shm"
    path = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give properties a ceiling of their own: each is many examples, and CI has two busy cores."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.timeout(90))
