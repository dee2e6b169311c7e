"""Whole passes over a real folder: what is desired in, what stands on the disk and in the report out."""

import json
import os
from pathlib import Path

import pytest

from agent.desired import Absent, Origin
from agent.errors import RolledBack
from agent.managers import GONE_SETTLE_S, Manager
from agent.outcome import Mode, Standing, StepResult
from agent.report import as_json, make_report
from agent.runtime import Flavour
from agent.switch_ports import Leave
from agent.switching import Goal, State, Switched
from tests.support import configs, folders, reader
from tests.support.folders import Folder, Link, Plain
from tests.support.passes import SETTLE_S, UNREADABLE, Passes

PLATFORM = "registry.d8-system.svc:5001"
PUBLIC = "registry.deckhouse.io"
REWRITE = [{"from": "^system/deckhouse", "to": "repo/ee"}]

_direct = [configs.mirror("nexus.example.com:8443", ca=configs.ca(), password=configs.CANARY, rewrites=REWRITE)]
_unmanaged = [configs.mirror(PUBLIC, password="p<&>1")]
UNMANAGED = configs.config({PUBLIC: _unmanaged}, version="u", mode="Unmanaged")
TRANSITION = configs.config({PLATFORM: _direct, PUBLIC: _unmanaged}, version="t")
DIRECT = configs.config({PLATFORM: _direct}, version="d")
AGENT_BLOCK = json.dumps(
    {**json.loads(UNMANAGED), "agent": {"endpoint": "127.0.0.1:5001", "layout": "s3cret"}}
).encode()

INVALID = [
    pytest.param(b"", "the document is empty", id="empty"),
    pytest.param(b"mode: [", "not valid YAML", id="not-yaml"),
    pytest.param(configs.config({}, version="x"), "hosts: must have at least one entry", id="no-hosts"),
    pytest.param(configs.config({"../up": _direct}), "hosts", id="path-as-host"),
    pytest.param(configs.config({"a.test": [configs.mirror("m.test", ca="no PEM")]}), "ca", id="no-ca"),
]


async def test_the_switch_from_unmanaged_to_direct(tmp_path: Path) -> None:
    """Each config of a switch ends with exactly its hosts in place and its version published."""
    passes = Passes(tmp_path)
    for document, version, hosts in (
        (UNMANAGED, "u", [PUBLIC]),
        (TRANSITION, "t", [PLATFORM, PUBLIC]),
        (DIRECT, "d", [PLATFORM]),
    ):
        report = make_report(await passes.run(document))
        assert (True, "InPlace", version) == (report.verdict.is_ready, report.verdict.reason, report.applied_version)
        assert hosts == reader.state(tmp_path)
        assert sorted([*hosts, reader.STATE_FILE]) == sorted(path.name for path in passes.node.registry.iterdir())
        assert reader.problems(tmp_path, hosts) == []
        assert (passes.node.state_dir / "last-good.yaml").read_bytes() == document
    assert reader.endpoints(tmp_path, PLATFORM) == ["https://nexus.example.com:8443"]


async def test_a_pass_that_finds_all_right_changes_nothing(tmp_path: Path) -> None:
    """No inode, no time, no step says changed, and nothing is listed as changed."""
    passes = Passes(tmp_path)
    await passes.run(TRANSITION)
    before = folders.identities(tmp_path)
    outcome = await passes.run()
    assert before == folders.identities(tmp_path)
    assert [step.result for step in outcome.steps] == [StepResult.UNCHANGED] * 5
    report = make_report(outcome)
    assert ((), (), False) == (report.changed, report.pending, report.is_drift)


async def test_the_steps_are_named_in_order(tmp_path: Path) -> None:
    """A pass that writes says so step by step."""
    outcome = await Passes(tmp_path).run(DIRECT)
    assert [(step.name, step.result) for step in outcome.steps] == [
        ("desired", StepResult.UNCHANGED),
        ("legacy", StepResult.UNCHANGED),
        ("observe", StepResult.WOULD_CHANGE),
        ("registry.d", StepResult.CHANGED),
        ("verify", StepResult.UNCHANGED),
        ("containerd", StepResult.UNCHANGED),
    ]


