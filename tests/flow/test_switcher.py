"""Steps of the switch over real files: what containerd was, what is wanted, what became of it."""

import contextlib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent import restarter, switch_ports
from agent.approval import Granted
from agent.switch_ports import Leave
from agent.switcher import CLEAR_SETTLE_S
from agent.switching import Goal, Record, State, Switched
from tests.support.faults import Calls, Crash
from tests.support.switches import LEGACY, REGISTRY_D, Life, Machine, Trip, config_path, points_at_ours

SECTION_3 = '[plugins."io.containerd.cri.v1.images".registry]'
OURS_3 = f'version = 3\n{SECTION_3}\n  config_path = "{REGISTRY_D}"\n'.encode()
OURS_2 = f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{REGISTRY_D}"\n'.encode()
OTHER = LEGACY + b"# another input\n"
LOG = b"""\
time="x" level=info msg="a"
time="x" level=error msg="pull of https://u:s3cret@r.test/x?sig=s3cret failed"
time="x" level=warning msg="failed to load plugin io.containerd.snapshotter.v1.devmapper"
time="x" level=warning msg="failed to load plugin io.containerd.grpc.v1.cri" error="no" https://u:s3cret@r/x?k=s3cret
"""
OLD_CONTAINERD = pytest.param(LEGACY, "1.6.20", id="1.6")
STARTS = [
    OLD_CONTAINERD,
    pytest.param(LEGACY, "1.7.24", id="1.7"),
    pytest.param(LEGACY, "2.1.9", id="2.1-with-schema-2"),
    pytest.param(b"version = 3\n", "2.1.9", id="2.1"),
    pytest.param(None, "1.7.24", id="no-file"),
    pytest.param(None, "2.1.9", id="no-file-2.1"),
    pytest.param(b"", "1.7.24", id="empty-file"),
]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's time passes when something is asked."""
    monkeypatch.setattr(restarter, "PROBE_PAUSE_S", 0.0)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a node with legacy configuration."""
    return Machine(tmp_path)


def _is(switched: Switched, state: State, reason: str = "") -> None:
    assert (state, reason) == (switched.state, switched.reason), switched


def _is_switched(machine: Machine, *, restarts: int = 1) -> None:
    assert REGISTRY_D == config_path(machine.read()) == config_path(machine.loaded)
    assert restarts == machine.restarts
    assert machine.record().under_way is None
    assert not list(machine.config.parent.glob(".registry-agent-*"))


@pytest.mark.parametrize(("config", "version"), STARTS)
async def test_the_first_switch_restarts_once_and_the_next_step_asks_nobody(
    tmp_path: Path, config: bytes | None, version: str
) -> None:
    """After that, neither this agent nor the next one connects to systemd."""
    machine = Machine(tmp_path, config=config, version=version)
    life = Life(machine)
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)
    assert [machine.read()] == machine.dumped
    assert not life.approval.is_held
    for again in (life, life, Life(machine)):
        connects = again.connects
        _is(await again.step(), State.IN_ORDER)
        assert (connects, 1) == (again.connects, machine.restarts)


async def test_a_containerd_that_runs_with_ours_is_never_restarted(tmp_path: Path) -> None:
    """Set up by somebody else, and read at its start."""
    machine = Machine(tmp_path, config=OURS_3, version="2.1.9")
    life = Life(machine)
    _is(await life.step(), State.IN_ORDER)
    assert (OURS_3, 0, 0) == (machine.read(), machine.restarts, life.approval.asked)
    connects = life.connects
    _is(await life.step(), State.IN_ORDER)
    assert connects == life.connects


@pytest.mark.parametrize(("version", "restarts"), [("1.7.24", 0), ("2.1.9", 1)])
async def test_a_file_touched_after_the_start_is_judged_by_what_is_loaded(
    tmp_path: Path, version: str, restarts: int
) -> None:
    """containerd 1 says what it has loaded; with containerd 2 nobody knows, so that it is restarted once."""
    config = b'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "%s"\n'
    machine = Machine(tmp_path, config=config % REGISTRY_D.encode(), version=version)
    machine.unit = replace(machine.unit, started_monotonic_us=1)
    state = State.RESTARTED if restarts else State.IN_ORDER
    _is(await Life(machine).step(), state)
    _is(await Life(machine).step(), State.IN_ORDER)
    assert restarts == machine.restarts


async def test_a_file_that_is_right_and_not_loaded_is_loaded(tmp_path: Path) -> None:
    """Somebody has written it and restarted nothing."""
    machine = Machine(tmp_path, config=OURS_3, version="2.1.9")
    machine.unit = replace(machine.unit, started_monotonic_us=1)
    machine.loaded = None
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)
    assert OURS_3 == machine.read()


async def test_the_version_is_asked_again_when_the_file_does_not_fit(machine: Machine) -> None:
    """What the containerd of before would refuse is not refused when it was upgraded since."""
    await Life(machine).step()
    machine.config.write_bytes(b"version = 3\n")
    _is(await Life(machine).step(), State.FAILED, "ContainerdConfigUnsupported")
    machine.version = "2.1.9"
    machine.boot_containerd()
    machine.passed_s += 700
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine, restarts=2)


async def test_the_config_file_is_where_the_unit_says(machine: Machine) -> None:
    """Even if something that is no file stands at the usual place."""
    usual = machine.config
    machine.config = machine.root / "etc/c.toml"
    usual.rename(machine.config)
    usual.symlink_to("elsewhere.toml")
    machine.unit = replace(machine.unit, argv=("/usr/bin/containerd", "--config", "/etc/c.toml"))
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)
    assert usual.is_symlink()
    life = Life(machine)
    _is(await life.step(), State.IN_ORDER)
    assert 0 == life.connects


async def test_a_symlink_is_refused(machine: Machine) -> None:
    """Its target may be somebody's source of truth."""
    machine.config.rename(machine.root / "target.toml")
    machine.config.symlink_to(machine.root / "target.toml")
    _is(await Life(machine).step(), State.FAILED, "PathObstructed")
    assert (LEGACY, 0) == ((machine.root / "target.toml").read_bytes(), machine.restarts)


