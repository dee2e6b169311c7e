"""What a node asks of the API while nothing happens: the real client and the real double in simulated time."""

import asyncio
import contextlib
import selectors
import threading
import time
from pathlib import Path

from tests.apidouble.cluster import Cluster
from tests.apidouble.server import ApiDouble
from tests.bench import double, fleet, sample
from tests.bench.figures import Figure, figures

HOUR_S = 3600.0
#: Of two watches that last nine minutes on average; arithmetic, not measured.
RENEWALS = 2 * HOUR_S / 540

#: What is on its way through the loopback device has this time to arrive.
_GRACE_S = 0.0003


class _Skipping(selectors.DefaultSelector):
    """When nothing is to be read and no thread works, the time until the next timer is skipped."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        is_somebody_working = threading.active_count() > 1
        ready = super().select(_GRACE_S)
        if not ready and not is_somebody_working:
            self.skipped_s += timeout
        return ready


class _SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop for which idle time takes no time."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return time.monotonic() + self._skipping.skipped_s


def requests(place: Path, *, nodes: int, hours: int) -> list[Figure]:
    """Count the requests of an idle node per hour, after the first one, in which it starts."""
    with asyncio.Runner(loop_factory=_SimulatedLoop) as runner:
        hourly = runner.run(_hourly(place, nodes, hours))
    floors = {"renewals of two watches of 540 s": [RENEWALS]}
    name = f"API requests per node and idle hour, {nodes * hours} h simulated"
    return figures(name, "req", [sum(hourly) / len(hourly)], floors)


async def _hourly(place: Path, nodes: int, hours: int) -> list[float]:
    cluster = Cluster()
    cluster.put_secret(sample.document(fleet.HOSTS)[0])
    for index in range(nodes):
        cluster.add_node(double.node_name(index))
    async with ApiDouble(cluster) as api:
        kubeconfig = api.write_kubeconfig(place / "kubeconfig")
        sides = [fleet.NodeSide(index, kubeconfig, spread_s=10).run() for index in range(nodes)]
        running = asyncio.gather(*sides)
        counts = []
        for _ in range(hours + 1):
            before = len(api.requests)
            await asyncio.sleep(HOUR_S)
            counts.append((len(api.requests) - before) / nodes)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return counts[1:]
