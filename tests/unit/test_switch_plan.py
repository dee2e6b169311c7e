"""What config.toml is to be, and what containerd's own dump has to say of it."""

from pathlib import PurePosixPath

import pytest

from agent.errors import AgentError, LegacyRestoreFailed
from agent.runtime import Containerd, ContainerdVersion, Flavour
from agent.switch_plan import SwitchPlan, dump_problem, make_switch_plan, section_digest
from agent.switching import Goal

REGISTRY_D = "/etc/containerd/registry.d"
V1, V2, UNKNOWN = (
    Containerd(flavour=Flavour.STOCK, version=version)
    for version in (ContainerdVersion(1, 7, 24), ContainerdVersion(2, 1, 9), None)
)
SECTION_2 = '[plugins."io.containerd.grpc.v1.cri".registry]'
SECTION_3 = '[plugins."io.containerd.cri.v1.images".registry]'
LEGACY = f"""# mine
version = 2
oom_score = -999
{SECTION_2}
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
    endpoint = ["https://canary.test"]
""".encode()
SWITCHED_2 = f'version = 2\n{SECTION_2}\n  config_path = "{REGISTRY_D}"\n'.encode()
SWITCHED_3 = f'version = 3\n{SECTION_3}\n  config_path = "{REGISTRY_D}"\n'.encode()


def _plan(
    goal: Goal = Goal.REGISTRY_D,
    raw: bytes | None = LEGACY,
    *,
    saved: bytes | None = None,
    containerd: Containerd = V1,
) -> SwitchPlan | None:
    return make_switch_plan(goal, raw, saved=saved, registry_dir=PurePosixPath(REGISTRY_D), containerd=containerd)


def _made(
    goal: Goal = Goal.REGISTRY_D,
    raw: bytes | None = LEGACY,
    *,
    saved: bytes | None = None,
    containerd: Containerd = V1,
) -> SwitchPlan:
    plan = _plan(goal, raw, saved=saved, containerd=containerd)
    assert plan is not None
    return plan


def test_the_way_there_and_back() -> None:
    """Legacy is moved aside and comes back byte for byte."""
    there = _made()
    assert (True, REGISTRY_D) == (there.is_changed, there.directory)
    assert b"canary.test" not in (there.content or b"")
    assert b"oom_score = -999\n" in (there.content or b"")
    back = _made(Goal.LEGACY, there.content, saved=there.saved)
    assert (LEGACY, True, None, None) == (back.content, back.is_changed, back.saved, back.directory)
    assert section_digest(LEGACY) == back.section
    assert there.section != back.section


@pytest.mark.parametrize("containerd", [V1, V2, UNKNOWN])
@pytest.mark.parametrize("raw", [None, b"", LEGACY, SWITCHED_2])
def test_a_second_plan_changes_nothing(raw: bytes | None, containerd: Containerd) -> None:
    """What was planned is in order, is the same attempt, and keeps what was saved."""
    first = _made(raw=raw, containerd=containerd)
    second = _made(raw=first.content, saved=first.saved, containerd=containerd)
    assert (first.content, False, first.saved) == (second.content, second.is_changed, second.saved)
    assert (first.section, first.attempt) == (second.section, second.attempt)


@pytest.mark.parametrize("raw", [SWITCHED_2, SWITCHED_3])
def test_a_file_that_is_right_is_left_alone(raw: bytes) -> None:
    """Not a byte, and nothing is to be undone later."""
    plan = _made(raw=raw, containerd=V2)
    assert (raw, False, None) == (plan.content, plan.is_changed, plan.saved)


def test_a_missing_file_is_made_and_removed_again() -> None:
    """The way back ends without a file."""
    there = _made(raw=None)
    assert there.content is not None
    assert b"version = 2" in there.content
    back = _made(Goal.LEGACY, there.content, saved=there.saved)
    assert (None, True) == (back.content, back.is_changed)


def test_a_new_file_has_the_schema_of_its_reader() -> None:
    """containerd 2 gets version 3, the others what all of them read."""
    versions = [(_made(raw=None, containerd=containerd).content or b"")[:11] for containerd in (V1, V2, UNKNOWN)]
    assert [b"version = 2", b"version = 3", b"version = 2"] == versions


def test_the_way_back_puts_edits_of_others_into_the_section_s_surroundings() -> None:
    """What somebody wrote elsewhere in the file stays."""
    there = _made()
    edited = (there.content or b"").replace(b"-999", b"-1")
    assert LEGACY.replace(b"-999", b"-1") == _made(Goal.LEGACY, edited, saved=there.saved).content


@pytest.mark.parametrize(
    ("goal", "raw", "saved", "containerd"),
    [
        pytest.param(Goal.LEGACY, LEGACY, None, V1, id="nothing-saved"),
        pytest.param(Goal.LEGACY, None, b"{}", V1, id="no-file"),
        pytest.param(Goal.LEGACY, SWITCHED_3, b"{}", V2, id="no-way-back-from-containerd-2"),
    ],
)
def test_goals_that_leave_the_file_alone(goal: Goal, raw: bytes | None, saved: bytes, containerd: Containerd) -> None:
    """There is no plan."""
    assert _plan(goal, raw, saved=saved, containerd=containerd) is None