@pytest.mark.parametrize("outcome", ["done", "unknown"])
async def test_a_restart_that_gets_healthy_is_kept(machine: Machine, outcome: str) -> None:
    """Whether its job has ended in time or not."""
    machine.outcomes = [outcome]
    _is(await Life(machine).step(), State.RESTARTED)
    _is(await Life(machine).step(), State.IN_ORDER)
    assert (1 if outcome == "done" else machine.restarts) == machine.restarts
    assert REGISTRY_D == config_path(machine.loaded)


def _sick(machine: Machine) -> None:
    machine.illness = points_at_ours


def _job_failed(machine: Machine) -> None:
    machine.outcomes = ["failed"]


def _lost(machine: Machine) -> None:
    machine.doomed = {"c2"}


@pytest.mark.parametrize(
    ("ail", "why"),
    [
        pytest.param(_sick, "the CRI plugin is not loaded", id="unhealthy"),
        pytest.param(_job_failed, "the restart ended as failed", id="job-failed"),
        pytest.param(_lost, "1 containers did not survive the restart", id="container-gone"),
    ],
)
@pytest.mark.parametrize(("config", "version"), STARTS)
async def test_what_is_not_well_is_rolled_back_and_not_tried_again(
    tmp_path: Path, config: bytes | None, version: str, ail: Callable[[Machine], None], why: str
) -> None:
    """The old bytes are back, containerd runs with them, and only another input is tried."""
    machine = Machine(tmp_path, config=config, version=version)
    machine.journal = LOG
    ail(machine)
    life = Life(machine)
    switched = await life.step()
    _is(switched, State.FAILED, "RolledBack")
    assert why in switched.message
    assert 'plugin io.containerd.grpc.v1.cri" error="no"' in switched.message
    assert "s3cret" not in switched.message
    assert "devmapper" not in switched.message
    assert "level=info" not in switched.message
    assert (config, config, 2) == (machine.read(), machine.loaded, machine.restarts)
    assert machine.record().under_way is None
    assert not life.approval.is_held
    machine.passed_s += 10_000
    for again in (life, Life(machine), Life(machine)):
        _is(await again.step(), State.FAILED, "RolledBack")
        assert (config, 2, 0) == (machine.read(), machine.restarts, again.approval.is_held)
    machine.illness, machine.doomed = (lambda _: None), set()
    _is(await Life(machine).step(), State.FAILED, "RolledBack")
    machine.config.write_bytes((config or b"version = 2\n") + b"# another input\n")
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine, restarts=3)
    assert machine.record().failure is None


async def test_a_node_that_is_not_well_afterwards_either_is_said_to_be_so(machine: Machine) -> None:
    """The old bytes are back all the same, and it is left to a person."""
    machine.illness = lambda _: "the disk is gone" if machine.restarts else None
    life = Life(machine)
    switched = await life.step()
    _is(switched, State.FAILED, "RestartFailed")
    assert "not well either: the disk is gone" in switched.message
    assert (LEGACY, 2, False) == (machine.read(), machine.restarts, life.approval.is_held)
    machine.passed_s += 10_000
    _is(await Life(machine).step(), State.FAILED, "RestartFailed")
    assert (2, None) == (machine.restarts, machine.record().under_way)


async def test_a_file_that_was_right_and_does_containerd_no_good_is_never_called_in_order(tmp_path: Path) -> None:
    """There is no other file to go back to: it stays a failure until containerd is well."""
    machine = Machine(tmp_path, config=OURS_3, version="2.1.9")
    machine.unit = replace(machine.unit, started_monotonic_us=1)
    machine.loaded = None
    machine.illness = points_at_ours
    for _ in range(3):
        _is(await Life(machine).step(), State.FAILED, "RestartFailed")
        assert (OURS_3, 2) == (machine.read(), machine.restarts)
    machine.illness = lambda _: None
    _is(await Life(machine).step(), State.IN_ORDER)
    assert 2 == machine.restarts


