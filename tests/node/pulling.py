"""Pulls without a pause, as a busy node makes them while its configuration changes."""

import threading
from typing import Self

from tests.node.cri import Cri, PullFailed

ROUND_S = 60.0


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
