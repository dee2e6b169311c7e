"""One object followed through everything that an API server does: on real sockets, and for hours in fake time."""

import asyncio
import contextlib
import dataclasses
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from agent.errors import ApiFailed, CredentialsUnusable
from agent.kube import resources
from agent.kube.client import Listing, Object
from agent.kube.resources import Resource
from agent.kube.watch import Api, ObjectWatch, Timing
from tests.apidouble.cluster import SECRET, Cluster
from tests.apidouble.faults import (
    Answer,
    Cut,
    Drip,
    End,
    ErrorEvent,
    Fault,
    Freeze,
    Hang,
    Line,
    Reset,
    Strike,
    too_many_requests,
)
from tests.apidouble.server import ApiDouble
from tests.support.faketime import jumping, now, settle
from tests.support.kube import FAST, Bell, client_of, running
from tests.support.memory_api import MemoryApi
from tests.support.waiting import until_async

PLACE = resources.secret("d8-system", SECRET)
HOUR_S = 3600.0


def _text(secret: Object) -> str:
    """View of the Secret: the annotation `n`, so that other changes are of no interest."""
    return str((secret["metadata"].get("annotations") or {}).get("n"))


class Even(random.Random):
    """Always draws the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


class Follower:
    """A watch of the Secret, with everything that a test wants to know of it."""

    def __init__(self, api: Api, timing: Timing = FAST, rng: random.Random | None = None) -> None:
        self.bell = Bell()
        self.watch = ObjectWatch(
            api, PLACE, view=_text, on_change=self._changed, timing=timing, rng=rng or random.Random(1)
        )
        self.seen: list[tuple[str | None, bool]] = []

    def _changed(self) -> None:
        self.seen.append((self.watch.found, self.watch.is_stale))
        self.bell.ring()

    async def until(self, expected: str | None) -> None:
        """Wait until the watch knows this."""
        await self.bell.until(lambda: self.watch.is_known and expected == self.watch.found)


def _put(cluster: Cluster, text: str) -> None:
    cluster.put_secret(b"v", annotations={"n": text})


# On real sockets.


@dataclasses.dataclass(kw_only=True)
class Followed:
    """A follower that runs, and the double that it follows."""

    double: ApiDouble
    follower: Follower

    @property
    def watch(self) -> ObjectWatch[str]:
        return self.follower.watch

    def put(self, text: str) -> None:
        _put(self.double.cluster, text)

    def counts(self) -> tuple[int, int]:
        """How many lists and watches there were."""
        return self.double.count("list", "secrets"), self.double.count("watch", "secrets")

    async def until_watching(self, *, times: int = 1) -> None:
        """Wait until this many watches were opened, and one is open."""
        await self.double.until(lambda: self.counts()[1] >= times and self.double.watching() > 0)


@contextlib.asynccontextmanager
async def _following(double: ApiDouble, timing: Timing = FAST) -> AsyncIterator[Followed]:
    async with client_of(double) as api:
        follower = Follower(api, timing)
        async with running(follower.watch.run()):
            yield Followed(double=double, follower=follower)


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    """Return a follower that has seen the Secret, annotation `n` = 1, and watches it."""
    async with ApiDouble() as double:
        _put(double.cluster, "1")
        async with _following(double, dataclasses.replace(FAST, silence_s=0.3)) as followed:
            await followed.follower.until("1")
            await followed.until_watching()
            yield followed


async def test_an_object_is_listed_and_then_watched(followed: Followed) -> None:
    """One list, one watch, and every change arrives without another request."""
    for text in ("2", "3", "4"):
        followed.put(text)
        await followed.follower.until(text)
    assert (1, 1) == followed.counts()
    assert [("1", False), ("2", False), ("3", False), ("4", False)] == followed.follower.seen
    assert {SECRET} == {request.name for request in followed.double.requests}


async def test_a_watch_that_ends_normally_goes_on_without_a_list(followed: Followed) -> None:
    """From the last version: what happens in between is not lost."""
    for number in range(2, 6):
        followed.double.faults.strike(End())
        followed.put(str(number))
        await followed.follower.until(str(number))
    assert 1 == followed.counts()[0]
    assert followed.watch.error is None


@pytest.mark.parametrize("strike", [Cut(), Reset(), Line(), Freeze()], ids=str)
async def test_a_watch_that_breaks_goes_on_from_where_it_was(followed: Followed, strike: Strike) -> None:
    """Cut in the middle of an object, reset, garbage, half-open: no list, nothing lost, no false alarm."""
    for number in range(2, 5):
        followed.double.faults.strike(strike)
        followed.put(str(number))
        await followed.follower.until(str(number))
        await followed.until_watching(times=number)
    assert 1 == followed.counts()[0]
    assert [str(number) for number in range(1, 5)] == [found for found, _ in followed.follower.seen]


async def test_a_secret_of_the_largest_size_comes_in_small_pieces(followed: Followed) -> None:
    """1 MiB, in base64 1.4 MiB, in chunks that end anywhere."""
    content = bytes(range(256)) * 4096
    followed.double.faults.strike(Drip(chunk_bytes=997))
    followed.double.cluster.put_secret(content, annotations={"n": "large"})
    followed.put("small")
    await followed.follower.until("small")
    assert ["1", "large", "small"] == [found for found, _ in followed.follower.seen]
    assert (1, 1) == followed.counts()


async def test_many_events_in_one_piece_are_read_one_by_one(followed: Followed) -> None:
    """A burst: the newest wins, and nothing is requested again."""
    for number in range(2, 500):
        followed.put(str(number))
    await followed.follower.until("499")
    assert (1, 1) == followed.counts()


async def test_an_event_above_the_limit_is_given_up(followed: Followed) -> None:
    """No such object can be in etcd; the agent's memory is not the server's."""
    huge = b'{"type":"MODIFIED","object":{"metadata":{"annotations":{"n":"%s"}}}}\n' % (b"x" * 3 * 1024 * 1024)
    followed.double.faults.strike(Line(body=huge))
    await followed.until_watching(times=2)
    followed.put("2")
    await followed.follower.until("2")
    assert 1 == followed.counts()[0]


@pytest.mark.parametrize(
    "body",
    [
        b"null\n",
        b"[]\n",
        b"7\n",
        b"\n",
        b"{}\n",
        b'{"type":"MODIFIED"}\n',
        b'{"type":"MODIFIED","object":7}\n',
        b'{"type":"MODIFIED","object":{}}\n',
        b'{"type":"MODIFIED","object":{"metadata":7}}\n',
        b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":7}}}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\x00\n",
    ],
    ids=lambda body: str(body[:40]),
)
async def test_an_event_that_is_none_ends_the_watch(followed: Followed, body: bytes) -> None:
    """Whatever is wrong with it: the watch goes on from where it was, and what is known stays."""
    followed.double.faults.strike(Line(body=body))
    await followed.until_watching(times=2)
    assert "1" == followed.watch.found
    assert 1 == followed.counts()[0]


async def test_an_event_about_another_object_is_ignored(followed: Followed) -> None:
    """A server that does not know field selectors on names would send those."""
    version = followed.double.cluster.revision
    metadata = b'{"name":"other","resourceVersion":"%d","annotations":{"n":"other"}}' % version
    followed.double.faults.strike(Line(body=b'{"type":"MODIFIED","object":{"metadata":%s}}\n' % metadata))
    followed.double.faults.strike(Line(body=b'{"type":"DELETED","object":{"metadata":%s}}\n' % metadata))
    followed.put("2")
    await followed.follower.until("2")
    assert ["1", "2"] == [found for found, _ in followed.follower.seen]


@pytest.mark.parametrize("expires_in_stream", [True, False])
async def test_a_version_that_is_too_old_begins_with_a_new_list(followed: Followed, *, expires_in_stream: bool) -> None:
    """410, as an ERROR event and as an answer: the list finds what was missed."""
    double = followed.double
    double.expires_in_stream = expires_in_stream
    await double.down()
    followed.put("2")
    double.cluster.compact()
    followed.put("3")
    await double.up()
    await followed.follower.until("3")
    await followed.until_watching(times=2)
    assert 2 == followed.counts()[0]
    assert ["1", "3"] == [found for found, _ in followed.follower.seen]


@pytest.mark.parametrize("code", [410, 500, 504])
async def test_an_error_event_begins_with_a_new_list(followed: Followed, code: int) -> None:
    """Whatever its code: the watch cannot be trusted any more, as client-go sees it."""
    followed.double.faults.strike(ErrorEvent(code=code))
    await followed.until_watching(times=2)
    followed.put("2")
    await followed.follower.until("2")
    assert (2, 2) == followed.counts()
    assert ["1", "2"] == [found for found, _ in followed.follower.seen]


async def test_a_new_list_finds_that_the_object_is_gone(followed: Followed) -> None:
    """Nobody saw the DELETED event."""
    await followed.double.down()
    followed.double.cluster.delete_secret()
    followed.double.cluster.compact()
    await followed.double.up()
    await followed.follower.until(None)
    assert ["1", None] == [found for found, _ in followed.follower.seen]


async def test_a_deletion_and_a_new_creation_are_seen(followed: Followed) -> None:
    """Both, in the same watch."""
    followed.double.cluster.delete_secret()
    await followed.follower.until(None)
    followed.put("2")
    await followed.follower.until("2")
    assert (1, 1) == followed.counts()
    assert ["1", None, "2"] == [found for found, _ in followed.follower.seen]


async def test_an_object_that_comes_later_is_seen() -> None:
    """What is not there can be watched as well; that it is not there is news once."""
    async with ApiDouble() as double, _following(double) as followed:
        await followed.follower.until(None)
        await followed.until_watching()
        followed.put("1")
        await followed.follower.until("1")
    assert [(None, False), ("1", False)] == followed.follower.seen


async def test_a_server_that_comes_back_on_its_port_is_found(followed: Followed) -> None:
    """A restart with a change in between: one new watch from the old version is enough."""
    async with followed.double.outage():
        await until_async(lambda: followed.watch.error is not None, what="the failure")
        followed.put("2")
    await followed.follower.until("2")
    assert 1 == followed.counts()[0]
    assert followed.watch.error is None


async def test_bookmarks_keep_a_silent_watch_alive() -> None:
    """Silence has a limit; a bookmark in time is a word."""
    async with ApiDouble() as double:
        double.bookmark_interval_s = 0.05
        _put(double.cluster, "1")
        async with _following(double, dataclasses.replace(FAST, silence_s=0.3)) as followed:
            await followed.follower.until("1")
            await asyncio.sleep(0.8)
            assert (1, 1) == followed.counts()


async def test_a_watch_is_asked_to_end_within_its_time_and_bookmarks_are_followed() -> None:
    """Ended by the server's clock; the new one starts from a version that bookmarks have brought."""
    async with ApiDouble() as double:
        double.bookmark_interval_s = 0.05
        _put(double.cluster, "1")
        async with _following(double, dataclasses.replace(FAST, watch_s=1.2)) as followed:
            await followed.until_watching()
            double.cluster.add_node("w1")
            await asyncio.sleep(0.2)
            double.cluster.compact()
            await followed.until_watching(times=2)
            followed.put("2")
            await followed.follower.until("2")
            assert 1 == followed.counts()[0]