async def test_containers_that_end_by_themselves_meanwhile_are_no_loss(machine: Machine) -> None:
    """On a busy node some job always comes to its end."""
    machine.done = {"c1"}
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_containerd_that_somebody_starts_with_another_file_is_noticed(machine: Machine) -> None:
    """Its socket is new, so systemd is asked which file it reads."""
    life = Life(machine)
    await life.step()
    machine.config = machine.root / "etc/other.toml"
    machine.config.write_bytes(LEGACY)
    machine.unit = replace(machine.unit, argv=("/usr/bin/containerd", "--config", "/etc/other.toml"))
    _is(await life.step(), State.IN_ORDER)
    machine.boot_containerd()
    machine.passed_s += 700
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine, restarts=2)


async def test_a_way_back_whose_copy_is_gone_waits_for_a_person(machine: Machine) -> None:
    """It must not leave containerd without any file; what the person puts there is what it goes on with."""

    def lose_copies(loaded: bytes | None) -> str | None:
        for copy in machine.folder().glob("config.toml.*"):
            copy.unlink()
        return points_at_ours(loaded)

    machine.illness = lose_copies
    for _ in range(2):
        _is(await Life(machine).step(), State.FAILED, "BackupMissing")
        assert REGISTRY_D == config_path(machine.read())
    machine.config.write_bytes(OTHER)
    _is(await Life(machine).step(), State.FAILED, "RolledBack")
    assert (OTHER, OTHER) == (machine.read(), machine.loaded)


async def test_a_restart_that_fails_both_ways(machine: Machine) -> None:
    """Both jobs fail."""
    machine.outcomes = ["failed", "failed"]
    _is(await Life(machine).step(), State.FAILED, "RestartFailed")
    assert (LEGACY, 2) == (machine.read(), machine.restarts)


@pytest.mark.parametrize(
    "dump",
    [
        pytest.param((1, b""), id="exits-1"),
        pytest.param((0, b""), id="no-config-path"),
        pytest.param((0, OURS_3.replace(b"registry.d", b"certs.d")), id="another-config-path"),
        pytest.param((0, b"["), id="not-toml"),
    ],
)
async def test_a_candidate_that_containerd_does_not_take_is_never_written(
    machine: Machine, dump: tuple[int, bytes]
) -> None:
    """Nor is anybody asked for permission."""
    machine.dump = lambda _: dump
    life = Life(machine)
    _is(await life.step(), State.FAILED, "CandidateRefused")
    assert (LEGACY, 0, 0) == (machine.read(), machine.restarts, life.approval.asked)
    assert not list(machine.folder().glob("config.toml.*"))
    assert [machine.config] == list(machine.config.parent.iterdir())
    machine.dump = lambda raw: (0, raw)
    _is(await life.step(), State.RESTARTED)


@pytest.mark.parametrize("kill_mode", ["control-group", "mixed", ""])
async def test_a_restart_that_would_end_containers_is_refused(machine: Machine, kill_mode: str) -> None:
    """Only KillMode=process and none let them live."""
    machine.unit = replace(machine.unit, kill_mode=kill_mode)
    _is(await Life(machine).step(), State.FAILED, "RestartFailed")
    assert (LEGACY, 0) == (machine.read(), machine.restarts)


@pytest.mark.parametrize(
    "changes",
    [
        {"active_state": "deactivating"},
        {"active_state": "reloading"},
        {"active_state": "inactive"},
        {"active_state": "failed"},
        {"job_id": 7},
    ],
)
async def test_a_unit_that_does_not_run_as_it_should_is_waited_for(
    machine: Machine, changes: dict[str, object]
) -> None:
    """Somebody else is at it, or has ended it on purpose."""
    unit, machine.unit = machine.unit, replace(machine.unit, **changes)  # type: ignore[arg-type]
    life = Life(machine)
    switched = await life.step()
    _is(switched, State.WAITING, "ContainerdNotRunning")
    assert switched.retry_in_s == switch_ports.BUSY_RETRY_S
    assert (LEGACY, 0) == (machine.read(), machine.restarts)
    machine.unit = unit
    _is(await life.step(), State.RESTARTED)


