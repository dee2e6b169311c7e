"""The composition root of `registry-agent run`: builds everything, owns tasks and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from agent import __version__, templates
from agent.approval import NoApproval, Waiting
from agent.board import Board, Posted
from agent.containerd_health import ContainerdHealth
from agent.desired import Reading
from agent.disk.containerd import ContainerdFiles
from agent.disk.facts import NodeFacts, config_file
from agent.disk.legacy import LegacyReader
from agent.disk.node import NodeDisk, exclusive
from agent.drift import FileWatcher, Watched
from agent.errors import AgentError, SettingsInvalid
from agent.health import make_app, serving
from agent.kube import resources
from agent.kube.client import Client, Credentials
from agent.kube.cluster import Cluster
from agent.kube.credentials import InCluster, KubeconfigFile
from agent.log import ReportLog
from agent.metrics import Metrics
from agent.notify import Notifier
from agent.outcome import Mode, Outcome, Standing, Written
from agent.policy import Pace
from agent.reconcile import Reconciler
from agent.render import Renderer
from agent.report import Report, make_report
from agent.settings import Settings
from agent.source import FileSource
from agent.switch_plan import SwitchPlan, make_switch_plan
from agent.switch_ports import Approval, Leave, Systemd, Terms
from agent.switcher import Switcher
from agent.switching import LEFT_ALONE, Goal, Switched

logger = logging.getLogger(__name__)

#: A stop waits this long for a running pass; the promise is 2 s for the whole shutdown.
SHUTDOWN_PATIENCE_S = 1.2

#: The last report gets this long to reach the Node.
DRAIN_S = 0.3

#: Pause after a pass that failed or repaired drift. Drift is promised to be repaired within 1 s.
MIN_SPACING_S = 0.2


#: kubelet's own credentials: NodeRestriction lets them change this node only.
KUBELET_KUBECONFIG = "/etc/kubernetes/kubelet.conf"


_STARTED = "registry-agent %s started: mode %s, root %s, desired config from %s"


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; raises AlreadyRunning, ListenFailed or another AgentError at start."""
    stop = asyncio.Event()
    wakeup = Wakeup()
    notifier = Notifier(os.environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, wakeup, notifier)
    loop.add_signal_handler(signal.SIGHUP, wakeup.set, "reload")
    threading.excepthook = _log_thread_failure
    locked = (settings.run_dir, settings.state_dir) if settings.mode is Mode.MANAGE else (settings.run_dir,)
    with exclusive(settings.root, locked):
        board = Board(pass_timeout_s=settings.pass_timeout_s)
        metrics, log = Metrics(), ReportLog()
        legacy = make_legacy_reader(settings)
        async with (
            notifier.watched(lambda: board.is_alive),
            joined(settings, wakeup.set, metrics.count_request) as side,
            serving(make_app(board, metrics, side.facts), settings),
            _watching(_make_watcher(settings, legacy, wakeup, side)) as watcher,
        ):
            agent = Loop(
                settings,
                reconciler=build_reconciler(
                    settings, side, legacy, should_stop=stop.is_set, on_written=log.write_effects
                ),
                watcher=watcher,
                board=board,
                metrics=metrics,
                log=log,
                publish=_each(side.publish, notifier.report),
            )
            source = describe_source(settings)
            logger.info(_STARTED, __version__, settings.mode.value, settings.root, source)
            await agent.run(wakeup, stop)
    logger.info("registry-agent stopped")


class Side(Protocol):
    """Where the desired config comes from and reports go: a cluster, or a file and nowhere."""

    async def read(self, *, is_confirming: bool) -> Reading:
        """Return the desired config."""

    def publish(self, report: Report) -> None:
        """Take a report."""

    def hurry(self) -> None:
        """Files have changed: what failed for want of one may be tried at once."""

    def facts(self) -> Mapping[str, Any] | None:
        """Return the state of the cluster side for `/status`; None without a cluster."""

    @property
    def node_address(self) -> str | None:
        """The node's address as the cluster knows it."""

    @property
    def runtime_version(self) -> str | None:
        """The version of containerd as the cluster knows it."""

    @property
    def approval(self) -> Approval:
        """Permission to restart containerd."""

    def hold(self) -> Waiting | None:
        """Return what keeps containerd from being restarted."""


