"""The Kubernetes API for tests: the client with simple credentials, and a double in a thread."""

import asyncio
import contextlib
import gc
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import trustme

from agent.kube import tls
from agent.kube.client import Client
from agent.kube.credentials import Access
from agent.kube.watch import Timing
from agent.model import Secret
from agent.policy import Backoff
from tests.apidouble.server import ApiDouble

NODE = "w0"

#: For real sockets: nothing takes long, and failures are tried again at once.
FAST = Timing(
    watch_s=60.0,
    silence_s=5.0,
    brief_s=0.0,
    stale_s=60.0,
    backoff=Backoff(base_s=0.01, cap_s=0.05),
)

_T = TypeVar("_T")


# The real client.


class Tickets:
    """Credentials that the test hands out: one token after the other, the last one for ever."""

    def __init__(self, url: str, *tokens: str, context: ssl.SSLContext | None = None, **access: Any) -> None:
        """`access` are further fields of what each request needs."""
        self.url = url
        self.tokens = list(tokens)
        self.context = context
        self.asked: list[bool] = []
        self.is_closed = False
        self._access = access

    def access(self, *, is_refused: bool) -> Access:
        self.asked.append(is_refused)
        token = self.tokens.pop(0) if len(self.tokens) > 1 else "".join(self.tokens)
        authorization = Secret(f"Bearer {token}") if token else None
        return Access(server=self.url, tls=self.context, authorization=authorization, **self._access)

    def close(self) -> None:
        self.is_closed = True


def trusting(ca: trustme.CA | None, pair: tls.KeyPair | None = None) -> ssl.SSLContext | None:
    """Return the agent's context for a CA; None without one."""
    if ca is None:
        return None
    return tls.build(tls.Terms(ca=tls.Pem(content=ca.cert_pem.bytes(), origin="a test"), pair=pair))


def client_of(double: ApiDouble, *tokens: str, **more: Any) -> Client:
    """Return a client of a double, to be entered."""
    return Client(Tickets(double.url, *tokens, context=trusting(double.ca)), **more)


@contextlib.asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run parts that never end while the body runs; a defect in one of them fails the test."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


def alive(*packages: str) -> int:
    """Count the living objects whose types are from these packages: what a leak would keep.

    Exceptions do not count: the log records that pytest captures hold on to them.
    """
    gc.collect()
    kinds = (type(each) for each in gc.get_objects() if not isinstance(each, BaseException))
    return sum(str(kind.__module__).partition(".")[0] in packages for kind in kinds)


class Bell:
    """Counts how often it was rung, and lets a test wait for the next time."""

    def __init__(self) -> None:
        """Begin silent."""
        self.rings = 0
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Ring once; what `on_change` takes."""
        self.rings += 1
        self._event.set()

    async def until(self, is_so: Callable[[], bool], *, timeout_s: float = 8.0) -> None:
        """Wait until something is so; asked after every ring."""
        async with asyncio.timeout(timeout_s):
            while not is_so():
                self._event.clear()
                await self._event.wait()


# The double in a thread.


class Served:
    """A double that serves in a thread of its own, for tests that wait for other processes."""

    def __init__(self, double: ApiDouble, loop: asyncio.AbstractEventLoop) -> None:
        """Both run already."""
        self.double = double
        self._loop = loop

    def do(self, action: Callable[[ApiDouble], _T]) -> _T:
        """Do or ask something where the double lives."""

        async def act() -> _T:
            return action(self.double)

        return self.wait(act())

    def wait(self, action: Coroutine[Any, Any, _T], *, timeout_s: float = 10) -> _T:
        """Run a coroutine where the double lives."""
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout_s)

    def down(self) -> None:
        """Stop listening and reset all connections."""
        self.wait(self.double.down())

    def up(self) -> None:
        """Listen again on the same port."""
        self.wait(self.double.up())


@contextlib.contextmanager
def served(**options: Any) -> Iterator[Served]:
    """Serve a double with these options until the body ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="apidouble")
    thread.start()

    async def make() -> ApiDouble:
        return await ApiDouble(**options).__aenter__()

    try:
        double = asyncio.run_coroutine_threadsafe(make(), loop).result(10)
        found = Served(double, loop)
        try:
            yield found
        finally:
            found.wait(double.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