async def test_a_restart_that_systemd_refuses_is_asked_for_again(machine: Machine) -> None:
    """The unit got busy a moment before."""
    machine.outcomes = ["refused"]
    life = Life(machine)
    _is(await life.step(), State.WAITING, "ContainerdNotRunning")
    assert 0 == machine.restarts
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_bus_that_goes_away_is_waited_for(machine: Machine) -> None:
    """Nobody knows whether the restart was begun; the start of containerd tells."""
    machine.outcomes = ["gone"]
    life = Life(machine)
    _is(await life.step(), State.FAILED, "BusGone")
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_unit_that_is_not_there_is_a_failure(machine: Machine) -> None:
    """Else the node would count as done although nobody knows what containerd reads."""
    unit, machine.unit = machine.unit, replace(machine.unit, load_state="not-found", active_state="inactive")
    life = Life(machine)
    _is(await life.step(), State.FAILED, "NoContainerdUnit")
    assert LEGACY == machine.read()
    machine.unit = replace(unit, name="containerd-deckhouse.service")
    _is(await life.step(), State.RESTARTED)


async def test_a_node_without_systemd_is_left_alone(machine: Machine) -> None:
    """A folder is one, and it is said; one with a config.toml that is not right is more than that."""
    life = Life(machine, has_systemd=False)
    _is(await life.step(), State.FAILED, "BusGone")
    machine.config.unlink()
    switched = await life.step()
    _is(switched, State.LEFT_ALONE)
    assert ["NoSystemBus"] == [notice.code for notice in switched.notices]
    assert (None, 0) == (machine.read(), life.connects)


async def test_the_budget_is_waited_for(machine: Machine) -> None:
    """Each new input costs a restart: after three, the next one comes when the first has left the window."""
    for number in range(1, 4):
        machine.config.write_bytes(LEGACY + b"# %d\n" % number)
        machine.boot_containerd()
        switched = await Life(machine).step()
        if number > 1:
            _is(switched, State.WAITING, "RestartBudget")
            assert 0 < (switched.retry_in_s or 0) <= 60
            machine.passed_s += 60
            switched = await Life(machine).step()
        _is(switched, State.RESTARTED)
    machine.config.write_bytes(LEGACY)
    machine.boot_containerd()
    machine.passed_s += 60
    switched = await Life(machine).step()
    _is(switched, State.WAITING, "RestartBudget")
    assert (LEGACY, 3) == (machine.read(), machine.restarts)
    machine.passed_s += switched.retry_in_s or 0
    _is(await Life(machine).step(), State.RESTARTED)


async def test_a_hold_is_waited_for(machine: Machine) -> None:
    """And nothing is checked, asked or written meanwhile."""
    life = Life(machine)
    life.held = "maintenance"
    switched = await life.step()
    _is(switched, State.WAITING, "RestartHeld")
    assert "maintenance" in switched.message
    assert (LEGACY, 0, []) == (machine.read(), life.approval.asked, machine.dumped)
    life.held = None
    _is(await life.step(), State.RESTARTED)


async def test_an_approval_is_waited_for_and_given_back(machine: Machine) -> None:
    """The candidate is checked once, however often it is asked."""
    life = Life(machine)
    life.approval.waiting = "waiting for n2"
    for _ in range(3):
        switched = await life.step()
        _is(switched, State.WAITING, "WaitingForApproval")
        assert "waiting for n2" == switched.detail
        assert "n2" not in switched.message
    assert (LEGACY, 0, 3, 1) == (machine.read(), machine.restarts, life.approval.asked, len(machine.dumped))
    assert life.approval.is_wanted
    life.approval.waiting = ""
    _is(await life.step(), State.RESTARTED)
    assert not life.approval.is_wanted


def _hold(life: Life) -> None:
    life.held = "not now"


def _switch_by_hand(life: Life) -> None:
    life.machine.config.write_bytes(
        b"version = 2\n" + OURS_3.split(b"\n", 1)[1].replace(b"cri.v1.images", b"grpc.v1.cri")
    )
    life.machine.boot_containerd()


def _break(life: Life) -> None:
    life.machine.config.write_bytes(b"[")


@pytest.mark.parametrize(
    ("happen", "goal", "is_clear"),
    [
        pytest.param(_hold, Goal.REGISTRY_D, True, id="hold"),
        pytest.param(_switch_by_hand, Goal.REGISTRY_D, True, id="done-by-hand"),
        pytest.param(_break, Goal.REGISTRY_D, True, id="broken-file"),
        pytest.param(lambda _: None, Goal.LEGACY, True, id="goal-gone"),
        pytest.param(lambda _: None, Goal.REGISTRY_D, False, id="legacy-is-back"),
    ],
)
async def test_the_wish_for_an_approval_is_given_up_with_its_cause(
    machine: Machine, happen: Callable[[Life], None], goal: Goal, *, is_clear: bool
) -> None:
    """Else Deckhouse would approve a node that does nothing, and let all others wait."""
    life = Life(machine)
    life.approval.waiting = "waiting for n2"
    _is(await life.step(), State.WAITING, "WaitingForApproval")
    happen(life)
    await life.step(goal, is_clear=is_clear)
    assert not life.approval.is_wanted
    assert 0 == machine.restarts