async def test_a_hanging_list_does_not_keep_the_watch_from_being_ended(followed: Followed) -> None:
    """Cancellation ends everything at once, in whatever state it is."""
    followed.double.faults.add(Hang())
    followed.double.faults.strike(ErrorEvent())
    await followed.double.until(lambda: followed.counts()[0] == 2)


# For hours, in fake time.

TIMING = Timing()
#: The longest time from a failure to the end of the wait for the next attempt.
CAP_S = TIMING.backoff.cap_s


@contextlib.asynccontextmanager
async def _in_memory(
    *, timing: Timing = TIMING, rng: random.Random | None = None, api: MemoryApi | None = None
) -> AsyncIterator[tuple[MemoryApi, Follower]]:
    """Follow the Secret, `n` = 1, of a cluster in memory; begins when it is watched."""
    if api is None:
        api = MemoryApi(Cluster())
        _put(api.cluster, "1")
    follower = Follower(api, timing, rng)
    async with running(follower.watch.run()):
        await settle()
        yield api, follower


@jumping
async def test_a_quiet_day_costs_next_to_nothing() -> None:
    """No polling: a watch every nine minutes, and nothing is told."""
    async with _in_memory() as (api, follower):
        await asyncio.sleep(24 * HOUR_S)
        assert 1 == api.count("list")
        assert 24 * HOUR_S / (1.1 * TIMING.watch_s) <= api.count("watch") <= 24 * HOUR_S / (0.9 * TIMING.watch_s) + 1
        assert [("1", False)] == follower.seen
        assert follower.watch.silent_for_s is not None
        assert follower.watch.silent_for_s <= api.bookmark_interval_s


