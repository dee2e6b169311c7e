"""One pass: read everything, compute, write what differs, look again.

The steps are an ordered list in the style of bashible; each is idempotent, and the first that fails
ends the pass. A pass ignores what woke it. The ports are declared here; the adapters do not know
them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from agent import threads
from agent.desired import Candidate, Confirm, Origin, Reading, Release, Unreadable, Use, choose
from agent.errors import (
    AgentError,
    CandidateRefused,
    ConfigInvalid,
    ConfigUnsupported,
    ContainerdConfigUnreadable,
    ContainerdConfigUnsupported,
    ContainerdEditFailed,
    LastGoodUnusable,
    LegacyRestoreFailed,
    RenderFailed,
    RolledBack,
    Unsettled,
)
from agent.hosts_toml import Target
from agent.legacy import Legacy
from agent.managers import Manager, Presence
from agent.model import DesiredConfig, Notice
from agent.outcome import Mode, Outcome, Standing, Step, StepResult, Written
from agent.parse.document import parse
from agent.plan import Observation, Plan, make_plan
from agent.render import Renderer
from agent.switch_ports import Leave
from agent.switching import LEFT_ALONE, Goal, State, Switched
from agent.tree import Tree

#: Failures that stay until their input changes: trying again sooner than the resync is in vain.
_REFUSALS = (ConfigInvalid, ConfigUnsupported, RenderFailed, LastGoodUnusable)
_SETTLED_ERRORS = (
    *_REFUSALS,
    *(ContainerdConfigUnreadable, ContainerdConfigUnsupported, ContainerdEditFailed, LegacyRestoreFailed),
    *(CandidateRefused, RolledBack),
)

#: What containerd has to read; where nobody knows, it is left as it is.
_GOALS = {
    Standing.CONFIGURED: Goal.REGISTRY_D,
    Standing.CONFIRMING_DELETION: Goal.REGISTRY_D,
    Standing.NOT_CONFIGURED: Goal.LEGACY,
}
#: A switch that is about to be taken back is not begun.
_LEAVES = {Standing.CONFIRMING_DELETION: Leave.WATCH}

_INTERRUPTED = "Interrupted"

_STEP_RESULTS = {
    State.LEFT_ALONE: StepResult.UNCHANGED,
    State.IN_ORDER: StepResult.UNCHANGED,
    State.RESTARTED: StepResult.CHANGED,
    State.WOULD_CHANGE: StepResult.WOULD_CHANGE,
    State.WAITING: StepResult.WOULD_CHANGE,
    State.FAILED: StepResult.FAILED,
}


class Source(Protocol):
    """Where the desired config comes from."""

    async def read(self, *, is_confirming: bool) -> Reading:
        """Return the document, its absence, or why it cannot be read; never raises AgentError.

        `is_confirming` asks for a reading that is newer than the question.
        """


class Disk(Protocol):
    """The node's file system; synchronous, called from a thread. Methods raise AgentError."""

    def observe(self, names: frozenset[str]) -> Observation:
        """Return what stands in registry.d for these hosts and for those the agent has written."""

    def apply(self, plan: Plan, *, should_stop: Callable[[], bool]) -> bool:
        """Carry out a plan; False when it was stopped between two operations."""

    def has_written(self) -> bool:
        """Tell whether the agent's record names any host directory."""

    def read_last_good(self) -> bytes | None:
        """Return the last config that was accepted here."""

    def last_good_at(self) -> float | None:
        """Return the Unix time at which it was accepted."""

    def write_last_good(self, document: bytes) -> None:
        """Keep an accepted config."""

    def write_facts(self, *, node_ip: str | None, containerd: str | None) -> None:
        """Keep the address and the version of containerd that were rendered for."""

    def drop_last_good(self) -> None:
        """Forget it."""

    def stand_down(self, document: bytes) -> None:
        """Keep a config that another agent follows, and give up what the agent has written."""


class LegacyDetector(Protocol):
    """Legacy registry configuration on this node; synchronous."""

    def read(self) -> Legacy:
        """Return what was found; never raises AgentError."""

    def write_label_file(self, value: str) -> bool:
        """Keep bashible's copy of the label, where bashible is; raises AgentError."""