async def test_an_approval_that_cannot_be_given_back_is_by_the_next_step(machine: Machine) -> None:
    """The API was away; the switch is a success all the same."""
    life = Life(machine)
    life.approval.is_api_gone = True
    _is(await life.step(), State.RESTARTED)
    assert life.approval.is_held
    life.approval.is_api_gone = False
    _is(await life.step(), State.IN_ORDER)
    assert not life.approval.is_held


async def test_legacy_files_block_until_they_have_been_gone_for_a_moment(machine: Machine) -> None:
    """Editors take a file away before they write it anew."""
    life = Life(machine)
    _is(await life.step(is_clear=False), State.WAITING, "LegacyRegistryConfig")
    for _ in range(2):
        switched = await life.look()
        _is(switched, State.WAITING, "LegacySettling")
        assert CLEAR_SETTLE_S - 1 < (switched.retry_in_s or 0) <= CLEAR_SETTLE_S
        await life.step(is_clear=False)
    await life.look()
    machine.passed_s += CLEAR_SETTLE_S - 1.5
    _is(await life.look(), State.WAITING, "LegacySettling")
    assert (LEGACY, 0) == (machine.read(), machine.restarts)
    machine.passed_s += 1.5
    _is(await life.look(), State.RESTARTED)


@pytest.mark.parametrize("goal", list(Goal))
@pytest.mark.parametrize("version", ["1.7.24", "2.1.9"])
@pytest.mark.parametrize("is_known", [False, True])
async def test_what_a_containerd_was_started_with_is_not_forgotten_with_the_legacy_files(
    tmp_path: Path, version: str, goal: Goal, *, is_known: bool
) -> None:
    """config.toml is right all the time, and no later agent is led astray by that, whatever was wanted meanwhile."""
    machine = Machine(tmp_path, config=OURS_2, version=version)
    if is_known:
        _is(await Life(machine).step(), State.IN_ORDER)
        await Life(machine).step(goal, is_clear=False)
    machine.boot_containerd()
    machine.loaded = LEGACY
    if not is_known:
        await Life(machine).step(goal, is_clear=False)
    assert 0 == machine.restarts
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)
    _is(await Life(machine).step(), State.IN_ORDER)


async def test_legacy_files_that_containerd_has_never_read_cost_no_restart(tmp_path: Path) -> None:
    """They came after its start, and went before the next one."""
    machine = Machine(tmp_path, config=OURS_2, version="2.1.9")
    for is_clear in (True, False, True):
        _is(await Life(machine).step(is_clear=is_clear), State.IN_ORDER)
    assert 0 == machine.restarts


async def test_observing_writes_nothing(machine: Machine) -> None:
    """It says what would be done; not even a folder is made."""
    life = Life(machine, is_observing=True)
    for _ in range(2):
        _is(await life.step(), State.WOULD_CHANGE)
    assert (LEGACY, 0, 0, False) == (machine.read(), machine.restarts, life.approval.asked, machine.folder().exists())
    await Life(machine).step()
    before = machine.record()
    _is(await Life(machine, is_observing=True).step(), State.IN_ORDER)
    assert before == machine.record()


async def test_several_directories_become_one(tmp_path: Path) -> None:
    """containerd 2.1 ignores such a list silently, so it is said."""
    both = f"{REGISTRY_D}:/etc/docker/certs.d"
    machine = Machine(tmp_path, config=OURS_3.replace(REGISTRY_D.encode(), both.encode()), version="2.1.9")
    life = Life(machine, is_observing=True)
    assert "SeveralConfigPaths" in [notice.code for notice in (await life.step()).notices]
    _is(await Life(machine).step(), State.RESTARTED)
    assert OURS_3 == machine.read()
    _is_switched(machine)


async def test_a_file_that_was_changed_back_is_written_again_without_a_restart(machine: Machine) -> None:
    """containerd still runs with ours: nothing is to be loaded."""
    life = Life(machine)
    await life.step()
    ours = machine.read()
    for again in (life, Life(machine)):
        machine.config.write_bytes(LEGACY)
        _is(await again.step(), State.IN_ORDER)
        assert (ours, 1) == (machine.read(), machine.restarts)
        connects = again.connects
        _is(await again.step(), State.IN_ORDER)
        assert connects == again.connects
    machine.passed_s += 700
    _is(await life.step(Goal.LEGACY), State.RESTARTED)
    assert LEGACY == machine.read()


async def test_edits_around_the_section_need_no_restart(machine: Machine) -> None:
    """The registry section is all that counts."""
    life = Life(machine)
    await life.step()
    edited = (machine.read() or b"").replace(b"-999", b"-1")
    machine.config.write_bytes(edited)
    _is(await life.step(), State.IN_ORDER)
    assert (edited, 1) == (machine.read(), machine.restarts)