@jumping
async def test_the_ends_of_watches_are_spread() -> None:
    """Nodes that were started together must not come together for ever: +-10 %."""
    async with _in_memory() as (api, _):
        await asyncio.sleep(6 * HOUR_S)
    opened = [request.at for request in api.requests if request.verb == "watch"]
    lengths = [after - before for before, after in itertools.pairwise(opened)]
    assert 0.9 * TIMING.watch_s - 1 <= min(lengths) < TIMING.watch_s < max(lengths) <= 1.1 * TIMING.watch_s
    assert len(set(lengths)) > len(lengths) / 2


def _cap_s(fault: Fault) -> float:
    """The longest wait after a failure: what a person has to repair is looked at less often."""
    is_refused = isinstance(fault, Answer) and fault.code in {401, 403}
    return TIMING.refused.cap_s if is_refused else TIMING.backoff.cap_s


@pytest.mark.parametrize(
    "fault",
    [End(), ErrorEvent(), ErrorEvent(code=500), Cut(), Reset(), Line(), Answer(code=401), Answer(code=410)],
    ids=str,
)
@jumping
async def test_watches_that_end_as_soon_as_they_begin_are_no_hot_loop(fault: Fault) -> None:
    """However they end: after six hours the requests are as few as the backoff allows."""
    api = MemoryApi(Cluster())
    _put(api.cluster, "1")
    api.faults.add(fault, verb="watch")
    async with _in_memory(api=api) as (_, follower):
        await asyncio.sleep(6 * HOUR_S)
        assert api.count("watch") < 1.3 * 6 * HOUR_S / (_cap_s(fault) / 2)
        assert api.count("list") <= api.count("watch") + 1
        api.faults.clear()
        _put(api.cluster, "2")
        await asyncio.sleep(_cap_s(fault) + 1)
        assert ("2", None) == (follower.watch.found, follower.watch.error)