@pytest.mark.parametrize(("document", "why"), INVALID)
async def test_an_invalid_document_keeps_the_last_good_one(tmp_path: Path, document: bytes, why: str) -> None:
    """A refused document changes nothing; drift is repaired with the last good one meanwhile."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    before = folders.read(passes.node.registry)
    (passes.node.registry / PLATFORM / "hosts.toml").write_text("# drift")
    outcome = await passes.run(document)
    assert before == folders.read(passes.node.registry)
    report = make_report(outcome)
    assert (Origin.LAST_GOOD, "d", True) == (outcome.origin, report.applied_version, report.is_drift)
    assert (False, "ConfigInvalid") == (report.verdict.is_ready, report.verdict.reason)
    assert why in report.verdict.message
    assert (passes.node.state_dir / "last-good.yaml").read_bytes() == DIRECT
    assert not outcome.is_retry_useful


@pytest.mark.parametrize(("document", "why"), INVALID)
async def test_an_invalid_first_document_touches_nothing(tmp_path: Path, document: bytes, why: str) -> None:
    """On a fresh node a refused document leaves no trace."""
    report = make_report(await Passes(tmp_path).run(document))
    assert (False, "ConfigInvalid", "unknown") == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.applied_version,
    )
    assert why in report.verdict.message
    assert Folder(mode=0o700) == folders.read(tmp_path)


async def test_a_document_this_containerd_cannot_do_keeps_the_last_good_one(tmp_path: Path) -> None:
    """Rewrites on stock containerd are not ready, with a reason of their own, and change nothing."""
    passes = Passes(tmp_path, flavour=Flavour.STOCK)
    await passes.run(UNMANAGED)
    before = folders.read(passes.node.registry)
    report = make_report(await passes.run(DIRECT))
    assert before == folders.read(passes.node.registry)
    assert (False, "RewriteUnsupported", "u") == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.applied_version,
    )


async def test_an_unreadable_source_at_start_uses_the_last_good_one(tmp_path: Path) -> None:
    """After a reboot without the API, the node gets what it had, and says that it is the old copy."""
    await Passes(tmp_path).run(DIRECT)
    for path in (tmp_path / "etc").rglob("*"):
        if path.is_file():
            path.unlink()
    passes = Passes(tmp_path)
    passes.source.reading = UNREADABLE
    outcome = await passes.run()
    report = make_report(outcome)
    assert reader.endpoints(tmp_path, PLATFORM) == ["https://nexus.example.com:8443"]
    assert (True, "LastGoodInPlace", "d") == (report.verdict.is_ready, report.verdict.reason, report.applied_version)
    assert (Origin.LAST_GOOD, True) == (outcome.origin, outcome.is_retry_useful)


async def test_an_unreadable_source_without_a_last_good_one_touches_nothing(tmp_path: Path) -> None:
    """Not knowing is not the same as nothing desired."""
    passes = Passes(tmp_path)
    passes.node.make("a.test", Folder())
    passes.source.reading = UNREADABLE
    report = make_report(await passes.run())
    assert (False, "SourceUnreadable") == (report.verdict.is_ready, report.verdict.reason)
    assert [path.name for path in passes.node.registry.iterdir()] == ["a.test"]


async def test_a_deletion_is_confirmed_before_the_release(tmp_path: Path) -> None:
    """Until the settle time is over the old config is kept and repaired; only then all of it goes."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    before = folders.read(passes.node.registry)
    passes.source.reading = Absent()
    first = await passes.run()
    assert (Standing.CONFIRMING_DELETION, SETTLE_S) == (first.standing, first.look_in_s)
    (passes.node.registry / PLATFORM / "hosts.toml").unlink()
    passes.now_s += SETTLE_S - 0.5
    second = await passes.run()
    assert (Standing.CONFIRMING_DELETION, 0.5) == (second.standing, second.look_in_s)
    assert before == folders.read(passes.node.registry)
    assert make_report(second).applied_version == "d"
    passes.now_s += 0.5
    report = make_report(await passes.run())
    assert (True, "NotConfigured", "unknown") == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.applied_version,
    )
    assert {reader.STATE_FILE: Plain(content=b"[]\n")} == folders.read(passes.node.registry).entries  # type: ignore[union-attr]
    assert not (passes.node.state_dir / "last-good.yaml").exists()
    assert reader.managed(tmp_path) == set()