@pytest.mark.parametrize("config", [LEGACY, b"", None])
async def test_the_way_back_gives_the_bytes_back_and_restarts_once(tmp_path: Path, config: bytes | None) -> None:
    """On containerd 1; ten times over, without drift and with two restarts each."""
    machine = Machine(tmp_path, config=config)
    for cycle in range(1, 11):
        machine.passed_s += 700
        _is(await Life(machine).step(), State.RESTARTED)
        _is(await Life(machine).step(), State.IN_ORDER)
        machine.passed_s += 700
        _is(await Life(machine).step(Goal.LEGACY), State.RESTARTED)
        _is(await Life(machine).step(Goal.LEGACY), State.LEFT_ALONE)
        assert (config, config, 2 * cycle) == (machine.read(), machine.loaded, machine.restarts)
        assert not (machine.folder() / "saved-legacy.json").exists()


async def test_there_is_no_way_back_on_containerd_2(tmp_path: Path) -> None:
    """config_path stays, and nothing is restarted."""
    machine = Machine(tmp_path, version="2.1.9")
    await Life(machine).step()
    ours = machine.read()
    machine.passed_s += 700
    for _ in range(2):
        _is(await Life(machine).step(Goal.LEGACY), State.LEFT_ALONE)
    assert (ours, 1) == (machine.read(), machine.restarts)


async def test_a_way_back_that_is_not_well_is_rolled_back_too(machine: Machine) -> None:
    """Then registry.d is what containerd goes on with, and what was saved is still there."""
    await Life(machine).step()
    ours, saved = machine.read(), (machine.folder() / "saved-legacy.json").read_bytes()
    machine.illness = lambda raw: None if points_at_ours(raw) else "no"
    machine.passed_s += 700
    for _ in range(2):
        _is(await Life(machine).step(Goal.LEGACY), State.FAILED, "RolledBack")
    assert (ours, ours, 3) == (machine.read(), machine.loaded, machine.restarts)
    assert saved == (machine.folder() / "saved-legacy.json").read_bytes()


async def test_a_damaged_record_is_begun_anew(machine: Machine) -> None:
    """It is said; a containerd that says what it has loaded is not restarted for it."""
    await Life(machine).step()
    (machine.folder() / "record.json").write_bytes(b"{")
    switched = await Life(machine).step()
    _is(switched, State.IN_ORDER)
    assert ["SwitchRecordDamaged"] == [notice.code for notice in switched.notices]
    assert () == (await Life(machine).step()).notices
    _is_switched(machine)


async def test_kubelet_is_restarted_after_containerd_if_that_is_wished(machine: Machine) -> None:
    """A kubelet that refuses does not undo the switch."""
    _is(await Life(machine, restarts_kubelet=True).step(), State.RESTARTED)
    _is_switched(machine)


@pytest.mark.parametrize("end", ["well", "sick", "back"])
@pytest.mark.timeout(240)
async def test_an_agent_that_dies_at_any_call_is_taken_over(fast_dir: Path, end: str) -> None:
    """Before and after each call of files, systemd and containerd: exactly the restarts that are needed."""
    for at in itertools.count():
        trip = Trip(at)
        machine = await _prepared(fast_dir / str(at), end)
        restarts = machine.restarts
        is_dead = True
        with contextlib.suppress(Crash):
            await Life(machine, trip=trip).step(_goal(end))
            is_dead = False
        await _check_takeover(machine, end, restarts=restarts, at=at)
        shutil.rmtree(machine.root)
        if not is_dead:
            break
    print(f"\n{at} crash states")
    assert at >= 40


@pytest.mark.parametrize("end", ["well", "sick", "back"])
@pytest.mark.timeout(240)
async def test_a_machine_that_stops_at_any_call_to_the_disk_is_taken_over(fast_dir: Path, end: str) -> None:
    """The same with every call of the system that changes the disk."""
    for at in itertools.count():
        calls = Calls(at=at)
        machine = await _prepared(fast_dir / str(at), end)
        restarts = machine.restarts
        with contextlib.suppress(Crash):
            await Life(machine, calls=calls).step(_goal(end))
        assert machine.read() is not None
        await _check_takeover(machine, end, restarts=restarts, at=at)
        shutil.rmtree(machine.root)
        if not calls.has_failed:
            break
    print(f"\n{at} crash states")
    assert at >= 40


def _goal(end: str) -> Goal:
    return Goal.LEGACY if end == "back" else Goal.REGISTRY_D


async def _prepared(root: Path, end: str) -> Machine:
    machine = Machine(root)
    if end == "back":
        await Life(machine).step()
        machine.passed_s += 700
    if end == "sick":
        machine.illness = points_at_ours
    return machine


async def _check_takeover(machine: Machine, end: str, *, restarts: int, at: int) -> None:
    states = [(await Life(machine).step(_goal(end))).state for _ in range(2)]
    expected = {"well": State.IN_ORDER, "sick": State.FAILED, "back": State.LEFT_ALONE}[end]
    assert expected is states[-1], (at, states)
    needed = 2 if end == "sick" else 1
    assert needed == machine.restarts - restarts, f"crash at {at}: {machine.restarts - restarts} restarts"
    record = machine.record()
    assert record.under_way is None
    assert (end == "sick") is (record.failure is not None)
    if end == "well":
        _is_switched(machine)
    else:
        assert (LEGACY, LEGACY) == (machine.read(), machine.loaded)
    assert not list(machine.config.parent.glob(".registry-agent-*")), at
    assert not list(machine.folder().glob(".registry-agent-*")), at


