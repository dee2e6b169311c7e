"""What is known of the node's containerd, and from whom."""

from pathlib import Path

import pytest

from agent.disk.containerd import ContainerdFiles
from agent.disk.facts import NodeFacts, config_file
from agent.errors import RuntimeUnavailable
from agent.runtime import Flavour
from agent.settings import Settings
from agent.switching import Record
from tests.support.nodes import STATE_DIR, Node


class Known:
    """What the cluster says."""

    node_address: str | None = None
    runtime_version: str | None = None


class Asked:
    """A containerd that answers, or not."""

    def __init__(self, answer: str | None) -> None:
        self._answer = answer
        self.times = 0

    async def version(self) -> str:
        self.times += 1
        if self._answer is None:
            raise RuntimeUnavailable("Version", "UNAVAILABLE", "")
        return self._answer


def _version(facts: NodeFacts) -> str:
    return str(facts.target().containerd.version)


async def test_who_knows_the_version_best(tmp_path: Path) -> None:
    """The setting, the Node, what containerd said at a switch, what it says now, what was last rendered for."""
    settings, known, asked = Settings(root=tmp_path), Known(), Asked("1.7.24~ds1")
    Node(tmp_path).disk().write_facts(node_ip=None, containerd="1.6.20")
    facts = NodeFacts(settings, origin="", known=known, ask=asked.version)
    assert _version(facts) == "1.6.20"
    await facts.meet()
    assert (_version(facts), asked.times) == ("1.6.20", 0)
    (tmp_path / str(STATE_DIR)[1:] / "containerd-version").unlink()
    await facts.meet()
    assert (_version(facts), asked.times) == ("1.7.24", 1)
    ContainerdFiles(tmp_path, STATE_DIR).write_record(Record(version="1.7.25").dump())
    assert _version(facts) == "1.7.25"
    known.runtime_version = "containerd://2.1.9"
    assert _version(facts) == "2.1.9"
    fixed = settings.model_copy(update={"containerd_version": "1.6.38"})
    assert _version(NodeFacts(fixed, origin="", known=known)) == "1.6.38"


async def test_a_containerd_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    asked = Asked(None)
    facts = NodeFacts(Settings(root=tmp_path), origin="", ask=asked.version)
    for _ in range(2):
        await facts.meet()
    assert (_version(facts), asked.times) == ("None", 2)


def test_a_build_of_k3s_stays_one_without_the_api(tmp_path: Path) -> None:
    """Else its files would be written for another flavour during an outage."""
    known = Known()
    known.runtime_version = "containerd://1.7.23-k3s2"
    facts = NodeFacts(Settings(root=tmp_path), origin="", known=known)
    live = facts.target().containerd
    assert live.flavour is Flavour.K3S
    Node(tmp_path).disk().write_facts(node_ip=None, containerd=live.name)
    known.runtime_version = None
    assert facts.target().containerd == live


@pytest.mark.parametrize("record", [None, b"{", Record().dump(), Record(config="/etc/c/x.toml").dump()])
def test_the_file_that_containerd_was_last_seen_to_read(tmp_path: Path, record: bytes | None) -> None:
    """The usual one when nobody has looked, or the record is damaged."""
    if record is not None:
        ContainerdFiles(tmp_path, STATE_DIR).write_record(record)
    expected = "/etc/c/x.toml" if record and b"x.toml" in record else "/etc/containerd/config.toml"
    assert str(config_file(Settings(root=tmp_path))) == expected