async def test_a_restart_begins_the_settle_time_anew(tmp_path: Path) -> None:
    """Absent at start with a last good copy is confirmed too: one reading never releases a node."""
    await Passes(tmp_path).run(DIRECT)
    passes = Passes(tmp_path)
    assert (await passes.run()).standing is Standing.CONFIRMING_DELETION
    assert reader.state(tmp_path) == [PLATFORM]


async def test_a_document_that_comes_back_releases_nothing(tmp_path: Path) -> None:
    """Deleted and created again within the settle time: not one inode changes, and the wait begins anew."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    before = folders.identities(tmp_path)
    passes.source.reading = Absent()
    await passes.run()
    passes.now_s += SETTLE_S - 0.1
    assert (await passes.run(DIRECT)).standing is Standing.CONFIGURED
    passes.source.reading = Absent()
    assert (await passes.run()).look_in_s == SETTLE_S
    assert before == folders.identities(tmp_path)


async def test_an_unreadable_reading_breaks_the_row_of_absent_ones(tmp_path: Path) -> None:
    """Two absent readings with a failure between them confirm nothing."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    standings = []
    for reading in (Absent(), UNREADABLE, Absent()):
        passes.source.reading = reading
        standings.append((await passes.run()).standing)
        passes.now_s += SETTLE_S
    assert standings == [Standing.CONFIRMING_DELETION, Standing.CONFIGURED, Standing.CONFIRMING_DELETION]
    assert reader.state(tmp_path) == [PLATFORM]


async def test_a_release_gives_back_what_was_taken_over(tmp_path: Path) -> None:
    """The report names the takeover, and after the release the foreign directory is as it was."""
    foreign = Folder(mode=0o750, entries={"hosts.toml": Plain(content=b"# mine", mode=0o640), "link": Link("x")})
    passes = Passes(tmp_path)
    passes.node.make(PLATFORM, foreign)
    report = make_report(await passes.run(DIRECT))
    assert (PLATFORM,) == report.taken_over
    await passes.delete()
    assert passes.node.host(PLATFORM) == foreign


