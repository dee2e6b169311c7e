"""Whether containerd has to be pointed at registry.d, or back, now: one step per pass.

Whatever takes long is a state to come back to, never a wait: approval, budget, hold, a unit that is
busy. A node that is as it should be asks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from agent import permission, switching, threads
from agent.approval import Waiting
from agent.errors import (
    AgentError,
    BusGone,
    CandidateRefused,
    ContainerdUnitMissing,
    RestartFailed,
    SwitchUnfinished,
)
from agent.journal import Journal
from agent.model import Notice
from agent.permission import Permission
from agent.restarter import Restarter
from agent.switch_plan import SwitchPlan, dump_problem
from agent.switch_ports import Approval, Files, Leave, MakePlan, Runtime, Service, Systemd, Terms, Wait
from agent.switching import LEFT_ALONE, SETTLING, ConfigFile, Goal, Loaded, Record, State, Switched
from agent.unit import Unit

#: The legacy files must have been gone for this long before containerd is touched: editors take a file
#: away before they write it anew.
CLEAR_SETTLE_S = 2.0

CHECK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What a step works on."""

    service: Service
    unit: Unit
    plan: SwitchPlan
    config: ConfigFile
    record: Record
    sign: str | None


class Switcher:
    """One step at a time; remembers only what was checked last and since when the legacy files are gone."""

    def __init__(
        self,
        *,
        files: Files,
        connect: Callable[[], AbstractAsyncContextManager[Systemd]],
        runtime: Runtime,
        approval: Approval,
        make_plan: MakePlan,
        hold: Callable[[], Waiting | None],
        has_systemd: Callable[[], bool],
        unit: Callable[[], str],
        terms: Terms,
        boot_id: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask nobody yet; `unit` names containerd's unit, which may change under a running agent.

        `has_systemd` says that there has to be a systemd to ask: a node in a folder has none.
        """
        self._files = files
        self._connect = connect
        self._runtime = runtime
        self._make_plan = make_plan
        self._has_systemd = has_systemd
        self._unit = unit
        self._clock = clock
        self._monotonic = monotonic
        self._journal = Journal(files)
        self._permission = Permission(approval)
        self._restarter = Restarter(
            files=files,
            runtime=runtime,
            permission=self._permission,
            journal=self._journal,
            hold=hold,
            terms=terms,
            boot_id=boot_id,
            clock=clock,
            monotonic=monotonic,
        )
        self._clear_since: float | None = None
        self._checked = ""
        self._is_at_work = False

    @property
    def is_under_way(self) -> bool:
        """Whether a switch is being carried out."""
        return self._is_at_work and self._journal.is_under_way

    async def finish(self, goal: Goal | None, *, is_observing: bool) -> Switched | None:
        """Finish or undo what a crash has left under way; None when nothing is, or was given up for another goal.

        `goal` is what is wanted now, None when nobody knows. Asks nobody as long as nothing is under way.
        """
        return await self._tried(lambda: self._finish(goal, is_observing=is_observing))

    async def step(self, goal: Goal, *, is_clear: bool, leave: Leave) -> Switched:
        """Bring containerd nearer to the goal; `is_clear` says that no legacy configuration is in the way."""
        if not is_clear:
            self._clear_since = None
        elif self._clear_since is None:
            self._clear_since = self._monotonic()
        return await self._tried(lambda: self._step(goal, leave)) or LEFT_ALONE

    async def _tried(self, act: Callable[[], Awaitable[Switched | None]]) -> Switched | None:
        """Let a step end: unless it waits for permission, it has none when it has ended."""
        self._is_at_work = True
        try:
            result = await act()
        except Wait as wait:
            result = wait.switched
        except AgentError as err:
            result = Switched(state=State.FAILED, reason=err.reason, message=str(err), errors=(err,))
        finally:
            self._is_at_work = False
        if result is not None and result.reason != permission.REASON:
            await self._permission.give_back()
        return result

    async def _finish(self, goal: Goal | None, *, is_observing: bool) -> Switched | None:
        record, _ = await self._journal.read()
        if record.under_way is None:
            return None
        if is_observing:
            raise SwitchUnfinished
        async with self._connect() as systemd:
            service = Service(systemd=systemd, name=self._unit())
            record = await self._located(await _present(service), record)
            assert record.under_way is not None, "it was there"
            return await self._restarter.resume(service, record, record.under_way, goal)

    async def _step(self, goal: Goal, leave: Leave) -> Switched:
        record, notices = await self._journal.read()
        if record.config is not None:
            self._files.locate(("", "--config", record.config))
        sign = await threads.run("containerd's socket", self._runtime.sign)
        record = record.with_sight(sign, is_clear=self._clear_since is not None)
        if leave is not Leave.OBSERVE:
            await self._journal.keep(record)
        try:
            known = await self._known(goal, record, sign)
        except AgentError:  # of a version, or a path, that may be another by now
            if not self._has_systemd():
                raise
            known = None
        if known is not None:
            return replace(known, notices=(*notices, *known.notices))
        if not self._has_systemd():
            return await self._without_systemd(goal, record, notices)
        async with self._connect() as systemd:
            service = Service(systemd=systemd, name=self._unit())
            unit = await _present(service)
            record = await self._located(unit, record)
            if leave is not Leave.OBSERVE:
                await self._journal.keep(record)
            scene = await self._scene(goal, service, unit, record, sign)
            switched = await self._on_node(scene, leave) if scene else LEFT_ALONE
        return replace(switched, notices=(*notices, *switched.notices))

    async def _located(self, unit: Unit, record: Record) -> Record:
        """Return the record with what containerd reads and calls itself; a new file is looked at once more."""
        before = self._files.where
        self._files.locate(unit.argv)
        if before != self._files.where and self._clear_since is not None:
            self._clear_since = self._monotonic()  # legacy configuration was looked for beside another file
        version = await self._version(record)
        return replace(record.with_clock(self._clock()), config=self._files.where, version=version)

    async def _known(self, goal: Goal, record: Record, sign: str | None) -> Switched | None:
        """Return the result if it is clear without asking anybody; raises AgentError."""
        config, plan = await self._planned(goal, record.version)
        if plan is None:
            return LEFT_ALONE
        is_settled = switching.is_settled(record, section=plan.section, changed_at=config.changed_at, sign=sign)
        return Switched(state=State.IN_ORDER, notices=plan.notices) if is_settled and not plan.is_changed else None

    async def _without_systemd(self, goal: Goal, record: Record, notices: tuple[Notice, ...]) -> Switched:
        """Leave a node alone that is a folder; raises BusGone if its config.toml says that it is more."""
        config, plan = await self._planned(goal, record.version)
        if config.raw is not None and plan is not None and plan.is_changed:
            raise BusGone("containerd has to be restarted with another config.toml, but there is no system bus")
        message = "there is no system bus: config.toml is left alone, and what containerd reads is not known"
        return Switched(state=State.LEFT_ALONE, notices=(*notices, Notice(code="NoSystemBus", message=message)))

    async def _scene(self, goal: Goal, service: Service, unit: Unit, record: Record, sign: str | None) -> _Scene | None:
        """Return what is to be done, and with what; None for nothing."""
        config, plan = await self._planned(goal, record.version)
        return _Scene(service=service, unit=unit, plan=plan, config=config, record=record, sign=sign) if plan else None

    async def _on_node(self, scene: _Scene, leave: Leave) -> Switched:
        plan = scene.plan
        has_loaded = await self._has_loaded(scene)
        if leave is Leave.OBSERVE or (leave is Leave.WATCH and not has_loaded):
            is_right = has_loaded and not plan.is_changed
            return Switched(state=State.IN_ORDER if is_right else State.WOULD_CHANGE, notices=plan.notices)
        if has_loaded:
            return await self._confirm(scene)
        await self._require_leave(scene)
        return await self._restarter.carry_out(scene.service, scene.unit, plan, scene.record, scene.config)

    async def _has_loaded(self, scene: _Scene) -> bool:
        """Tell whether containerd surely has read what is wanted; its own word counts more than times."""
        plan, record, changed_at = scene.plan, scene.record, scene.config.changed_at
        start = self._restarter.start(scene.unit)
        if plan.is_changed:
            loaded = record.loaded
            return loaded is not None and (loaded.start, loaded.section) == (start.id, plan.section)
        is_in_doubt = plan.goal is Goal.REGISTRY_D and record.is_in_doubt(scene.sign)
        noted = switching.is_noted(record, start, section=plan.section, changed_at=changed_at)
        if noted is not None and not is_in_doubt:
            return noted
        own_word = None if plan.directory is None else await self._runtime.loaded_directory()
        if own_word is not None:
            return own_word == plan.directory
        return not is_in_doubt and switching.is_older(start, changed_at=changed_at)

    async def _confirm(self, scene: _Scene) -> Switched:
        """Note that containerd runs with what is wanted, so that the next passes need not ask."""
        plan, record, config = scene.plan, scene.record, scene.config
        await self._require_well(scene)
        if plan.is_changed:  # somebody undid the file, but containerd still runs with what is wanted
            await self._restarter.write(plan, config)
            config = await threads.run("config.toml", self._files.read)
        start = self._restarter.start(scene.unit)
        loaded = Loaded(start=start.id, section=plan.section, changed_at=config.changed_at, sign=scene.sign)
        await self._journal.keep(replace(record, loaded=loaded))
        return Switched(state=State.IN_ORDER, notices=plan.notices)

    async def _require_well(self, scene: _Scene) -> None:
        """Raise RestartFailed if what containerd runs with is what it was not well with, and it still is not."""
        failure = scene.record.failure
        if failure is None or failure.attempt != scene.plan.attempt:
            return
        if await self._runtime.problem(scene.plan.directory) is not None:
            raise RestartFailed(failure.message, remedy=f"look at the node: systemctl status {scene.unit.name}")

    async def _require_leave(self, scene: _Scene) -> None:
        """Raise whatever speaks against a restart now: Wait, or an AgentError."""
        plan, record = scene.plan, scene.record
        if plan.goal is Goal.REGISTRY_D:
            self._require_clear()
        if record.failure is not None and record.failure.attempt == plan.attempt:
            raise self._restarter.failure(record.failure, scene.service)
        self._restarter.require_free(scene.unit)
        wait_s = switching.wait_s(record.restarts, self._clock())
        if wait_s > 0:
            raise Wait("RestartBudget", "containerd was restarted a short time ago; the next one has to wait", wait_s)
        if self._checked != plan.attempt:
            await self._check(scene)
            self._checked = plan.attempt
        await self._permission.require()

    def _require_clear(self) -> None:
        if self._clear_since is None:
            raise Wait("LegacyRegistryConfig", "legacy registry configuration is in the way")
        waited_s = self._monotonic() - self._clear_since
        if waited_s < CLEAR_SETTLE_S:
            message = "the legacy files are looked at once more before containerd is touched"
            raise Wait(SETTLING, message, CLEAR_SETTLE_S - waited_s)

    async def _check(self, scene: _Scene) -> None:
        """Let containerd itself read the candidate; raises CandidateRefused."""
        plan, unit = scene.plan, scene.unit
        if plan.content is None:  # without a file, containerd's defaults apply
            return
        with self._files.candidate(plan.content) as path:
            argv = (unit.argv[0], "--config", path, "config", "dump")
            finished = await scene.service.systemd.run_transient(argv, timeout_s=CHECK_TIMEOUT_S)
        problem = None
        if finished.exit_code != 0:
            problem = f"`containerd config dump` ends with {finished.exit_code}"
        problem = problem or dump_problem(plan, finished.stdout)
        if problem is not None:
            raise CandidateRefused(problem)

    async def _planned(self, goal: Goal, version: str | None) -> tuple[ConfigFile, SwitchPlan | None]:
        """Read config.toml, and what it has to become; raises AgentError."""

        def plan() -> tuple[ConfigFile, SwitchPlan | None]:
            config = self._files.read()
            return config, self._make_plan(goal, config.raw, saved=self._files.read_saved(), version=version)

        return await threads.run("plan", plan)

    async def _version(self, record: Record) -> str | None:
        """Return what containerd calls itself; what it was last, when it does not answer."""
        try:
            return await self._runtime.version()
        except AgentError:
            return record.version


async def _present(service: Service) -> Unit:
    unit = await service.unit()
    if not unit.is_loaded:
        raise ContainerdUnitMissing(service.name)
    return unit