class FileSide(FileSource):
    """The side of a node without a cluster."""

    node_address: str | None = None
    runtime_version: str | None = None
    approval = NoApproval()

    def hold(self) -> None:
        """Hold nothing."""

    def publish(self, report: Report) -> None:
        """Report nowhere."""

    def hurry(self) -> None:
        """Have nothing that waits."""

    def facts(self) -> None:
        """Have no cluster."""


def describe_source(settings: Settings) -> str:
    """Say in words where the desired config is kept."""
    if settings.source == "file":
        return f"the file {settings.source_file}"
    return f"Secret {settings.secret_namespace}/{settings.secret_name}"


def build_reconciler(
    settings: Settings,
    side: Side,
    legacy: LegacyReader,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_written: Callable[[Written], None] = lambda _: None,
) -> Reconciler:
    """Join the adapters to the reconciler, for the daemon and for `registry-agent diff`."""
    runtime = make_runtime(settings)
    ask = None if settings.containerd == "leave" else runtime.version
    facts = NodeFacts(settings, origin=describe_source(settings), known=side, ask=ask)
    return Reconciler(
        source=side,
        disk=NodeDisk(settings.root, settings.registry_dir, settings.state_dir),
        legacy=legacy,
        containerd=make_switcher(settings, facts, side, runtime),
        node=facts,
        renderer=Renderer(templates.read("hosts.toml.j2")),
        mode=settings.mode,
        settle_s=settings.absent_settle_s,
        should_stop=should_stop,
        on_written=on_written,
    )


def make_legacy_reader(settings: Settings) -> LegacyReader:
    """Build what looks for legacy configuration in and beside the file that containerd reads."""
    return LegacyReader(settings.root, lambda: config_file(settings))


def make_runtime(settings: Settings) -> ContainerdHealth:
    """Build what asks containerd; its client is loaded with the first question."""
    path = settings.on_node(settings.containerd_socket)
    return ContainerdHealth(_Socket(path), path)


def make_switcher(settings: Settings, facts: NodeFacts, side: Side, runtime: ContainerdHealth) -> Switcher | LeaveAlone:
    """Build what points containerd at registry.d; D-Bus and CRI are loaded only when they are needed."""
    if settings.containerd == "leave":
        return LeaveAlone()
    bus, socket_path = settings.on_node(settings.system_bus), settings.on_node(settings.containerd_socket)

    def connect() -> AbstractAsyncContextManager[Systemd]:
        from agent.systemd import Systemd as Bus  # noqa: PLC0415 -- 3 MB that most passes do not need

        return Bus(bus)

    def make_plan(goal: Goal, raw: bytes | None, *, saved: bytes | None, version: str | None) -> SwitchPlan | None:
        containerd = facts.containerd(version)
        return make_switch_plan(goal, raw, saved=saved, registry_dir=settings.registry_dir, containerd=containerd)

    return Switcher(
        files=ContainerdFiles(settings.root, settings.state_dir),
        connect=connect,
        runtime=runtime,
        approval=side.approval,
        make_plan=make_plan,
        hold=side.hold,
        # Where one of these is, the node is a real one, and a bus that is not there is a failure.
        has_systemd=lambda: any(path.exists() for path in (bus.parent, socket_path)),
        unit=facts.unit,
        terms=Terms(
            restart_timeout_s=settings.restart_timeout_s,
            restarts_kubelet=settings.restart_kubelet,
        ),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
    )


class LeaveAlone:
    """For a node whose config.toml is nobody's business."""

    is_under_way = False

    async def finish(self, goal: Goal | None, *, is_observing: bool) -> None:
        """Have nothing to finish."""

    async def step(self, goal: Goal, *, is_clear: bool, leave: Leave) -> Switched:  # noqa: ARG002 -- as the port has it
        """Do nothing."""
        return LEFT_ALONE


