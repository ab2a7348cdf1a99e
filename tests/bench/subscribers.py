"""The load client: many plain WebSocket subscribers in one process, as cheap as Python can make them.

Every delivery on every connection is counted and compared with the one before it, so that loss, repetition and
disorder show; every tenth connection also records how old each message is. picows calls back for each frame, however
many come in one read.
"""

from __future__ import annotations

import asyncio
import gc
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import uvloop
from picows import WSFrame, WSListener, WSTransport, ws_connect

from tests.bench.companions import Pipe
from tests.bench.messages import published_ns
from tests.bench.percentile import percentile

_TIMED_EVERY = 10
_CONNECT_AT_ONCE = 50


class Connected:
    """Every subscriber is connected."""


class Count:
    """Asks for the deliveries until now; the answer is an int."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Asks for `Received`, and ends the client. Ages count for messages that came since `since_ns`.

    Since they came, not since they were published: of a server far behind, none of the latter may have come yet.
    """

    since_ns: int


@dataclass(frozen=True, slots=True)
class Received:
    """What all subscribers together got.

    in_order_count: messages that were newer than the one before on their connection: none of them counts twice.
    other_count: frames that were not: repeated, out of order, or no message at all.
    ended_count: connections that the server ended.
    p50_ms, p99_ms: age at arrival, over the timed connections.
    """

    in_order_count: int
    other_count: int
    ended_count: int
    p50_ms: float
    p99_ms: float


class Subscriber(WSListener):
    """Counts what one connection gets."""

    def __init__(self) -> None:
        self.in_order_count = 0
        self.other_count = 0
        self.has_ended = False
        self.newest = b"{"  # below every message, above a close frame's payload

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        message = frame.get_payload_as_bytes()
        if message > self.newest:
            self.in_order_count += 1
            self.newest = message
        else:
            self.other_count += 1

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.has_ended = True


class TimedSubscriber(Subscriber):
    """Records the age of every message too: when it was published, and how old it was when it came, in ns."""

    def __init__(self) -> None:
        super().__init__()
        self.published_ns = array("q")
        self.age_ns = array("q")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        now_ns = time.monotonic_ns()
        message = frame.get_payload_as_bytes()
        if message > self.newest:
            self.in_order_count += 1
            self.newest = message
            at_ns = published_ns(message)
            self.published_ns.append(at_ns)
            self.age_ns.append(now_ns - at_ns)
        else:
            self.other_count += 1


def run(pipe: Pipe, *, url: str, count: int) -> None:
    """Connect `count` subscribers, say `Connected`, then answer `Count` until `Finish`."""
    gc.disable()  # nothing here makes cycles, and a collection would look like the server's latency
    uvloop.run(_run(pipe, url, count))


async def _run(pipe: Pipe, url: str, count: int) -> None:
    subscribers = [TimedSubscriber() if number % _TIMED_EVERY == 0 else Subscriber() for number in range(count)]
    transports: list[WSTransport] = []
    for start in range(0, count, _CONNECT_AT_ONCE):
        chunk = subscribers[start : start + _CONNECT_AT_ONCE]
        connected = await asyncio.gather(*[ws_connect(_giving(subscriber), url) for subscriber in chunk])
        transports += [transport for transport, _ in connected]
    finished = asyncio.Event()

    def answer() -> None:
        try:
            question = pipe.recv()
        except (EOFError, ConnectionResetError):  # the process that measures is gone
            finished.set()
            return
        if isinstance(question, Finish):
            pipe.send(_received(subscribers, question.since_ns))
            finished.set()
        else:
            pipe.send(sum(subscriber.in_order_count for subscriber in subscribers))

    asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
    pipe.send(Connected())
    await finished.wait()
    for transport in transports:
        transport.disconnect(graceful=False)


def _giving(subscriber: Subscriber) -> Callable[[], Subscriber]:
    return lambda: subscriber


def _received(subscribers: list[Subscriber], since_ns: int) -> Received:
    ages_ns = sorted(
        age_ns
        for subscriber in subscribers
        if isinstance(subscriber, TimedSubscriber)
        for at_ns, age_ns in zip(subscriber.published_ns, subscriber.age_ns, strict=True)
        if at_ns + age_ns >= since_ns
    )
    return Received(
        in_order_count=sum(subscriber.in_order_count for subscriber in subscribers),
        other_count=sum(subscriber.other_count for subscriber in subscribers),
        ended_count=sum(subscriber.has_ended for subscriber in subscribers),
        p50_ms=percentile(ages_ns, 50) / 1e6,
        p99_ms=percentile(ages_ns, 99) / 1e6,
    )