@pytest.mark.parametrize(
    "fault", [Answer(code=500), Answer(code=401), Answer(code=403), Answer(code=404), Reset()], ids=str
)
@jumping
async def test_lists_that_fail_are_no_hot_loop(fault: Fault) -> None:
    """A storm of errors from the first moment."""
    api = MemoryApi(Cluster())
    api.faults.add(fault, verb="list")
    async with _in_memory(api=api) as (_, follower):
        await asyncio.sleep(6 * HOUR_S)
        assert api.count("list") < 1.3 * 6 * HOUR_S / (_cap_s(fault) / 2)
        assert not follower.watch.is_known
        api.faults.clear()
        _put(api.cluster, "1")
        await asyncio.sleep(_cap_s(fault) + 1)
        assert [("1", False)] == follower.seen


def _gaps(api: MemoryApi, verb: str) -> list[float]:
    at = [request.at for request in api.requests if request.verb == verb]
    return [round(after - before, 2) for before, after in itertools.pairwise(at)]


@jumping
async def test_waits_double_up_to_a_cap() -> None:
    """With the largest draw of the jitter."""
    api = MemoryApi(Cluster())
    api.faults.add(Answer(code=500), verb="list")
    async with _in_memory(api=api, rng=Even(1.0)):
        await asyncio.sleep(150)
    assert [1, 2, 4, 8, 16, 30, 30, 30] == _gaps(api, "list")[:8]