class _Socket:
    """containerd's socket, whose client is loaded with the first question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        from agent.cri import Cri  # noqa: PLC0415 -- h2 is needed at a restart only

        return getattr(Cri(self._path), name)


def make_credentials(settings: Settings, environment: Mapping[str, str]) -> Credentials:
    """Choose the credentials: what the settings name, else the pod's, else kubelet's."""
    if not settings.kubeconfig and "KUBERNETES_SERVICE_HOST" in environment:
        return InCluster(environment)
    return KubeconfigFile(kubeconfig_path(settings), root=settings.root, context=settings.kube_context)


def kubeconfig_path(settings: Settings) -> Path:
    """Return where the agent finds the kubeconfig."""
    return settings.on_node(PurePosixPath(settings.kubeconfig or KUBELET_KUBECONFIG))


def make_cluster(settings: Settings, client: Client, wake: Callable[[str], None]) -> Cluster:
    """Build the cluster side of this node."""
    return Cluster(
        client,
        node=node_name(settings, os.environ),
        secret=resources.secret(settings.secret_namespace, settings.secret_name),
        key=settings.secret_key,
        spread_s=settings.rollout_spread_s,
        approval=settings.approval,
        slots=settings.restart_slots,
        wake=wake,
    )


def node_name(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return the name of the Node object; raises SettingsInvalid when it cannot be one."""
    name = settings.node_name or environment.get("NODE_NAME") or socket.gethostname().lower()
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        raise SettingsInvalid(f"{name!r} cannot be the name of a Node", remedy="set node_name, or NODE_NAME")
    return name


@contextlib.asynccontextmanager
async def joined(
    settings: Settings, wake: Callable[[str], None], observe: Callable[[str, str, int], None]
) -> AsyncIterator[Side]:
    """Run the side that the settings ask for; `wake` asks for a pass, `observe` sees each request."""
    if settings.source == "file":
        yield FileSide(settings.on_node(settings.source_file))
        return
    async with Client(make_credentials(settings, os.environ), observe=observe) as client:
        cluster = make_cluster(settings, client, wake)
        running = asyncio.create_task(cluster.run(), name="cluster")
        try:
            yield cluster
        finally:
            await cluster.drain(within_s=DRAIN_S)
            running.cancel()
            await asyncio.wait({running})


class Wakeup:
    """A flag, not a queue: several wake-ups while a pass runs become one more pass."""

    def __init__(self) -> None:
        """Start unset."""
        self._event = asyncio.Event()
        self._reason = ""

    def set(self, reason: str) -> None:
        """Ask for a pass."""
        self._reason = reason
        self._event.set()

    async def wait(self, timeout_s: float) -> str:
        """Return why the next pass runs: what was set, or that the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        reason = self._reason if self._event.is_set() else "timer"
        self._event.clear()
        return reason


class Loop:
    """Pass after pass, each one published."""

    def __init__(
        self,
        settings: Settings,
        *,
        reconciler: Reconciler,
        watcher: FileWatcher,
        board: Board,
        metrics: Metrics,
        log: ReportLog,
        publish: Callable[[Report], None],
    ) -> None:
        """Everything that happens between two passes is decided here."""
        self._reconciler = reconciler
        self._watcher = watcher
        self._board = board
        self._metrics = metrics
        self._publish = publish
        self._log = log
        self._pace = Pace(
            resync_s=settings.resync_interval_s, retry_min_s=settings.retry_min_s, retry_max_s=settings.retry_max_s
        )
        self._mode = settings.mode
        self._number = 0
        self._failures = 0

    async def run(self, wakeup: Wakeup, stop: asyncio.Event) -> None:
        """Run passes until `stop` is set; a pass that runs then ends at its next operation."""
        await asyncio.to_thread(self._watcher.arm)
        trigger = "start"
        stopping = asyncio.create_task(stop.wait(), name="stop")
        while not stop.is_set():
            running = asyncio.create_task(self.run_pass(trigger), name="pass")
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not await self._finish(running):
                break
            next_in_s = running.result()
            if await asyncio.to_thread(self._watcher.arm):
                wakeup.set("watches renewed")
            await self._hold(stop)
            trigger = await wakeup.wait(next_in_s)

    async def run_pass(self, trigger: str) -> float:
        """Run one pass, publish it and return the seconds until the next."""
        self._board.begin_pass()
        started = time.monotonic()
        outcome = await self._guarded_pass()
        next_in_s = self._next_in_s(outcome)
        self._number += 1
        posted = Posted(
            report=make_report(outcome, notices=self._watcher.notices),
            number=self._number,
            trigger=trigger,
            finished_at=time.time(),
            duration_s=time.monotonic() - started,
            next_in_s=next_in_s,
        )
        self._board.post(posted)
        self._metrics.update(posted)
        self._log.write(posted)
        self._publish(posted.report)
        return next_in_s

    async def _finish(self, running: asyncio.Task[float]) -> bool:
        """Let a pass end after a stop: it begins no write now, and a write that has begun is short."""
        if self._reconciler.is_asking:
            running.cancel()
            return False
        while self._reconciler.is_restarting and not running.done():
            # Whoever stops the agent bounds this: what is under way ends by itself, or is undone.
            await asyncio.wait({running}, timeout=SHUTDOWN_PATIENCE_S)
        await asyncio.wait({running}, timeout=SHUTDOWN_PATIENCE_S)
        if running.done():
            return True
        logger.warning("stopping in the middle of a pass that is computing or waiting for the disk")
        running.cancel()
        return False

    async def _hold(self, stop: asyncio.Event) -> None:
        """Keep passes that fight somebody else's writes apart, however fast the other one is."""
        report = self._board.posted.report if self._board.posted else None
        if report is not None and (report.is_drift or report.errors):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MIN_SPACING_S):
                    await stop.wait()

    async def _guarded_pass(self) -> Outcome:
        """Turn a defect of the agent into an outcome: a restart would meet the same input again."""
        try:
            return await self._reconciler.run_pass()
        except Exception as err:  # noqa: BLE001 -- the outer edge of the loop
            # Neither the error's text nor a traceback with its values: they may quote the config.
            where = "".join(traceback.format_tb(err.__traceback__))
            logger.error("internal error %s at\n%s", type(err).__name__, where)  # noqa: TRY400 -- see above
            message = f"internal error {type(err).__name__}: a defect of the agent, see its log"
            error = AgentError(message, remedy="what is on the node stays as it is; please report it")
            return Outcome(mode=self._mode, standing=Standing.UNKNOWN, steps=(), errors=(error,), is_retry_useful=True)

    def _next_in_s(self, outcome: Outcome) -> float:
        self._failures = self._failures + 1 if outcome.is_retry_useful else 0
        if outcome.is_retry_useful:
            return self._pace.after_failure(self._failures)
        if outcome.look_in_s is not None:
            return outcome.look_in_s
        return self._pace.after_success(random=random.random())  # noqa: S311 -- spreads load, guards nothing