@pytest.mark.parametrize("is_state_lost", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize(
    "record",
    [None, b"", b"garbage", b'["registry', b"{}", b"[" + b" " * 2 * 1024 * 1024 + b"]"],
    ids=["lost", "empty", "garbage", "cut", "no-list", "too-large"],
)
async def test_a_lost_record_does_not_cost_what_was_taken_over(
    tmp_path: Path, record: bytes | None, *, is_restarted: bool, is_state_lost: bool
) -> None:
    """ownership.json is gone or damaged: the backup is kept by every pass, and a release still restores it."""
    foreign = Folder(mode=0o750, entries={"hosts.toml": Plain(content=b"# mine", mode=0o640), "link": Link("x")})
    passes = Passes(tmp_path)
    passes.node.make(PLATFORM, foreign)
    await passes.run(DIRECT)
    if is_state_lost:
        passes.node.state_file.unlink()
    passes.node.record.unlink() if record is None else passes.node.record.write_bytes(record)
    passes = Passes(tmp_path) if is_restarted else passes
    for _ in range(2):
        assert (await passes.run(DIRECT)).is_in_place
        assert folders.read(passes.node.backup) == Folder(mode=0o700, entries={PLATFORM: foreign})
    await passes.delete()
    assert passes.node.host(PLATFORM) == foreign


async def test_a_record_that_is_lost_before_the_release_does_not_cost_the_original(tmp_path: Path) -> None:
    """Not one pass between the loss, of the last good config too, and a restart with the document deleted."""
    foreign = Folder(mode=0o750, entries={"hosts.toml": Plain(content=b"# mine", mode=0o640)})
    passes = Passes(tmp_path)
    passes.node.make(PLATFORM, foreign)
    await passes.run(DIRECT)
    passes.node.record.unlink()
    (passes.node.state_dir / "last-good.yaml").unlink()
    passes = Passes(tmp_path)
    assert (await passes.run()).standing is Standing.CONFIRMING_DELETION
    await passes.delete()
    assert passes.node.host(PLATFORM) == foreign


async def test_an_absent_document_on_a_fresh_node_leaves_no_trace(tmp_path: Path) -> None:
    """Nothing desired and nothing managed: ready, and not one file is made."""
    report = make_report(await Passes(tmp_path).run())
    assert (True, "NotConfigured") == (report.verdict.is_ready, report.verdict.reason)
    assert Folder(mode=0o700) == folders.read(tmp_path)


async def test_an_agent_block_makes_the_agent_stand_down(tmp_path: Path) -> None:
    """Another owner is announced: nothing that stands is changed, not even our own files' drift."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    (passes.node.registry / PLATFORM / "hosts.toml").write_text("# the other agent's")
    before = folders.identities(tmp_path / "etc")
    report = make_report(await passes.run(AGENT_BLOCK))
    assert before == folders.identities(tmp_path / "etc")
    assert (False, "OtherAgent", Standing.OTHER_AGENT) == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.standing,
    )


@pytest.mark.parametrize("state", ["configured", "fresh", "deleted"])
async def test_a_marker_in_registry_d_makes_the_agent_stand_down(tmp_path: Path, state: str) -> None:
    """With .managed-by-agent nothing is written and nothing released, whatever the source says."""
    passes = Passes(tmp_path)
    if state != "fresh":
        await passes.run(DIRECT)
    passes.node.make(".managed-by-agent", Plain(content=b"another\n", mode=0o600))
    before = folders.identities(tmp_path)
    outcome = await passes.delete() if state == "deleted" else await passes.run(TRANSITION)
    assert before == folders.identities(tmp_path)
    assert (Standing.OTHER_AGENT, False) == (outcome.standing, outcome.is_in_place)


async def test_the_agent_goes_on_when_the_marker_is_gone(tmp_path: Path) -> None:
    """Standing down is not for ever."""
    passes = Passes(tmp_path)
    marker = passes.node.make(".managed-by-agent", Plain(content=b"another\n"))
    await passes.run(DIRECT)
    marker.unlink()
    assert make_report(await passes.run()).verdict.reason == "InPlace"


async def test_observe_writes_nothing_at_all(tmp_path: Path) -> None:
    """In mode observe not one byte, mode or time on the node changes, and the outcome tells what would."""
    passes = Passes(tmp_path, mode=Mode.OBSERVE)
    passes.node.make(PLATFORM, Folder(entries={"hosts.toml": Plain(content=b"# mine")}))
    before = folders.identities(tmp_path)
    outcome = await passes.run(TRANSITION)
    assert before == folders.identities(tmp_path)
    report = make_report(outcome)
    assert (False, "WouldChange", "unknown") == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.applied_version,
    )
    assert f"{PLATFORM}/hosts.toml" in report.pending
    assert ((), (PLATFORM,)) == (report.changed, report.taken_over)


@pytest.mark.parametrize("reading", ["document", "absent", "unreadable", "invalid", "agent-block"])
async def test_observe_writes_nothing_on_a_managed_node(tmp_path: Path, reading: str) -> None:
    """Also where the agent managed before: neither repair nor release nor last good copy."""
    await Passes(tmp_path).run(DIRECT)
    (tmp_path / "etc/containerd/registry.d" / PLATFORM / "hosts.toml").write_text("# drift")
    before = folders.identities(tmp_path)
    passes = Passes(tmp_path, mode=Mode.OBSERVE)
    passes.source.reading = UNREADABLE
    if reading == "absent":
        await passes.delete()
    elif reading != "unreadable":
        await passes.run({"document": UNMANAGED, "invalid": b"", "agent-block": AGENT_BLOCK}[reading])
    assert not (await passes.run()).is_in_place
    assert before == folders.identities(tmp_path)


async def test_observe_is_ready_where_all_is_in_place(tmp_path: Path) -> None:
    """Observing a node that is right says so."""
    await Passes(tmp_path).run(DIRECT)
    report = make_report(await Passes(tmp_path, mode=Mode.OBSERVE).run(DIRECT))
    assert (True, "InPlace", "d") == (report.verdict.is_ready, report.verdict.reason, report.applied_version)


async def test_drift_that_is_only_observed_is_not_called_repaired(tmp_path: Path) -> None:
    """`is_drift` feeds the counter of repairs and the log: without a repair it must stay off."""
    await Passes(tmp_path).run(DIRECT)
    passes = Passes(tmp_path, mode=Mode.OBSERVE)
    await passes.run(DIRECT)
    (passes.node.registry / PLATFORM / "hosts.toml").write_text("# drift")
    report = make_report(await passes.run())
    assert ((), False) == (report.changed, report.is_drift)


async def test_an_obstacle_is_an_error_with_reason_and_remedy(tmp_path: Path) -> None:
    """What the agent cannot get past is said in a word, a sentence and an advice; the rest stays as it is."""
    passes = Passes(tmp_path)
    passes.node.make(PLATFORM, Plain(content=b"in the way"))
    outcome = await passes.run(DIRECT)
    (error,) = outcome.errors
    assert ("PathObstructed", True, True) == (error.reason, bool(error.remedy), outcome.is_retry_useful)
    assert PLATFORM in error.message
    report = make_report(outcome)
    assert (False, "PathObstructed", False) == (
        report.verdict.is_ready,
        report.verdict.reason,
        report.hosts[0].is_in_place,
    )


async def test_a_pass_that_meets_a_failing_disk_reports_and_recovers(tmp_path: Path) -> None:
    """A symlink at the state directory is an outcome, not a crash; without it the next pass is fine."""
    passes = Passes(tmp_path)
    link = tmp_path / "var" / "lib" / "registry-agent"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    outcome = await passes.run(DIRECT)
    assert ["PathObstructed"] == [error.reason for error in outcome.errors]
    link.unlink()
    assert make_report(await passes.run()).verdict.reason == "InPlace"


async def test_trying_for_ever_uses_up_no_descriptors(tmp_path: Path) -> None:
    """A directory in place of last-good.yaml is a clear failure, the twentieth time as the first."""
    passes = Passes(tmp_path)
    (passes.node.state_dir / "last-good.yaml").mkdir(parents=True)
    await passes.run(DIRECT)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        (error,) = (await passes.run()).errors
        assert ("DiskFailed", True) == (error.reason, "last-good.yaml" in error.message)
    assert before == len(os.listdir("/proc/self/fd"))


async def test_no_secret_is_in_any_report(tmp_path: Path) -> None:
    """Reports of success, failure, drift and release know the user's name and nothing more."""
    passes = Passes(tmp_path)
    reports = [make_report(await passes.run(document)) for document in (DIRECT, b"", TRANSITION, AGENT_BLOCK)]
    reports.append(make_report(await passes.delete()))
    texts = [f"{report!r} {json.dumps(as_json(report))}" for report in reports]
    assert not [text for text in texts if configs.CANARY in text or "p<&>1" in text or "s3cret" in text]
    assert '"user": "robot"' in texts[0]


BASHIBLE = Manager(reason="BashibleActive", message="bashible manages registries")


async def test_where_somebody_else_manages_the_node_the_agent_observes(tmp_path: Path) -> None:
    """It computes and says so, and writes nothing; gone for certain, it takes over."""
    passes = Passes(tmp_path)
    passes.facts.others = (BASHIBLE,)
    outcome = await passes.run(DIRECT)
    report = make_report(outcome)
    assert not passes.node.registry.exists()
    assert not passes.node.state_dir.exists()
    assert ("BashibleActive", False) == (report.verdict.reason, report.verdict.is_ready)
    assert "the agent observes; mode observe: " in report.verdict.message
    assert Mode.OBSERVE is report.mode
    passes.facts.others = ()
    assert GONE_SETTLE_S == (await passes.run()).look_in_s
    assert not passes.node.registry.exists()
    passes.now_s += GONE_SETTLE_S
    assert "InPlace" == make_report(await passes.run()).verdict.reason


async def test_a_node_that_somebody_else_takes_is_not_released(tmp_path: Path) -> None:
    """Neither are files changed that the agent wrote, nor is a deletion followed."""
    passes = Passes(tmp_path)
    await passes.run(DIRECT)
    before = folders.read(passes.node.registry)
    passes.facts.others = (BASHIBLE,)
    passes.source.reading = Absent()
    for _ in range(3):
        passes.now_s += 60
        await passes.run()
    assert before == folders.read(passes.node.registry)
    report = make_report(await passes.run(DIRECT))
    assert ("BashibleActive", True) == (report.verdict.reason, report.verdict.is_ready)


class WaitingContainerd:
    """A containerd whose switches wait for a permission that does not come; notes what it is asked."""

    is_under_way = False

    def __init__(self) -> None:
        self.asked: list[tuple[Goal, Leave]] = []
        self.is_unfinished = False

    async def finish(self, goal: Goal | None, *, is_observing: bool) -> Switched | None:
        assert goal is not None
        assert not is_observing
        return Switched(state=State.FAILED, errors=(RolledBack("no"),)) if self.is_unfinished else None

    async def step(self, goal: Goal, *, is_clear: bool, leave: Leave) -> Switched:
        assert is_clear
        self.asked.append((goal, leave))
        return Switched(state=State.WAITING, reason="WaitingForApproval", message="waiting")


async def test_a_release_that_has_to_wait_is_not_confirmed_again_and_again(tmp_path: Path) -> None:
    """The permission would be given back in between, and the Node say something else every 5 s."""
    containerd = WaitingContainerd()
    passes = Passes(tmp_path, containerd=containerd)
    await passes.run(DIRECT)
    containerd.asked.clear()
    await passes.delete()
    for _ in range(3):
        passes.now_s += 60
        outcome = await passes.run()
        assert Standing.NOT_CONFIGURED is outcome.standing
        assert None is make_report(outcome).published_version
    assert [(Goal.REGISTRY_D, Leave.WATCH), *[(Goal.LEGACY, Leave.BEGIN)] * 4] == containerd.asked
    assert (passes.node.registry / PLATFORM / "hosts.toml").exists()


async def test_a_new_config_ends_a_release_that_waits(tmp_path: Path) -> None:
    """And the next deletion is confirmed as the first."""
    passes = Passes(tmp_path, containerd=WaitingContainerd())
    await passes.run(DIRECT)
    await passes.delete()
    assert Standing.CONFIGURED is (await passes.run(DIRECT)).standing
    passes.source.reading = Absent()
    assert Standing.CONFIRMING_DELETION is (await passes.run()).standing


async def test_an_unfinished_switch_is_finished_whatever_else_fails(tmp_path: Path) -> None:
    """It is looked at first, and its failure is the pass's; registry.d is kept right all the same."""
    containerd = WaitingContainerd()
    containerd.is_unfinished = True
    passes = Passes(tmp_path, containerd=containerd)
    outcome = await passes.run(DIRECT)
    assert "RolledBack" == make_report(outcome).verdict.reason
    assert (passes.node.registry / PLATFORM / "hosts.toml").exists()
    assert [] == containerd.asked


async def test_an_agent_that_is_stopped_before_containerd_publishes_nothing(tmp_path: Path) -> None:
    """registry.d is in place, but nobody has looked whether containerd reads it."""
    stops: list[bool] = []
    containerd = WaitingContainerd()
    passes = Passes(tmp_path, containerd=containerd, should_stop=lambda: bool(stops))
    await passes.run(DIRECT)
    containerd.asked.clear()
    stops.append(True)
    report = make_report(await passes.run())
    assert ("Interrupted", None) == (report.verdict.reason, report.published_version)
    assert [] == containerd.asked