async def test_a_permission_is_asked_for_again_before_an_unfinished_restart(machine: Machine) -> None:
    """The agent was stopped between write and restart; another node has the Lease now."""
    machine.outcomes = ["gone"]
    _is(await Life(machine).step(), State.FAILED, "BusGone")
    life = Life(machine)
    life.approval.waiting = "waiting for n2"
    _is(await life.step(), State.WAITING, "WaitingForApproval")
    assert 0 == machine.restarts
    life.approval.waiting = ""
    assert Granted() == await life.approval.ask()
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)


async def test_an_unfinished_switch_of_a_file_that_somebody_replaced_is_planned_anew(machine: Machine) -> None:
    """What was under way is nothing to go on with."""
    machine.outcomes = ["gone"]
    await Life(machine).step()
    machine.config.write_bytes(OTHER)
    machine.passed_s += 700
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)
    assert b"# another input" in (machine.read() or b"")


async def test_a_containerd_that_was_stopped_amid_a_switch_is_not_started(machine: Machine) -> None:
    """Whoever stopped it had a reason."""
    machine.outcomes = ["gone"]
    await Life(machine).step()
    machine.unit = replace(machine.unit, active_state="inactive")
    _is(await Life(machine).step(), State.WAITING, "ContainerdNotRunning")
    assert 0 == machine.restarts


async def test_a_record_names_no_content_of_the_file(machine: Machine) -> None:
    """Digests only."""
    await Life(machine).step()
    raw = machine.record().dump()
    assert b"mirror.test" not in raw
    assert machine.record() == Record.load(raw)


# What comes between: a crash, and then another goal, another file, another boot.


async def test_a_switch_of_another_goal_is_given_up_before_the_restart(machine: Machine) -> None:
    """The desired config was deleted meanwhile: nothing was restarted for it, and nothing is."""
    machine.outcomes = ["gone"]
    _is(await Life(machine).step(), State.FAILED, "BusGone")
    assert REGISTRY_D == config_path(machine.read())
    life = Life(machine)
    _is(await life.step(Goal.LEGACY), State.LEFT_ALONE)
    assert (LEGACY, LEGACY, 0) == (machine.read(), machine.loaded, machine.restarts)
    assert machine.record().under_way is None


async def test_a_switch_of_another_goal_that_is_done_is_not_taken_for_this_one(machine: Machine) -> None:
    """The agent died after the restart to registry.d, and the desired config was deleted meanwhile."""
    await _die(machine, "restart", after=True)
    machine.passed_s += 700
    life = Life(machine)
    _is(await life.switcher.finish(Goal.LEGACY, is_observing=False) or Switched(state=State.FAILED), State.RESTARTED)
    machine.passed_s += 700
    _is(await life.step(Goal.LEGACY), State.RESTARTED)
    assert (LEGACY, LEGACY, 2) == (machine.read(), machine.loaded, machine.restarts)


@pytest.mark.parametrize("outcome", ["refused", "unit-failed", "canceled"])
async def test_a_restart_that_was_surely_not_made_is_given_up(machine: Machine, outcome: str) -> None:
    """The file comes back, nobody waits for this node, and the budget is as it was."""
    machine.outcomes = [outcome]
    life = Life(machine)
    switched = await life.step()
    assert switched.reason in {"ContainerdNotRunning", "UnitFailed"}
    assert (LEGACY, 0, False) == (machine.read(), machine.restarts, life.approval.is_held)
    record = machine.record()
    assert (None, ()) == (record.under_way, record.restarts)
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_restart_that_a_shutdown_overtakes_holds_nothing_up_and_is_judged_after_the_boot(
    machine: Machine,
) -> None:
    """systemd stops containerd only when the agent has ended: to wait for containerd would be a deadlock."""
    machine.outcomes = ["overtaken"]
    life = Life(machine)
    _is(await life.step(), State.WAITING, "ContainerdNotRunning")
    assert CLEAR_SETTLE_S == machine.passed_s
    assert not life.approval.is_held
    machine.boot_id = "next boot"
    machine.boot_containerd()
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_file_that_somebody_edits_meanwhile_is_not_overwritten(machine: Machine) -> None:
    """Between the check and the rename."""

    def edit(raw: bytes) -> tuple[int, bytes]:
        machine.config.write_bytes(OTHER)
        return 0, raw

    machine.dump = edit
    life = Life(machine)
    _is(await life.step(), State.FAILED, "ContainerdConfigChanged")
    assert (OTHER, 0, None) == (machine.read(), machine.restarts, machine.record().under_way)
    assert not (machine.folder() / "saved-legacy.json").exists()
    machine.dump = lambda raw: (0, raw)
    _is(await life.step(), State.RESTARTED)
    assert b"# another input" in (machine.read() or b"")


