"""Carries a switch out: back up, write, restart, judge, and undo if containerd is not well.

What is begun is on the disk (`switching.UnderWay`) before it is begun, so that the next start of the
agent finishes or undoes it. As long as containerd was surely not restarted, a switch that cannot go on
is given up: the file comes back, and the permission is somebody else's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from agent import switching, threads
from agent.approval import Waiting
from agent.errors import AgentError, ContainerdConfigChanged, RestartFailed, RolledBack, UnitFailed
from agent.journal import Journal, containerd_says
from agent.model import Notice
from agent.permission import Permission
from agent.switch_plan import SwitchPlan
from agent.switch_ports import BUSY_RETRY_S, Files, Runtime, Service, Terms, Wait
from agent.switching import ConfigFile, Failure, Goal, Loaded, Phase, Record, Start, State, Switched, UnderWay
from agent.unit import Failed, IfBusy, JobOutcome, Refused, Unit

logger = logging.getLogger(__name__)

PROBE_PAUSE_S = 0.1
#: A containerd that is well answers within milliseconds; one that is not holds the way back up no longer.
LAST_PROBE_S = 1.0
KUBELET = "kubelet.service"

#: Only with these, containers outlive a restart of containerd.
SAFE_KILL_MODES = frozenset({"process", "none"})

#: Results of a job that somebody else has ended: they say nothing about containerd.
_OVERTAKEN = frozenset({"canceled", "skipped"})


class Restarter:
    """One node's containerd. Methods raise AgentError, and Wait for what has to be waited for."""

    def __init__(
        self,
        *,
        files: Files,
        runtime: Runtime,
        permission: Permission,
        journal: Journal,
        hold: Callable[[], Waiting | None],
        terms: Terms,
        boot_id: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hold` is what keeps containerd from being restarted; `boot_id` tells starts in different boots apart."""
        self._files = files
        self._runtime = runtime
        self._permission = permission
        self._journal = journal
        self._hold = hold
        self._terms = terms
        self._boot_id = boot_id
        self._clock = clock
        self._monotonic = monotonic

    async def carry_out(
        self, service: Service, unit: Unit, plan: SwitchPlan, record: Record, config: ConfigFile
    ) -> Switched:
        """Write config.toml, which is `config` now, restart, look, and undo if it is not well."""
        containers = await self._containers()
        number = await threads.run("back up", self._files.back_up)
        under_way = UnderWay(
            phase=Phase.WRITING,
            goal=plan.goal,
            attempt=plan.attempt,
            backup=number,
            wanted=switching.digest(plan.content or b""),
            section=plan.section,
            directory=plan.directory,
            start=self.start(unit).id,
            containers=tuple(sorted(containers)),
        )
        await self._journal.keep(replace(record, under_way=under_way))
        try:
            await self.write(plan, config)
        except AgentError:
            await self._give_up(record, under_way)
            raise
        return await self._restart(service, record, under_way)

    async def resume(self, service: Service, record: Record, under_way: UnderWay, goal: Goal | None) -> Switched | None:
        """Finish or undo what a crash has left; None when there is nothing to finish and a new plan is due.

        What was begun for another goal than this is given up, if containerd was not restarted for it yet.
        """
        self._permission.inherit()
        unit = await service.unit()
        is_restarted = self.start(unit).id != under_way.start
        match under_way.phase:
            case Phase.ROLLING_BACK:
                return await self._undo(service, record, under_way, is_restarted=is_restarted)
            case Phase.REVERTED:
                return await self._end(service, record, under_way, is_restarted=is_restarted)
            case _:
                return await self._go_on(service, unit, record, under_way, goal)

    async def _go_on(
        self, service: Service, unit: Unit, record: Record, under_way: UnderWay, goal: Goal | None
    ) -> Switched | None:
        """Go on towards the new config.toml, or give it up."""
        if not await self._is_as_written(under_way):
            await self._journal.keep(replace(record, under_way=None))
            return None
        if self.start(unit).id != under_way.start:
            return await self._judge(service, record, under_way, self._deadline())
        if under_way.phase is Phase.RESTARTING and unit.active_state == "failed":
            # It was stopped for us and did not come up again; one that somebody has stopped is inactive.
            return await self._restart(service, record, under_way)
        if goal not in {None, under_way.goal}:
            await self._give_up(record, under_way)
            return None
        self.require_free(unit)
        await self._permission.require()
        return await self._restart(service, record, under_way)

    def require_free(self, unit: Unit) -> None:
        """Raise Wait for a node on hold or a unit on its way, RestartFailed where a restart would end containers."""
        if (held := self._hold()) is not None:
            raise Wait("RestartHeld", held.reason)
        if not unit.is_active or unit.is_changing:
            raise Wait("ContainerdNotRunning", f"{unit.name} is {unit.active_state}", BUSY_RETRY_S)
        if unit.kill_mode not in SAFE_KILL_MODES:
            message = f"{unit.name} has KillMode={unit.kill_mode}: a restart would end all containers"
            raise RestartFailed(message, remedy="set KillMode=process in a drop-in of the unit, then daemon-reload")

    async def write(self, plan: SwitchPlan, config: ConfigFile) -> None:
        """Put config.toml in place of `config`, what it moves aside before it; raises ContainerdConfigChanged."""

        def require_same() -> None:
            if self._files.read() != config:
                raise ContainerdConfigChanged

        def write() -> None:
            require_same()
            if plan.goal is Goal.REGISTRY_D and plan.saved is not None:
                self._files.write_saved(plan.saved)
                require_same()
            self._files.write(plan.content)

        await threads.run("config.toml", write)

    def start(self, unit: Unit) -> Start:
        """Name the start of containerd that a unit tells of, and when that was by today's clock."""
        age_s = self._monotonic() - unit.started_monotonic_us / 1e6
        return Start(id=f"{self._boot_id}:{unit.started_monotonic_us}", at=self._clock() - age_s)

    async def _restart(self, service: Service, record: Record, under_way: UnderWay) -> Switched:
        under_way = replace(under_way, phase=Phase.RESTARTING)
        counted = replace(record.with_restart(self._clock()), under_way=under_way)
        await self._journal.keep(counted)
        logger.warning("restarting %s: config.toml %s", service.name, _aim(under_way))
        deadline = self._deadline()
        async with self._permission.kept():
            try:
                outcome = await self._ask(service, service.name, IfBusy.REFUSE)
            except (Wait, UnitFailed):
                if self.start(await service.unit()).id == under_way.start:
                    await self._give_up(record, under_way)
                raise
            if _is_overtaken(outcome) and self.start(outcome.unit).id == under_way.start:
                await self._give_up(record, under_way)
                raise Wait("ContainerdNotRunning", f"somebody has ended the restart of {service.name}", BUSY_RETRY_S)
            if _is_overtaken(outcome) and not outcome.unit.is_active:
                # A shutdown, whose stop of containerd waits until the agent has ended: the next one judges.
                raise Wait("ContainerdNotRunning", f"somebody else stops or starts {service.name}", BUSY_RETRY_S)
            return await self._judge(service, counted, under_way, deadline, outcome)

    async def _give_up(self, record: Record, under_way: UnderWay) -> None:
        """Go back to before the switch: containerd was not restarted for it."""
        if await self._is_as_written(under_way):
            await threads.run("roll back", lambda: self._files.roll_back(under_way.backup))
        await self._journal.keep(replace(record, under_way=None))

    async def _judge(
        self,
        service: Service,
        record: Record,
        under_way: UnderWay,
        deadline: float,
        outcome: JobOutcome | None = None,
    ) -> Switched:
        """Wait for health; keep the new config.toml or put the old one back."""
        problem = _failure(outcome) or await self._problem(service, under_way, deadline)
        if problem is not None:
            return await self._roll_back(service, record, under_way, problem)
        sign = self._runtime.sign()
        unit = await service.unit()
        config = await threads.run("config.toml", self._files.read)
        loaded = Loaded(start=self.start(unit).id, section=under_way.section, changed_at=config.changed_at, sign=sign)
        if under_way.goal is Goal.LEGACY:
            await threads.run("saved section", lambda: self._files.write_saved(None))
        # Before the record forgets that anything was under way: a crash in between must not leave a ghost.
        await self._permission.give_back()
        await self._journal.keep(replace(record, loaded=loaded, under_way=None, failure=None))
        logger.info("%s was restarted and is healthy: config.toml %s", unit.name, _aim(under_way))
        notices = await self._restart_kubelet(service) if self._terms.restarts_kubelet else ()
        return Switched(state=State.RESTARTED, message=f"{unit.name} was restarted once", notices=notices)

    async def _restart_kubelet(self, service: Service) -> tuple[Notice, ...]:
        """Restart kubelet once; a failure does not undo the switch."""
        try:
            failure = _failure(await self._ask(service, KUBELET, IfBusy.TAKE_OVER))
        except (Wait, AgentError) as err:
            failure = str(err)
        if failure is None:
            return ()
        message = f"containerd is switched and well, but not {KUBELET}: {failure}"
        return (Notice(code="KubeletNotRestarted", message=message),)

    def _deadline(self) -> float:
        """Return until when containerd has to be well if it is restarted now, however long systemd takes for that."""
        return self._monotonic() + self._terms.restart_timeout_s

    async def _problem(self, service: Service, under_way: UnderWay, deadline: float) -> str | None:
        """Ask until containerd is healthy, or say at the deadline what was wrong."""
        while True:
            left_s = max(deadline - self._monotonic(), LAST_PROBE_S)
            try:
                async with asyncio.timeout(left_s):
                    problem = await self._problem_now(service, under_way)
            except TimeoutError:
                return "it does not answer"
            if problem is None or self._monotonic() > deadline:
                return problem
            await asyncio.sleep(PROBE_PAUSE_S)

    async def _problem_now(self, service: Service, under_way: UnderWay) -> str | None:
        unit = await service.unit()
        if not unit.is_active:
            return f"{unit.name} is {unit.active_state} ({unit.result})"
        if self.start(unit).id == under_way.start:
            return f"{unit.name} was not started anew"
        # After a boot, all containers have ended, and it was not the restart that ended them.
        is_same_boot = under_way.start.startswith(f"{self._boot_id}:")
        before = frozenset(under_way.containers if is_same_boot else ())
        try:
            problem = await self._runtime.problem(under_way.directory)
            lost = frozenset() if problem else await self._runtime.lost(before)
        except AgentError as err:
            return err.message
        return problem or (f"{len(lost)} containers did not survive the restart" if lost else None)

    async def _roll_back(self, service: Service, record: Record, under_way: UnderWay, problem: str) -> Switched:
        """Put the old files back and restart once more; remembered, so that it is not tried again."""
        since = record.restarts[-1] if record.restarts else 0
        words = await containerd_says(service.systemd, service.name, since=since)
        message = f"containerd was not well with the new config.toml: {problem}{words}"
        logger.error("rolling back: %s", message)
        unit = await service.unit()
        under_way = replace(
            under_way,
            phase=Phase.ROLLING_BACK,
            start=self.start(unit).id,
            containers=await self._left(under_way),
        )
        record = replace(record, under_way=under_way, failure=Failure(attempt=under_way.attempt, message=message))
        await self._journal.keep(record)
        return await self._undo(service, record, under_way, is_restarted=False)

    async def _left(self, under_way: UnderWay) -> tuple[str, ...]:
        """Return those of the containers that still run: no way back brings the others back."""
        try:
            async with asyncio.timeout(LAST_PROBE_S):
                running = await self._runtime.running_containers()
        except (AgentError, TimeoutError):
            return under_way.containers
        return tuple(name for name in under_way.containers if name in running)

    async def _undo(self, service: Service, record: Record, under_way: UnderWay, *, is_restarted: bool) -> Switched:
        """Put the old file back, unless somebody has put another one there meanwhile: then that is the one."""
        if await self._is_as_written(under_way):
            await threads.run("roll back", lambda: self._files.roll_back(under_way.backup))
            is_restarted = False
        under_way = replace(under_way, phase=Phase.REVERTED)
        if not is_restarted:
            under_way = replace(under_way, start=self.start(await service.unit()).id)
            record = record.with_restart(self._clock())
        record = replace(record, under_way=under_way)
        await self._journal.keep(record)
        return await self._end(service, record, under_way, is_restarted=is_restarted)

    async def _end(self, service: Service, record: Record, under_way: UnderWay, *, is_restarted: bool) -> Switched:
        """Let containerd run with the old files that are back, and say so; raises RolledBack, RestartFailed."""
        deadline = self._deadline()
        outcome = None if is_restarted else await self._ask(service, service.name, IfBusy.TAKE_OVER)
        still = _failure(outcome) or await self._problem(service, replace(under_way, directory=None), deadline)
        message = record.failure.message if record.failure else "the agent was stopped while rolling back"
        if still is not None:
            message = f"{message}; with the old config.toml it is not well either: {still}"
        # Later passes only have this to say what state containerd is in.
        failure = Failure(attempt=under_way.attempt, message=message, is_well=still is None)
        await self._permission.give_back()
        await self._journal.keep(replace(record, failure=failure, under_way=None))
        raise self.failure(failure, service)

    @staticmethod
    def failure(failure: Failure, service: Service) -> RolledBack | RestartFailed:
        """Return the error that says it, now and by later passes."""
        if failure.is_well:
            return RolledBack(failure.message)
        return RestartFailed(failure.message, remedy=f"look at the node: systemctl status {service.name}")

    async def _ask(self, service: Service, name: str, if_busy: IfBusy) -> JobOutcome:
        """Restart a unit; raises Wait when systemd cannot now."""
        outcome = await service.systemd.restart(name, timeout_s=self._terms.restart_timeout_s, if_busy=if_busy)
        if isinstance(outcome, Refused):
            raise Wait("ContainerdNotRunning", f"no restart of {name} now: {outcome.reason.value}", BUSY_RETRY_S)
        return outcome

    async def _is_as_written(self, under_way: UnderWay) -> bool:
        config = await threads.run("config.toml", self._files.read)
        return switching.digest(config.raw or b"") == under_way.wanted

    async def _containers(self) -> frozenset[str]:
        try:
            return await self._runtime.running_containers()
        except AgentError as err:
            logger.warning("the running containers are not known before the restart: %s", err)
            return frozenset()


def _is_overtaken(outcome: JobOutcome | None) -> bool:
    return isinstance(outcome, Failed) and outcome.result in _OVERTAKEN


def _failure(outcome: JobOutcome | None) -> str | None:
    if isinstance(outcome, Failed) and not _is_overtaken(outcome):
        return f"the restart ended as {outcome.result}"
    return None


def _aim(under_way: UnderWay) -> str:
    return "points at registry.d" if under_way.goal is Goal.REGISTRY_D else "is back to legacy"
