"""A reconciler over a real disk in a folder, with a source, a clock and node facts that the test holds."""

import functools
from collections.abc import Callable
from pathlib import Path

from agent import templates
from agent.daemon import LeaveAlone
from agent.desired import Absent, Present, Reading, Unreadable
from agent.disk.directory import Calls
from agent.disk.legacy import LegacyReader
from agent.errors import SourceUnreadable
from agent.hosts_toml import Target
from agent.managers import Manager
from agent.outcome import Mode, Outcome
from agent.reconcile import Containerd, Reconciler
from agent.render import Renderer
from agent.runtime import Containerd as Runtime
from agent.runtime import Flavour
from tests.support.nodes import Node
from tests.support.reader import REGISTRY_DIR

SETTLE_S = 5.0
UNREADABLE = Unreadable(error=SourceUnreadable("the API does not answer", remedy="wait"))


@functools.cache
def _renderer() -> Renderer:
    return Renderer(templates.read("hosts.toml.j2"))


class ScriptedSource:
    """Says what the test lets it say."""

    def __init__(self) -> None:
        """Begin empty."""
        self.reading: Reading = Absent()
        self.confirmations = 0

    async def read(self, *, is_confirming: bool) -> Reading:
        self.confirmations += is_confirming
        return self.reading

    def says(self, document: bytes) -> None:
        """Let the source have a document."""
        self.reading = Present(document=document)


class FixedFacts:
    """A node whose containerd never changes."""

    def __init__(self, flavour: Flavour) -> None:
        """Of the containerd, only the flavour is known."""
        self.others: tuple[Manager, ...] = ()
        self._target = Target(containerd=Runtime(flavour=flavour), registry_dir=REGISTRY_DIR, origin="a test")

    async def meet(self) -> None:
        """Know all there is."""

    def target(self) -> Target:
        return self._target

    def managers(self) -> tuple[Manager, ...]:
        return self.others


class Passes:
    """The parts of one agent's life. A new one on the same root is a restart of the agent."""

    def __init__(
        self,
        root: Path,
        *,
        mode: Mode = Mode.MANAGE,
        flavour: Flavour = Flavour.DECKHOUSE,
        calls: Calls | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        source: ScriptedSource | None = None,
        containerd: Containerd | None = None,
    ) -> None:
        """Start at second 1000 with an empty source."""
        self.node = Node(root)
        self.source = source or ScriptedSource()
        self.now_s = 1000.0
        self.facts = FixedFacts(flavour)
        self.reconciler = Reconciler(
            source=self.source,
            disk=self.node.disk(calls),
            legacy=LegacyReader(root),
            containerd=containerd or LeaveAlone(),
            node=self.facts,
            renderer=_renderer(),
            mode=mode,
            settle_s=SETTLE_S,
            should_stop=should_stop,
            clock=lambda: self.now_s,
        )

    async def run(self, document: bytes | None = None) -> Outcome:
        """Run one pass, with a new document if one is given."""
        if document is not None:
            self.source.says(document)
        return await self.reconciler.run_pass()

    async def delete(self) -> Outcome:
        """Let the source be empty for longer than the settle time; return the outcome of the release."""
        self.source.reading = Absent()
        await self.reconciler.run_pass()
        self.now_s += SETTLE_S
        return await self.reconciler.run_pass()