def test_a_node_is_not_released_when_what_was_saved_is_lost() -> None:
    """It would be left without its mirrors, and nothing would say so; on containerd 2 none came back anyway."""
    switched = _made().content
    with pytest.raises(LegacyRestoreFailed, match="was moved aside, but what was saved is gone"):
        _plan(Goal.LEGACY, switched, saved=None)
    assert _plan(Goal.LEGACY, switched, saved=None, containerd=V2) is None


@pytest.mark.parametrize(
    ("raw", "containerd"),
    [
        pytest.param(b"[", V1, id="not-toml"),
        pytest.param(b"\xff", V1, id="not-text"),
        pytest.param(SWITCHED_3, V1, id="schema-3-on-1.x"),
        pytest.param(SWITCHED_3, UNKNOWN, id="schema-3-on-who-knows"),
        pytest.param(LEGACY.replace(b"version = 2\n", b""), V2, id="schema-1-on-2.1"),
    ],
)
def test_what_is_in_doubt_is_refused(raw: bytes, containerd: Containerd) -> None:
    """An AgentError, without a word of the file."""
    with pytest.raises(AgentError) as caught:
        _plan(raw=raw, containerd=containerd)
    assert "canary" not in str(caught.value)


def test_an_attempt_is_the_file_the_goal_and_the_reader() -> None:
    """Each of them makes another one, worth another try."""
    there = _made()
    others = [
        _made(raw=LEGACY + b"# more\n"),
        _made(containerd=V2),
        _made(Goal.LEGACY, there.content, saved=there.saved),
    ]
    assert len({there.attempt, *(plan.attempt for plan in others)}) == 4
    assert there.attempt == _made().attempt


def test_a_section_s_digest_does_not_see_the_rest() -> None:
    """Comments, order and other sections need no restart."""
    other = b"# comment\n" + SWITCHED_2 + b"\n[debug]\n  level = 'info'\n"
    assert section_digest(SWITCHED_2) == section_digest(other)
    assert section_digest(SWITCHED_2) != section_digest(SWITCHED_2.replace(b"registry.d", b"certs.d"))
    assert section_digest(None) == section_digest(b"")


def test_a_plan_says_nothing_of_what_it_holds() -> None:
    """A plan may be logged."""
    assert "canary" not in repr(_made())


_MIRRORS = 'mirrors."a.test"]\n    endpoint = ["https://canary.test"]\n'


@pytest.mark.parametrize(
    ("dump", "problem"),
    [
        pytest.param(SWITCHED_2, None, id="schema-2"),
        pytest.param(SWITCHED_3, None, id="schema-3"),
        pytest.param(SWITCHED_3.replace(b"version = 3", b"version = 4"), None, id="schema-4"),
        pytest.param(SWITCHED_2.replace(b'registry.d"', b'registry.d/"'), None, id="slash-at-the-end"),
        pytest.param(SWITCHED_2 + b"    [x]\n", None, id="more-beside"),
        pytest.param(SWITCHED_2 + SECTION_2[:-1].encode() + b".mirrors]\n", None, id="empty-mirrors"),
        pytest.param(SWITCHED_2 + SECTION_2[:-1].encode() + b".configs.x.auth]\nauth = 'x'\n", None, id="auth-beside"),
        pytest.param(b"version = 2\n", "config_path is not", id="none"),
        pytest.param(b"", "config_path is not", id="nothing"),
        pytest.param(SWITCHED_2.replace(REGISTRY_D.encode(), b""), "config_path is not", id="empty"),
        pytest.param(SWITCHED_2.replace(b"registry.d", b"certs.d"), "config_path is not", id="another"),
        pytest.param(SWITCHED_2.replace(b'registry.d"', b'registry.d:/b"'), "config_path is not", id="two"),
        pytest.param(
            f'version = 3\n{SECTION_3}\n  config_path = "/a"\n{SECTION_2}\n  config_path = "{REGISTRY_D}"\n'.encode(),
            "config_path is not",
            id="two-sections",
        ),
        pytest.param(SWITCHED_2 + f"{SECTION_2[:-1]}.{_MIRRORS}".encode(), "mirrors stand", id="mirrors-beside"),
        pytest.param(SWITCHED_3 + f"{SECTION_3[:-1]}.{_MIRRORS}".encode(), "mirrors stand", id="mirrors-beside-3"),
        pytest.param(b'plugins = "x"\n', "config_path is not", id="plugins-no-table"),
        pytest.param(b"canary [", "not TOML", id="not-toml"),
        pytest.param(b"\xff\xff", "not TOML", id="not-text"),
        pytest.param(b"a = " + b"[" * 20_000, "not TOML", id="deep"),
    ],
)
def test_what_the_dump_has_to_say(dump: bytes, problem: str | None) -> None:
    """Our directory and no other, and no mirrors beside it; never a word of the dump."""
    found = dump_problem(_made(), dump)
    assert (found is None) is (problem is None)
    assert problem is None or (found is not None and problem in found)
    assert "canary" not in (found or "")


def test_the_way_back_may_end_with_any_path() -> None:
    """Only TOML is asked for."""
    there = _made()
    back = _made(Goal.LEGACY, there.content, saved=there.saved)
    assert [None, None] == [dump_problem(back, dump) for dump in (LEGACY, SWITCHED_2)]
    assert dump_problem(back, b"[") is not None