async def test_a_file_that_somebody_mends_amid_the_way_back_stays(machine: Machine) -> None:
    """And if containerd was started with it, it is not restarted once more."""
    machine.illness = points_at_ours
    await _die(machine, "roll_back")
    machine.config.write_bytes(OTHER)
    machine.boot_containerd()
    _is(await Life(machine).step(), State.FAILED, "RolledBack")
    assert (OTHER, OTHER, 1) == (machine.read(), machine.loaded, machine.restarts)


async def test_containers_are_not_expected_to_survive_a_boot(machine: Machine) -> None:
    """The node was rebooted between the write and the restart: that was the restart."""
    await _die(machine, "restart")
    machine.boot_id = "boot2"
    machine.doomed = set(machine.containers)
    machine.boot_containerd()
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine, restarts=0)


async def test_a_containerd_that_did_not_come_up_for_us_is_started(machine: Machine) -> None:
    """The agent died between systemd's stop and start: nobody else would start it."""
    await _die(machine, "restart")
    machine.unit = replace(machine.unit, active_state="failed", result="start-limit-hit")
    life = Life(machine)
    life.held, life.approval.waiting = "maintenance", "waiting for n2"
    _is(await life.step(), State.RESTARTED)
    _is_switched(machine)


async def test_a_restart_that_never_comes_is_no_success(machine: Machine) -> None:
    """Its job is still queued at the deadline, and the containerd that answers is the one of before."""
    machine.outcomes = ["queued"]
    switched = await Life(machine).step()
    _is(switched, State.FAILED, "RolledBack")
    assert "was not started anew" in switched.message
    assert LEGACY == machine.read()


async def test_a_deletion_that_is_being_confirmed_begins_no_switch(machine: Machine) -> None:
    """It would be taken back in a moment; nor is anybody asked."""
    life = Life(machine)
    _is(await life.look(leave=Leave.WATCH), State.WOULD_CHANGE)
    assert (LEGACY, 0, 0) == (machine.read(), machine.restarts, life.approval.asked)
    await life.step()
    _is(await life.look(leave=Leave.WATCH), State.IN_ORDER)


async def test_an_observer_says_that_a_switch_is_unfinished(machine: Machine) -> None:
    """It must not write, and it must not say that all is well."""
    await _die(machine, "restart")
    _is(await Life(machine, is_observing=True).step(), State.FAILED, "SwitchUnfinished")


async def test_a_config_flag_that_is_taken_away_is_followed(machine: Machine) -> None:
    """containerd reads the usual file then."""
    usual = machine.config
    machine.config = machine.root / "etc/c.toml"
    machine.config.write_bytes(LEGACY)
    machine.unit = replace(machine.unit, argv=("/usr/bin/containerd", "--config", "/etc/c.toml"))
    await Life(machine).step()
    machine.config = usual
    machine.unit = replace(machine.unit, argv=("/usr/bin/containerd",))
    machine.boot_containerd()
    machine.passed_s += 700
    _is(await Life(machine).step(), State.RESTARTED)
    _is_switched(machine, restarts=2)


@pytest.mark.parametrize("argument", ["--config=${DIR}/config.toml", "--config=c.toml", "--config=/c.toml", "$OPTIONS"])
async def test_a_command_line_that_does_not_tell_the_file_is_refused(machine: Machine, argument: str) -> None:
    """systemd tells it as it stands in the unit."""
    machine.unit = replace(machine.unit, argv=("/usr/bin/containerd", argument))
    _is(await Life(machine).step(), State.FAILED, "ContainerdConfigUnsupported")
    assert (LEGACY, 0) == (machine.read(), machine.restarts)
    assert not (machine.root / "${DIR}").exists()


async def test_a_kubelet_that_fails_is_said_and_undoes_nothing(machine: Machine) -> None:
    """Once: the next step does not try again."""
    machine.outcomes = ["done", "failed"]
    switched = await Life(machine, restarts_kubelet=True).step()
    _is(switched, State.RESTARTED)
    assert ["KubeletNotRestarted"] == [notice.code for notice in switched.notices]
    _is(await Life(machine, restarts_kubelet=True).step(), State.IN_ORDER)


async def test_the_same_copy_is_kept_once(machine: Machine) -> None:
    """Else five failures would push the original out."""
    for _ in range(7):
        machine.outcomes = ["unit-failed"]
        await Life(machine).step()
    assert ["config.toml.1"] == [path.name for path in machine.folder().glob("config.toml.*")]


async def _die(machine: Machine, call: str, *, after: bool = False) -> None:
    """Let an agent die before, or after, it makes a call for the first time."""
    with contextlib.suppress(Crash):
        await Life(machine, trip=Trip(call=call, is_after=after)).step()
    assert machine.record().under_way is not None