def _each(*sinks: Callable[[Report], None]) -> Callable[[Report], None]:
    def publish(report: Report) -> None:
        for sink in sinks:
            sink(report)

    return publish


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    """Say in one line that a watcher thread failed: it costs events, which the resync makes up for."""
    name = failure.thread.name if failure.thread else "?"
    logger.warning("thread %s failed (%s): changes of files may be seen late", name, failure.exc_type.__name__)


def _stop(stop: asyncio.Event, wakeup: Wakeup, notifier: Notifier) -> None:
    notifier.stopping()
    stop.set()
    wakeup.set("stop")


@contextlib.asynccontextmanager
async def _watching(watcher: FileWatcher) -> AsyncIterator[FileWatcher]:
    watcher.start(asyncio.get_running_loop())
    try:
        yield watcher
    finally:
        await asyncio.to_thread(watcher.stop)


def _make_watcher(settings: Settings, legacy: LegacyReader, wakeup: Wakeup, side: Side) -> FileWatcher:
    def on_change() -> None:
        side.hurry()
        wakeup.set("files changed")

    return FileWatcher(lambda: _targets(settings, legacy), on_change)


def _targets(settings: Settings, legacy: LegacyReader) -> tuple[Watched, ...]:
    targets = (
        Watched(path=settings.on_node(settings.registry_dir), is_recursive=True),
        *(Watched(path=path, is_recursive=False) for path in legacy.watch_paths()),
    )
    if settings.source == "kubernetes":
        kubeconfig = kubeconfig_path(settings)
        return (*targets, Watched(path=kubeconfig.parent, is_recursive=False, names=frozenset({kubeconfig.name})))
    source = settings.on_node(settings.source_file)
    # kubelet replaces the symlink ..data when a mounted Secret or ConfigMap changes.
    return (*targets, Watched(path=source.parent, is_recursive=False, names=frozenset({source.name, "..data"})))
