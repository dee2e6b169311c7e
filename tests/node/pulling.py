"""Pulls without a pause, as a busy node makes them while its configuration changes."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from tests.node.cri import Cri, PullFailed
from tests.node.images import Image
from tests.node.node import Node

ROUND_S = 60.0
WORKERS = 3
#: A kubelet waits for 10 s and doubles it up to 300 s. Who comes back sooner asks more of the node.
BACKOFF_S = 0.25
MAX_BACKOFF_S = 2.0


class Puller:
    """Pulls and removes a set of images over and over in a thread of its own."""

    def __init__(self, cri: Cri, *references: str) -> None:
        """Prepare to pull `references`; entering the context begins."""
        self.failures: list[str] = []
        self.rounds = 0
        self._cri = cri
        self._references = references
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="puller")

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after the round under way."""
        with self._changed:
            self._is_stopping = True
        self._thread.join()

    def use(self, *references: str) -> None:
        """Pull other images from now on; return after a few rounds that pulled only these."""
        with self._changed:
            self._references = references
        # One round may have begun with the former references.
        self.wait(1 + 3)

    def wait(self, rounds: int) -> None:
        """Return when so many more rounds have ended."""
        with self._changed:
            target = self.rounds + rounds
            if not self._changed.wait_for(lambda: self.rounds >= target, rounds * ROUND_S):
                raise TimeoutError(f"{self.rounds} of {target} rounds of pulls")

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._is_stopping:
                    return
                references = self._references
            for reference in references:
                self._pull(reference)
            with self._changed:
                self.rounds += 1
                self._changed.notify_all()

    def _pull(self, reference: str) -> None:
        try:
            self._cri.pull(reference)
        except PullFailed as error:
            self.failures.append(str(error))
        self._cri.remove(reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One image that the node had never seen, and the registry that its reference names."""

    name: str
    image: Image
    turn: int


class FreshPuller:
    """Pulls images that are new, several at once, as a kubelet does: what fails is tried again after a while.

    Every failure counts but those that are announced: containerd is restarted, or the node is. They count as retries,
    and only if containerd was away: a registry's answer is a failure at any time.
    """

    def __init__(self, node: Node, make: Callable[[], Image]) -> None:
        """`make` makes a new image that registries serve already; pulls begin with the first `use`."""
        self.failures: list[str] = []
        self.retries: list[str] = []
        self.pulls: list[Pull] = []
        self._cris = [Cri(node.socket)]
        self._make = make
        self._names: tuple[str, ...] = ()
        self._turn = 0
        self._numbers = itertools.count()
        self._under_way: list[Pull] = []
        self._is_announced = False
        self._is_stopping = threading.Event()
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="puller")
        self._ends: list[Future[None]] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._ends = [self._threads.submit(self._work) for _ in range(WORKERS)]
        return self

    def __exit__(self, *_: object) -> None:
        """End after the pulls under way; raise what has ended a worker."""
        self._is_stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._threads.shutdown()
        for cri in self._cris:
            cri.close()
        for end in self._ends:
            end.result()

    def use(self, *names: str) -> None:
        """Pull by these names from now on; return when the last pull that began before has ended."""
        with self._changed:
            self._names = names
            self._turn += 1
            self._changed.notify_all()
            self._wait(lambda: all(pull.turn == self._turn for pull in self._under_way))

    def seen(self, count: int) -> list[Pull]:
        """Return the pulls since the last `use`, once there are so many by each name."""
        with self._changed:
            self._wait(lambda: all(n >= count for n in self._counts().values()))
            return [pull for pull in self.pulls if pull.turn == self._turn]

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Let containerd be away: for what is under way then, and for what begins before it is back."""
        self._is_announced = True
        yield
        self._is_announced = False

    def move(self, node: Node) -> None:
        """Go on with the node that has come out of a boot."""
        self._cris.append(Cri(node.socket))

    def told(self) -> str:
        """Say how much was pulled."""
        again = {pull.split(" ", 1)[0] for pull in self.retries}
        return f"{len(self.pulls)} fresh images pulled, {len(again)} of them again ({len(self.retries)} times)"

    def _counts(self) -> dict[str, int]:
        names = Counter(pull.name for pull in self.pulls if pull.turn == self._turn)
        return {name: names[name] for name in self._names}

    def _wait(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._is_in_vain() or condition(), ROUND_S)
        if self._is_in_vain() or not condition():
            raise RuntimeError(f"pulls have failed or ended: {self.failures}; were tried again: {self.retries}")

    def _is_in_vain(self) -> bool:
        return bool(self.failures) or any(end.done() for end in self._ends)

    def _work(self) -> None:
        while (pull := self._next()) is not None:
            is_pulled = self._pull(pull)
            with self._changed:
                self._under_way.remove(pull)
                self.pulls += [pull] if is_pulled else []
                self._changed.notify_all()

    def _next(self) -> Pull | None:
        image = self._make()
        with self._changed:
            self._changed.wait_for(lambda: self._names or self._is_stopping.is_set())
            if self._is_stopping.is_set():
                return None
            name = self._names[next(self._numbers) % len(self._names)]
            pull = Pull(name=name, image=image, turn=self._turn)
            self._under_way.append(pull)
            return pull

    def _pull(self, pull: Pull) -> bool:
        """Pull, and tell whether the image is there in the end."""
        pause_s = BACKOFF_S
        while True:
            was_announced = self._is_announced
            try:
                self._cris[-1].pull(f"{pull.name}/{pull.image.name}")
            except PullFailed as error:
                if not (error.is_containerd_away and (was_announced or self._is_announced)):
                    self.failures.append(str(error))
                    return False
                self.retries.append(str(error))
                self._is_stopping.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_BACKOFF_S)
            else:
                return True