@jumping
async def test_waits_after_a_refusal_double_up_to_a_larger_cap() -> None:
    """A person has to grant or renew something: 5,000 nodes do not ask for it twice a minute."""
    api = MemoryApi(Cluster())
    api.faults.add(Answer(code=403), verb="list")
    async with _in_memory(api=api, rng=Even(1.0)):
        await asyncio.sleep(HOUR_S)
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] == _gaps(api, "list")[:11]


@jumping
async def test_a_wait_can_be_ended() -> None:
    """When what was missing may be there now: the next attempt comes at once, and the one after it waits again."""
    api = MemoryApi(Cluster())
    api.faults.add(Answer(code=500), verb="list")
    async with _in_memory(api=api, rng=Even(1.0)) as (_, follower):
        await asyncio.sleep(100)
        before = api.count("list")
        follower.watch.hurry()
        await settle()
        assert before + 1 == api.count("list")
        await asyncio.sleep(CAP_S - 1)
        assert before + 1 == api.count("list")


@jumping
async def test_waits_are_drawn_from_zero_to_the_whole() -> None:
    """Full jitter: nodes that fail together do not come back together."""
    api = MemoryApi(Cluster())
    api.faults.add(Answer(code=500), verb="list")
    async with _in_memory(api=api):
        await asyncio.sleep(24 * HOUR_S)
    late = _gaps(api, "list")[10:]
    assert 0 <= min(late) < 0.05 * CAP_S
    assert 0.95 * CAP_S < max(late) <= CAP_S
    assert 0.4 * CAP_S < sum(late) / len(late) < 0.6 * CAP_S


@jumping
async def test_what_the_server_asks_for_is_kept_and_spread() -> None:
    """Retry-After of a 429, for the list and for the watch; the jitter comes on top."""
    for verb in ("list", "watch"):
        api = MemoryApi(Cluster())
        api.faults.add(too_many_requests(7), verb=verb)
        async with _in_memory(api=api):
            await asyncio.sleep(HOUR_S)
        gaps = _gaps(api, verb)
        assert min(gaps) >= 7
        assert max(gaps) <= 7 + CAP_S
        assert len(set(gaps)) > len(gaps) / 2


@jumping
async def test_an_event_ends_the_row_of_failures() -> None:
    """Afterwards the first wait is a short one again."""
    async with _in_memory(rng=Even(1.0)) as (api, follower):
        api.go_down()
        await asyncio.sleep(200)
        api.come_up()
        await asyncio.sleep(CAP_S)
        _put(api.cluster, "2")
        await settle()
        assert "2" == follower.watch.found
        api.requests.clear()
        api.go_down()
        await asyncio.sleep(4)
    assert [2] == _gaps(api, "watch")


@jumping
async def test_a_long_watch_without_an_event_ends_the_row_of_failures() -> None:
    """A quiet object is no reason to wait long after the next failure."""
    async with _in_memory(rng=Even(1.0)) as (api, _):
        api.bookmark_interval_s = 1e9
        api.go_down()
        await asyncio.sleep(200)
        api.come_up()
        await asyncio.sleep(CAP_S + 40)
        api.requests.clear()
        api.go_down()
        await asyncio.sleep(4)
    assert [2] == _gaps(api, "watch")


@jumping
async def test_a_half_open_watch_is_opened_anew_after_the_silence() -> None:
    """Nothing is polled meanwhile; what was missed is there then."""
    async with _in_memory() as (api, follower):
        await asyncio.sleep(10)
        frozen_at = now()
        api.faults.strike(Freeze())
        _put(api.cluster, "2")
        await follower.bell.until(lambda: follower.watch.found == "2", timeout_s=HOUR_S)
        assert TIMING.silence_s - 10 <= now() - frozen_at <= TIMING.silence_s + TIMING.backoff.base_s
    assert (1, 2) == (api.count("list"), api.count("watch"))


