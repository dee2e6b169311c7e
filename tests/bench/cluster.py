"""The real daemon on a Node of the API double, both processes of their own; TLS and a token, as on a node."""

import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.bench import bare, daemon, double, sample
from tests.bench.double import Asked, Double
from tests.bench.figures import Figure, figures, in_turns, p99

HOSTS = 10
KUBECONFIG = "etc/kubernetes/kubelet.conf"
#: After a PUT, so that what it has set off is over.
PAUSE_S = 0.25
#: Between two PUTs of one Secret: the agent keeps half a second between two patches of its Node.
SPACING_S = 0.75
#: Connections that are idle for longer are closed: a change comes after hours, and finds none that is open.
KEEPALIVE_S = 0.1
#: The agent sends 15 Events in a burst and then one in a minute, so it is started anew for every few edits.
EDITS_PER_START = 10


@dataclass(slots=True, kw_only=True)
class _Side:
    """One of both that follow: it has a Secret and a Node of its own, and prints the version in place."""

    secret: str
    node: str
    user_agent: str
    durable_ms: list[float] = field(default_factory=list)
    patched_ms: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)

    def note(self, durable_ms: list[float], put_at: list[float], record: Sequence[Asked]) -> None:
        """Keep what came of some edits; the first one was to warm up."""
        own = [each for each in record if each.user_agent.startswith(self.user_agent)]
        rounds = [
            [each for each in own if start <= each.at < end]
            for start, end in itertools.pairwise([*put_at, float("inf")])
        ]
        self.durable_ms += durable_ms
        self.patched_ms += [_patched_ms(asked, start) for asked, start in zip(rounds, put_at, strict=True)][1:]
        self.requests += [float(len(asked)) for asked in rounds[1:]]


def changes(place: Path, *, runs: int) -> list[Figure]:
    """Measure from the PUT of the Secret until the files are durable, and until the Node's patch is accepted."""
    agent = _Side(secret="agent", node=double.node_name(0), user_agent="registry-agent/")
    floor = _Side(secret="floor", node=double.node_name(1), user_agent="bare-watcher")
    root = sample.fresh(place / "edited", b"")
    revisions = itertools.count(1)
    with double.running(place / "double", nodes=2, keepalive_s=KEEPALIVE_S) as api:
        for side in (agent, floor):
            api.create(side.secret, sample.document(HOSTS)[0])
        _install(api, root)
        with sample.running(*_agent(root, agent)) as process:  # the floor copies what it writes
            daemon.until_ready(root, process)
        while runs > 0:
            _race(place, api, (agent, floor), revisions, runs=min(runs, EDITS_PER_START))
            runs -= EDITS_PER_START
    return list(_figures(agent, floor))


def memory(place: Path, *, runs: int, settle_s: float) -> list[Figure]:
    """Measure resident (RSS) and unshared (USS) memory with a Secret as source and both watches open."""
    side = _Side(secret="agent", node=double.node_name(0), user_agent="")
    root, socket = sample.fresh(place / "memory", b""), str(place / "bare.sock")
    with double.running(place / "double", nodes=1) as api:
        api.create(side.secret, sample.document(HOSTS)[0])
        _install(api, root)
        paths = [f"/api/v1/namespaces/{double.NAMESPACE}/secrets?watch=1", "/api/v1/nodes?watch=1"]
        floors = {
            "python + aiohttp client and server": ("-c", bare.SERVER, socket),
            "the same + two watches over TLS": ("-c", bare.WATCHES, socket, str(api.kubeconfig), *paths),
        }
        name = f"{HOSTS} hosts, from the Secret"
        return daemon.idle_memory(name, root, _agent(root, side), floors, runs=runs, settle_s=settle_s)


def _race(place: Path, api: Double, sides: tuple[_Side, _Side], revisions: Iterator[int], *, runs: int) -> None:
    """Start both anew and edit their Secrets in turns."""
    root, copy = place / "edited", sample.fresh(place / "copy", b"")
    known, (agent, floor) = len(api.asked()), sides
    put_at: tuple[list[float], list[float]] = ([], [])
    with sample.running(*_agent(root, agent, log_level="info"), errors=subprocess.PIPE) as ours:
        daemon.until_ready(root, ours)
        with sample.running(*_watcher(root, copy, api, floor)) as theirs:
            daemon.until_ready(None, theirs)
            durable_ms = in_turns(
                runs,
                lambda: _durable_ms(api, agent.secret, ours.stderr, next(revisions), put_at[0]),
                lambda: _durable_ms(api, floor.secret, theirs.stdout, next(revisions), put_at[1]),
            )
            time.sleep(SPACING_S)
            record = api.asked(known)
    for side, samples, at in zip(sides, durable_ms, put_at, strict=True):
        side.note(samples, at, record)


def _durable_ms(api: Double, secret: str, output: IO[bytes] | None, revision: int, put_at: list[float]) -> float:
    """PUT another revision; return the time until the version is said to be in place."""
    document, version = sample.document(HOSTS, revision=revision)
    time.sleep(max(PAUSE_S, put_at[-1] + SPACING_S - time.monotonic()) if put_at else SPACING_S)
    with api.put(secret, document) as started:
        daemon.until_said(output, version)
        took_s = time.monotonic() - started
    put_at.append(started)
    return took_s * 1000


def _patched_ms(asked: Sequence[Asked], put_at: float) -> float:
    accepted = [each.at for each in asked if (each.verb, each.resource, each.code) == ("patch", "nodes/status", 200)]
    if not accepted:
        raise RuntimeError("an edit did not get to the Node")
    return (accepted[0] - put_at) * 1000


def _figures(agent: _Side, floor: _Side) -> Iterator[Figure]:
    durable = {"aiohttp watcher + the same bytes and fsyncs": floor.durable_ms}
    patched = {"the same watcher + one PATCH": floor.patched_ms}
    name = f"Secret PUT to durable, {HOSTS} hosts"
    yield from figures(f"{name}, p50", "ms", agent.durable_ms, durable)
    yield from figures(f"{name}, p99", "ms", agent.durable_ms, durable, statistic=p99)
    name = f"Secret PUT to Node patch accepted, {HOSTS} hosts"
    yield from figures(f"{name}, p50", "ms", agent.patched_ms, patched)
    yield from figures(f"{name}, p99", "ms", agent.patched_ms, patched, statistic=p99)
    yield from figures("API requests per change, one node", "req", agent.requests, {"one PATCH": floor.requests})


def _install(api: Double, root: Path) -> None:
    """Give a node its credentials where kubelet has them."""
    (root / KUBECONFIG).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(api.kubeconfig, root / KUBECONFIG)


def _agent(root: Path, side: _Side, *, log_level: str = "error") -> list[str]:
    cluster = ("--source", "kubernetes", "--secret-name", side.secret, "--node-name", side.node)
    return daemon.agent(root, *cluster, "--rollout-spread-s", "0", log_level=log_level)


def _watcher(model: Path, root: Path, api: Double, side: _Side) -> list[str]:
    places = [str(each) for each in (api.kubeconfig, model, root)]
    return ["-m", "tests.bench.watcher", *places, side.secret, side.node, sample.REGISTRY, sample.STATE]