class Containerd(Protocol):
    """containerd's config.toml and its restarts."""

    @property
    def is_under_way(self) -> bool:
        """Whether a switch is being carried out."""

    async def finish(self, goal: Goal | None, *, is_observing: bool) -> Switched | None:
        """Finish or undo what a crash has left under way; None when there is nothing. Never raises AgentError."""

    async def step(self, goal: Goal, *, is_clear: bool, leave: Leave) -> Switched:
        """Bring containerd nearer to the goal; never raises AgentError, never waits for anybody's permission."""


class Node(Protocol):
    """Facts about the node; all but `meet` synchronous."""

    async def meet(self) -> None:
        """Find out what has to be asked for; never raises AgentError."""

    def managers(self) -> tuple[Manager, ...]:
        """Return who else manages the node and is not to be worked beside; never raises AgentError."""

    def target(self) -> Target:
        """Return what to render for; raises AgentError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A document that was accepted for this node, with its files."""

    document: bytes = field(repr=False)
    config: DesiredConfig
    tree: Tree
    notices: tuple[Notice, ...]
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desired:
    """Result of the step "desired"."""

    standing: Standing
    prepared: _Prepared | None = None
    origin: Origin | None = None
    as_of: float | None = None
    errors: tuple[AgentError, ...] = ()
    confirm_in_s: float | None = None

    @property
    def tree(self) -> Tree | None:
        """The tree to put in place; None when nothing must be touched."""
        if self.standing is Standing.NOT_CONFIGURED:
            return Tree()
        is_ours = self.standing in {Standing.CONFIGURED, Standing.CONFIRMING_DELETION}
        return self.prepared.tree if self.prepared and is_ours else None

    @property
    def result(self) -> StepResult:
        return StepResult.FAILED if self.errors else StepResult.UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """Result of the step "observe": what differs."""

    plan: Plan = field(default_factory=Plan)
    saved: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
    has_other_agent: bool = False

    @property
    def result(self) -> StepResult:
        return StepResult.WOULD_CHANGE if self.plan.operations else StepResult.UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detected:
    """Result of the step "legacy"."""

    legacy: Legacy
    managers: tuple[Manager, ...]
    notices: tuple[Notice, ...] = ()

    @property
    def result(self) -> StepResult:
        return StepResult.UNCHANGED