@jumping
async def test_a_half_open_watch_alone_is_no_lost_api() -> None:
    """The server answers at the first attempt: nobody has to be told that it was lost, or 5,000 nodes say so."""
    async with _in_memory() as (api, follower):
        await asyncio.sleep(10)
        api.faults.strike(Freeze())
        await asyncio.sleep(HOUR_S)
        assert 2 <= api.count("watch")
    assert [("1", False)] == follower.seen


@pytest.mark.parametrize("since_bookmark_s", [0, 15, 30, 45, 59])
@jumping
async def test_a_rolling_restart_of_the_api_servers_is_no_lost_api(since_bookmark_s: int) -> None:
    """20 s without a server are nobody's business, wherever in the minute between two bookmarks they begin."""
    async with _in_memory() as (api, follower):
        await asyncio.sleep(5 * api.bookmark_interval_s + since_bookmark_s)
        assert since_bookmark_s == pytest.approx(follower.watch.silent_for_s, abs=0.1)
        api.go_down()
        await asyncio.sleep(20)
        api.come_up()
        await asyncio.sleep(HOUR_S)
        assert follower.watch.error is None
    assert [("1", False)] == follower.seen


@jumping
async def test_an_api_that_stays_away_is_lost_once_and_found_once() -> None:
    """After a minute it is news, and again when it is back; nothing in between."""
    async with _in_memory() as (api, follower):
        lost_at = now()
        api.go_down()
        await asyncio.sleep(TIMING.stale_s - 1)
        assert not follower.watch.is_stale
        await asyncio.sleep(CAP_S + 2)
        assert follower.watch.is_stale
        assert isinstance(follower.watch.error, ApiFailed)
        await asyncio.sleep(24 * HOUR_S)
        api.come_up()
        await asyncio.sleep(CAP_S + 1)
        assert not follower.watch.is_stale
        assert (1, None) == (api.count("list"), follower.watch.error)
        assert now() - lost_at > 24 * HOUR_S
    assert [("1", False), ("1", True), ("1", False)] == follower.seen


@jumping
async def test_an_outage_with_a_change_is_told_with_it() -> None:
    """The first word after the outage is the new state, not the old one as fresh."""
    async with _in_memory() as (api, follower):
        api.go_down()
        await asyncio.sleep(HOUR_S)
        _put(api.cluster, "2")
        api.cluster.compact()
        api.come_up()
        await asyncio.sleep(2 * CAP_S)
        assert ("2", False) == (follower.watch.found, follower.watch.is_stale)
    assert ("2", False) == follower.seen[-1]


@jumping
async def test_changes_of_no_interest_are_not_told() -> None:
    """kubelet writes its Node every few minutes; the view decides what counts."""
    async with _in_memory() as (api, follower):
        for number in range(50):
            api.cluster.put_secret(b"%d" % number, annotations={"n": "1"})
            await asyncio.sleep(10)
        assert [("1", False)] == follower.seen


@jumping
async def test_an_api_that_never_answers_settles_with_an_error() -> None:
    """Whoever waits for the first word gets one: there is none, and why."""
    api = MemoryApi(Cluster())
    api.go_down()
    async with _in_memory(api=api) as (_, follower):
        before = now()
        await follower.watch.first_word()
        assert now() == before
        assert (False, True, None) == (
            follower.watch.is_known,
            follower.watch.is_stale,
            follower.watch.silent_for_s,
        )
        assert isinstance(follower.watch.error, ApiFailed)
    assert [] == follower.seen


@jumping
async def test_the_first_word_is_not_waited_for_longer_than_told() -> None:
    """A hanging server holds up nobody but itself."""
    api = MemoryApi(Cluster())
    api.faults.add(Hang())
    async with _in_memory(api=api) as (_, follower):
        before = now()
        await follower.watch.first_word()
        assert 5 == pytest.approx(now() - before)
        assert follower.watch.error is None


class Late(MemoryApi):
    """An API whose credentials come later."""

    def __init__(self, cluster: Cluster, *, attempts: int) -> None:
        super().__init__(cluster)
        self.attempts = attempts

    async def list(self, resource: Resource) -> Listing:
        self.attempts -= 1
        if self.attempts >= 0:
            raise CredentialsUnusable("kubeconfig: no such file")
        return await super().list(resource)


