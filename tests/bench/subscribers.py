"""The load client: many subscribers in one process, one selector, no event loop."""

from __future__ import annotations

import gc
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass

from tests.bench.companions import Pipe
from tests.bench.dialogue import Dialogue, handshake
from tests.bench.percentile import percentile
from tests.bench.place import HOST
from tests.bench.subscriber import Subscriber

_CHECKED_EVERY = 50
_BUFFER_BYTES = 1 << 18
_CONNECT_TIMEOUT_S = 20.0
# A reset frees the port at once: ten thousand ports in TIME_WAIT a run would be missed by the next.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# Each loopback address has its own ports. Only Linux has all of 127.0.0.0/8.
_CONNECTIONS_PER_ADDRESS = 4000
_STALLED_RECEIVE_BYTES = 1 << 16
_STALLED_WAIT_S = 0.5
# The first byte of a close frame; messages are ASCII, and none has this length.
_CLOSE = b"\x88"


@dataclass(frozen=True, slots=True)
class Open:
    """Asks for subscribers, with so many handshakes under way at a time; the answer is `Opened`."""

    count: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Opened:
    """All are subscribed, or refused; `took_s` from the first connect to the last subscription."""

    subscribed_count: int
    refused_count: int
    took_s: float


class OpenStalled:
    """Asks for a subscriber that reads nothing once it is subscribed; the answer is `Opened`."""


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
    """The messages of all subscribers together, without the stalled one.

    in_order_count: messages that were newer than the one before on their connection: none of them counts twice.
    other_count: messages that were not: repeated or out of order.
    ended_count: connections that the server ended.
    stalled_ended: the server ended the stalled one.
    p50_ms, p99_ms: age at arrival, over the connections that are checked closely.
    """

    in_order_count: int
    other_count: int
    ended_count: int
    stalled_ended: bool
    p50_ms: float
    p99_ms: float


def run(pipe: Pipe, *, port: int, dialogue: Dialogue, size_bytes: int) -> None:
    """Execute the commands from the pipe until `Finish`."""
    gc.disable()  # nothing here makes cycles, and a collection would look like the server's latency
    client = _Client(pipe, port, dialogue, size_bytes)
    while not client.is_finished:
        client.turn()


class _Client:
    def __init__(self, pipe: Pipe, port: int, dialogue: Dialogue, size_bytes: int) -> None:
        self._pipe = pipe
        self._port = port
        self._dialogue = dialogue
        self._size_bytes = size_bytes
        self._request = handshake(dialogue.path, port)
        self._subscribers: list[Subscriber] = []
        self._stalled: Subscriber | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe.fileno(), selectors.EVENT_READ, None)
        self.is_finished = False

    def turn(self) -> None:
        """Wait for something to read, and read it."""
        buffer = self._buffer
        for key, _ in self._selector.select():
            subscriber: Subscriber | None = key.data
            if subscriber is None:
                self._answer(self._pipe.recv())
                continue
            subscriber.read(buffer)
            if subscriber.has_ended:
                self._selector.unregister(subscriber.socket)

    def _answer(self, question: object) -> None:
        match question:
            case Open():
                self._pipe.send(self._open(question))
            case OpenStalled():
                self._pipe.send(self._open_stalled())
            case Count():
                self._pipe.send(sum(subscriber.in_order_count for subscriber in self._subscribers))
            case Finish():
                self._pipe.send(self._received(question.since_ns))
                self.is_finished = True
                for subscriber in self._subscribers:
                    subscriber.socket.close()

    def _open(self, wanted: Open) -> Opened:
        started_s = time.monotonic()
        left_count = wanted.count
        greeting = subscribed_count = refused_count = 0
        while left_count or greeting:
            while left_count and greeting < wanted.at_once:
                self._connect()
                left_count -= 1
                greeting += 1
            for key, _ in self._selector.select(_CONNECT_TIMEOUT_S):
                subscriber: Subscriber | None = key.data
                if subscriber is None:
                    raise EOFError("the process that measures is gone")
                was_subscribed = subscriber.is_subscribed
                subscriber.read(self._buffer)
                if subscriber.has_ended:
                    self._selector.unregister(subscriber.socket)
                    if not was_subscribed:
                        refused_count += 1
                        greeting -= 1
                elif subscriber.is_subscribed and not was_subscribed:
                    subscribed_count += 1
                    greeting -= 1
        return Opened(subscribed_count, refused_count, time.monotonic() - started_s)

    def _open_stalled(self) -> Opened:
        opened = self._open(Open(1, 1))
        self._stalled = self._subscribers.pop()
        self._stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_RECEIVE_BYTES)
        self._selector.unregister(self._stalled.socket)
        return opened

    def _connect(self) -> None:
        number = len(self._subscribers)
        connection = socket.socket()
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if number >= _CONNECTIONS_PER_ADDRESS and sys.platform == "linux":
            connection.bind((f"127.0.0.{1 + number // _CONNECTIONS_PER_ADDRESS}", 0))
        connection.connect((HOST, self._port))
        connection.send(self._request)
        connection.setblocking(False)
        subscriber = Subscriber(
            connection, self._dialogue, size_bytes=self._size_bytes, is_checked=number % _CHECKED_EVERY == 0
        )
        self._subscribers.append(subscriber)
        self._selector.register(connection, selectors.EVENT_READ, subscriber)

    def _received(self, since_ns: int) -> Received:
        ages_ns = sorted(
            age_ns
            for subscriber in self._subscribers
            for came_ns, age_ns in zip(subscriber.came_ns, subscriber.age_ns, strict=True)
            if came_ns >= since_ns
        )
        return Received(
            in_order_count=sum(subscriber.in_order_count for subscriber in self._subscribers),
            other_count=sum(subscriber.other_count for subscriber in self._subscribers),
            ended_count=sum(subscriber.has_ended for subscriber in self._subscribers),
            stalled_ended=self._stalled is not None and self._has_server_ended(self._stalled),
            p50_ms=percentile(ages_ns, 50) / 1e6,
            p99_ms=percentile(ages_ns, 99) / 1e6,
        )

    def _has_server_ended(self, stalled: Subscriber) -> bool:
        """Read the waiting bytes of the stalled connection. Returns: whether a close frame or the end follows."""
        stalled.socket.settimeout(_STALLED_WAIT_S)
        deadline_s = time.monotonic() + _CONNECT_TIMEOUT_S
        try:
            while time.monotonic() < deadline_s:
                length = stalled.socket.recv_into(self._buffer)
                if not length or self._buffer.find(_CLOSE, 0, length) >= 0:
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False