@dataclass(frozen=True, slots=True)
class _Done:
    """Result of the steps "registry.d" and "verify"."""

    result: StepResult
    is_complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the steps of one pass came to."""

    desired: _Desired
    detected: _Detected
    planned: _Planned
    done: _Done | None
    errors: tuple[AgentError, ...]

    @property
    def is_in_place(self) -> bool:
        """Whether registry.d is what is desired."""
        return self.done is not None and self.done.is_complete and self.done.result is not StepResult.WOULD_CHANGE


_AnyStep = TypeVar("_AnyStep", _Desired, _Detected, _Planned, _Done)


class Reconciler:
    """Runs passes. Remembers only since when the source is empty, and what was rendered last."""

    def __init__(
        self,
        *,
        source: Source,
        disk: Disk,
        legacy: LegacyDetector,
        containerd: Containerd,
        node: Node,
        renderer: Renderer,
        mode: Mode,
        settle_s: float,
        should_stop: Callable[[], bool],
        on_written: Callable[[Written], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`settle_s` is between the two readings that confirm a deletion; `on_written` hears before containerd does."""
        self._source = source
        self._disk = disk
        self._legacy = legacy
        self._containerd = containerd
        self._node = node
        self._renderer = renderer
        self._mode = mode
        self._settle_s = settle_s
        self._should_stop = should_stop
        self._on_written = on_written
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_confirming = False
        #: Whether a pass waits for the source: it has nothing to finish then.
        self.is_asking = False
        self._absent_since: float | None = None
        self._presence = Presence()
        self._cache: dict[object, _Prepared] = {}
        self._in_place: Tree | None = None

    async def run_pass(self) -> Outcome:
        """Run the steps in order and return what came of them; AgentErrors end up in the outcome."""
        self.is_asking = True
        try:
            reading = await self._source.read(is_confirming=self._is_confirming)
        finally:
            self.is_asking = False
        await self._node.meet()
        trace = _Trace(self._clock)
        desired, detected = await threads.run("desired", lambda: self._look(reading, trace))
        goal = _GOALS.get(desired.standing)
        finished = await self._finish(goal, detected, trace)
        is_release = desired.standing is Standing.NOT_CONFIGURED
        switched = finished or LEFT_ALONE
        if is_release:  # containerd reads registry.d until it is back to legacy
            switched = finished or await self._switch(Goal.LEGACY, desired, detected, trace)
        if switched.is_settled or not is_release:
            found = await threads.run("settle", lambda: self._settle(desired, detected, trace))
            self._tell(found)
        else:
            found = _Found(desired=desired, detected=detected, planned=_Planned(), done=None, errors=desired.errors)
        is_compared = self._is_observing(detected) and found.done is not None
        if goal is Goal.REGISTRY_D and finished is None and (found.is_in_place or is_compared):
            switched = await self._switch(Goal.REGISTRY_D, desired, detected, trace)
        return self._outcome(found, switched, trace.steps)

    @property
    def is_restarting(self) -> bool:
        """Whether containerd is being switched: the worst moment to be stopped."""
        return self._containerd.is_under_way

    def _look(self, reading: Reading, trace: _Trace) -> tuple[_Desired, _Detected]:
        try:
            desired = trace.run("desired", lambda: self._desire(reading))
        except AgentError as err:
            desired = _Desired(standing=Standing.UNKNOWN, errors=(err,))
        return desired, trace.run("legacy", self._detect)

    def _settle(self, desired: _Desired, detected: _Detected, trace: _Trace) -> _Found:
        planned, done, errors = _Planned(), None, desired.errors
        try:
            planned = trace.run("observe", lambda: self._plan(desired))
            detected = self._labelled(detected, desired, planned)
            is_observing = self._is_observing(detected)
            done = self._carry_out(desired, planned, trace, is_observing=is_observing)
        except AgentError as err:
            errors = (*errors, err)
        return _Found(desired=desired, detected=detected, planned=planned, done=done, errors=errors)

    def _tell(self, found: _Found) -> None:
        plan = found.planned.plan
        if found.is_in_place and plan.changed_paths:
            is_drift = self._is_drift(found)
            self._on_written(Written(paths=plan.changed_paths, taken_over=plan.taken_over, is_drift=is_drift))

    def _is_drift(self, found: _Found) -> bool:
        is_changed = found.done is not None and found.done.result is StepResult.CHANGED
        return is_changed and found.desired.tree == self._in_place

    async def _finish(self, goal: Goal | None, detected: _Detected, trace: _Trace) -> Switched | None:
        """Step "containerd", first: what was under way when an agent was stopped, whatever else this pass finds.

        None when there was nothing, or when what is wanted by now is something else.
        """
        started = self._clock()
        finished = await self._containerd.finish(goal, is_observing=self._is_observing(detected))
        if finished is not None:
            trace.record("containerd", _STEP_RESULTS[finished.state], started)
        return finished

    async def _switch(self, goal: Goal, desired: _Desired, detected: _Detected, trace: _Trace) -> Switched:
        """Step "containerd"."""
        if self._should_stop():
            message = "the agent was stopped before it was done"
            return Switched(state=State.WAITING, reason=_INTERRUPTED, message=message)
        leave = Leave.OBSERVE if self._is_observing(detected) else _LEAVES.get(desired.standing, Leave.BEGIN)
        started = self._clock()
        switched = await self._containerd.step(goal, is_clear=not detected.legacy.is_custom, leave=leave)
        trace.record("containerd", _STEP_RESULTS[switched.state], started)
        return switched

    def _outcome(self, found: _Found, switched: Switched, steps: tuple[Step, ...]) -> Outcome:
        desired, planned, done = found.desired, found.planned, found.done
        is_in_place = found.is_in_place
        errors = (*found.errors, *switched.errors)
        looks = (desired.confirm_in_s, switched.retry_in_s, self._presence.look_in_s)
        waits = [wait_s for wait_s in looks if wait_s is not None]
        is_drift = self._is_drift(found)
        self._in_place = desired.tree if is_in_place else self._in_place
        is_configured = desired.tree is not None and desired.standing is not Standing.NOT_CONFIGURED
        return Outcome(
            mode=Mode.OBSERVE if self._is_observing(found.detected) else Mode.MANAGE,
            managers=found.detected.managers,
            standing=Standing.OTHER_AGENT if planned.has_other_agent else desired.standing,
            steps=steps,
            plan=planned.plan,
            saved=planned.saved,
            config=desired.prepared.config if desired.prepared else None,
            origin=desired.origin,
            as_of=desired.as_of,
            legacy=found.detected.legacy,
            is_in_place=is_in_place,
            containerd=desired.prepared.target.containerd if desired.prepared else None,
            switched=switched,
            is_drift=is_drift,
            is_complete=(done is None or done.is_complete) and switched.reason != _INTERRUPTED,
            # Without a desired config, legacy configuration is what the node lives on.
            errors=(*errors, *(found.detected.legacy.errors() if is_configured else ())),
            notices=(
                *(desired.prepared.notices if desired.prepared else ()),
                *found.detected.notices,
                *planned.notices,
                *switched.notices,
            ),
            look_in_s=min(waits) if waits else None,
            is_retry_useful=any(not isinstance(error, _SETTLED_ERRORS) for error in errors),
        )

    def _is_observing(self, detected: _Detected) -> bool:
        return self._mode is Mode.OBSERVE or bool(detected.managers)

    def _carry_out(self, desired: _Desired, planned: _Planned, trace: _Trace, *, is_observing: bool) -> _Done | None:
        """Apply and verify; None when there is nothing that could be in place."""
        if not is_observing and self._should_stop():
            return _Done(planned.result, is_complete=False)
        if desired.standing is Standing.OTHER_AGENT and desired.prepared and not is_observing:
            self._disk.stand_down(desired.prepared.document)
        if desired.tree is None or planned.has_other_agent:
            return None
        if is_observing:
            return _Done(planned.result)
        done = trace.run("registry.d", lambda: self._place(desired, planned.plan))
        if done.result is StepResult.CHANGED and done.is_complete:
            trace.run("verify", lambda: self._verify(desired))
        return done

    # Step "desired".

    def _desire(self, reading: Reading) -> _Desired:
        last_good = self._disk.read_last_good()
        is_managing = last_good is not None or self._disk.has_written()
        choice = choose(
            reading,
            last_good=last_good,
            is_managing=is_managing,
            absent_for_s=None if self._absent_since is None else self._clock() - self._absent_since,
            settle_s=self._settle_s,
        )
        if isinstance(choice, Use):  # a release that has to wait for containerd need not be confirmed again
            self._absent_since = None
        # Once a deletion is suspected, only live readings count until one finds something.
        was_blind = self._is_confirming and isinstance(reading, Unreadable)
        self._is_confirming = isinstance(choice, Confirm) or was_blind
        match choice:
            case Release():
                return _Desired(standing=Standing.NOT_CONFIGURED)
            case Confirm(last_good=kept, wait_s=wait_s):
                if self._absent_since is None:
                    self._absent_since = self._clock()
                desired = self._first_usable((kept,) if kept else (), ())
                is_others = desired.standing is Standing.OTHER_AGENT
                standing = Standing.OTHER_AGENT if is_others else Standing.CONFIRMING_DELETION
                return replace(desired, standing=standing, confirm_in_s=wait_s)
            case Use(candidates=candidates, error=error):
                return self._first_usable(candidates, (error,) if error else ())

    def _first_usable(self, candidates: tuple[Candidate, ...], errors: tuple[AgentError, ...]) -> _Desired:
        target = self._node.target()
        for candidate in candidates:
            try:
                prepared = self._prepare(candidate.document, target)
            except _REFUSALS as err:
                errors = (*errors, LastGoodUnusable(err) if candidate.origin is Origin.LAST_GOOD else err)
                continue
            standing = Standing.OTHER_AGENT if prepared.config.other_agent else Standing.CONFIGURED
            is_kept = candidate.origin is Origin.LAST_GOOD
            return _Desired(
                standing=standing,
                prepared=prepared,
                origin=candidate.origin,
                as_of=self._disk.last_good_at() if is_kept else self._wall_clock(),
                errors=errors,
            )
        return _Desired(standing=Standing.UNKNOWN, errors=errors)

    def _prepare(self, document: bytes, target: Target) -> _Prepared:
        key = (hashlib.sha256(document).digest(), target)
        if key not in self._cache:
            parsed = parse(document)
            tree, notices = Tree(), parsed.notices
            if not parsed.config.other_agent:
                rendered = self._renderer.render(parsed.config, target)
                tree, notices = rendered.tree, (*notices, *rendered.notices)
            prepared = _Prepared(document=document, config=parsed.config, tree=tree, notices=notices, target=target)
            self._cache = {key: prepared}  # one entry: the next document replaces it
        return self._cache[key]

    # Step "legacy".

    def _detect(self) -> _Detected:
        managers = self._presence.settle(self._node.managers(), now_s=self._clock())
        return _Detected(legacy=self._legacy.read(), managers=managers)

    def _labelled(self, detected: _Detected, desired: _Desired, planned: _Planned) -> _Detected:
        """Keep bashible's copy of the label, unless the node is somebody else's."""
        is_others = planned.has_other_agent or desired.standing is Standing.OTHER_AGENT
        if self._is_observing(detected) or is_others or self._should_stop():
            return detected
        try:
            self._legacy.write_label_file(detected.legacy.label)
        except AgentError as err:  # registry.d does not depend on it
            notice = Notice(code="LabelFileFailed", message=f"bashible's label is not kept: {err}")
            return replace(detected, notices=(notice,))
        return detected

    # Step "observe".

    def _plan(self, desired: _Desired) -> _Planned:
        tree = desired.tree
        if tree is None:
            return _Planned(has_other_agent=desired.standing is Standing.OTHER_AGENT)
        observation = self._disk.observe(_names(tree))
        if observation.observed.has_other_agent_marker:
            return _Planned(has_other_agent=True, notices=observation.notices)
        plan = make_plan(tree, observation.observed)
        return _Planned(plan=plan, saved=observation.observed.backups, notices=observation.notices)

    # Step "registry.d".

    def _place(self, desired: _Desired, plan: Plan) -> _Done:
        if desired.prepared and desired.origin is Origin.LIVE:
            self._disk.write_last_good(desired.prepared.document)
            target = desired.prepared.target
            self._disk.write_facts(node_ip=target.node_ip, containerd=target.containerd.name)
        if desired.standing is Standing.NOT_CONFIGURED:
            # Before the release: a crash in between must not bring the deleted config back.
            self._disk.drop_last_good()
        is_complete = self._disk.apply(plan, should_stop=self._should_stop)
        return _Done(StepResult.CHANGED if plan.operations else StepResult.UNCHANGED, is_complete)

    # Step "verify".

    def _verify(self, desired: _Desired) -> _Done:
        tree = desired.tree or Tree()
        rest = make_plan(tree, self._disk.observe(_names(tree)).observed)
        if rest.operations:
            message = f"{len(rest.operations)} differences in registry.d right after writing it"
            raise Unsettled(message, remedy="find out who else writes there; the agent tries again by itself")
        return _Done(StepResult.UNCHANGED)


class _Trace:
    """Records each step with its duration; a step that raises is recorded as failed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.steps: tuple[Step, ...] = ()

    def run(self, name: str, action: Callable[[], _AnyStep]) -> _AnyStep:
        started = self._clock()
        result = StepResult.FAILED
        try:
            value = action()
            result = value.result
            return value
        finally:
            self.record(name, result, started)

    def record(self, name: str, result: StepResult, started: float) -> None:
        self.steps = (*self.steps, Step(name=name, result=result, duration_s=self._clock() - started))


def _names(tree: Tree) -> frozenset[str]:
    return frozenset(host.name for host in tree.hosts)