@jumping
async def test_credentials_that_come_later_are_waited_for() -> None:
    """No kubeconfig yet is a failure like others."""
    api = Late(Cluster(), attempts=5)
    _put(api.cluster, "1")
    async with _in_memory(api=api) as (_, follower):
        assert isinstance(follower.watch.error, CredentialsUnusable)
        await asyncio.sleep(5 * CAP_S)
        assert "1" == follower.watch.found


# Writes of our own, whose answers come before the watch brings them.


@jumping
async def test_an_answer_to_a_write_is_known_at_once() -> None:
    """And its echo in the watch is no news."""
    async with _in_memory() as (api, follower):
        _put(api.cluster, "2")
        follower.watch.accept(api.cluster.get("secrets", SECRET, "d8-system").copy())
        assert "2" == follower.watch.found
        await asyncio.sleep(1)
    assert ["1", "2"] == [found for found, _ in follower.seen]


@jumping
async def test_an_event_that_is_older_than_an_accepted_answer_is_ignored() -> None:
    """What was already under way when the write was made."""
    async with _in_memory() as (api, follower):
        _put(api.cluster, "2")
        _put(api.cluster, "3")
        follower.watch.accept(api.cluster.get("secrets", SECRET, "d8-system").copy())
        await asyncio.sleep(1)
        assert "3" == follower.watch.found
        _put(api.cluster, "4")
        await asyncio.sleep(1)
    assert ["1", "3", "4"] == [found for found, _ in follower.seen]


@jumping
async def test_an_answer_that_is_older_than_what_the_watch_has_brought_is_ignored() -> None:
    """A slow answer: the watch was faster, and somebody has changed the object again meanwhile."""
    async with _in_memory() as (api, follower):
        _put(api.cluster, "2")
        answer = api.cluster.get("secrets", SECRET, "d8-system").copy()
        _put(api.cluster, "3")
        await asyncio.sleep(1)
        assert "3" == follower.watch.found
        follower.watch.accept(answer)
        assert "3" == follower.watch.found


@jumping
async def test_a_deletion_after_an_accepted_answer_is_seen() -> None:
    """Its version is a later one."""
    async with _in_memory() as (api, follower):
        _put(api.cluster, "2")
        follower.watch.accept(api.cluster.get("secrets", SECRET, "d8-system").copy())
        api.cluster.delete_secret()
        await asyncio.sleep(1)
        assert follower.watch.found is None


@jumping
async def test_an_answer_that_is_older_than_a_new_list_is_ignored() -> None:
    """A slow answer, overtaken by a list instead of an event."""
    async with _in_memory() as (api, follower):
        _put(api.cluster, "2")
        answer = api.cluster.get("secrets", SECRET, "d8-system").copy()
        _put(api.cluster, "3")
        api.faults.strike(ErrorEvent())
        await asyncio.sleep(5)
        assert 2 == api.count("list")
        follower.watch.accept(answer)
        assert "3" == follower.watch.found


@jumping
async def test_an_answer_that_is_older_than_a_deletion_is_ignored() -> None:
    """What was patched is gone by the time that the answer arrives: seen by the watch, or by a list."""
    for has_list in (False, True):
        async with _in_memory() as (api, follower):
            _put(api.cluster, "2")
            answer = api.cluster.get("secrets", SECRET, "d8-system").copy()
            api.cluster.delete_secret()
            if has_list:
                api.faults.strike(ErrorEvent())
            await asyncio.sleep(5)
            follower.watch.accept(answer)
            assert follower.watch.found is None


@jumping
async def test_a_new_list_forgets_an_accepted_answer() -> None:
    """A cluster that was restored from a backup counts from an earlier version."""
    async with _in_memory() as (api, follower):
        metadata = {"name": SECRET, "resourceVersion": "999999", "annotations": {"n": "of the future"}}
        follower.watch.accept({"metadata": metadata})
        api.faults.strike(ErrorEvent())
        await asyncio.sleep(5)
        assert "1" == follower.watch.found
        _put(api.cluster, "2")
        await asyncio.sleep(1)
        assert "2" == follower.watch.found
