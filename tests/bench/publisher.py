"""The publisher: another service that publishes at an even rate."""

from __future__ import annotations

import select
import socket
import time
from array import array
from dataclasses import dataclass

from tests.bench.companions import Pipe
from tests.bench.messages import message
from tests.bench.outlet import Outlet
from tests.bench.percentile import percentile
from tests.bench.place import HOST

# All that is due goes out in one write a tick: at 1,000 messages/s one message, never a burst.
_TICK_NS = 1_000_000
_TIMEOUT_S = 10.0
_READ_BYTES = 1 << 16


class Ready:
    """The publisher is connected and waits for `Start`."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin at this time of the monotonic clock."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Published:
    """The publications of a run.

    per_s: from the first to the last message.
    late_p99_ms: between the time when a message was due and the time when it was given to the socket.
    unheard_count: messages that Redis had no subscriber for, which no contender can deliver.
    """

    count: int
    per_s: float
    late_p99_ms: float
    unheard_count: int


def run(pipe: Pipe, *, outlet: Outlet, rate_per_s: int, seconds: float, size_bytes: int) -> None:
    """Publish evenly for some seconds after `Start`; say `Published` at the end.

    A server that does not take more delays it: then fewer messages are published, and `per_s` says so.
    """
    late_ns = array("q")
    unheard_count = sent_count = 0
    with socket.create_connection((HOST, outlet.port), timeout=_TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(outlet.hello)
        pipe.send(Ready())
        start_ns: int = pipe.recv().at_ns
        end_ns = start_ns + round(seconds * 1e9)
        first_ns = now_ns = start_ns
        while True:
            _sleep_until(max(now_ns + _TICK_NS, start_ns + sent_count * 1_000_000_000 // rate_per_s))
            now_ns = time.monotonic_ns()
            due_count = (min(now_ns, end_ns - 1) - start_ns) * rate_per_s // 1_000_000_000 + 1
            if due_count == sent_count or now_ns > end_ns + 1_000_000_000:
                break
            parts: list[bytes] = []
            for number in range(sent_count, due_count):
                parts.append(outlet.publication(message(number, now_ns, size_bytes=size_bytes)))
                late_ns.append(now_ns - start_ns - number * 1_000_000_000 // rate_per_s)
            connection.sendall(b"".join(parts))
            if not sent_count:
                first_ns = now_ns
            sent_count = due_count
            last_ns = now_ns
            unheard_count += _answers(connection, outlet)
        time.sleep(0.01)
        unheard_count += _answers(connection, outlet)
        took_s = (last_ns - first_ns) / 1e9
        pipe.send(
            Published(
                count=sent_count,
                per_s=(sent_count - 1) / took_s if took_s else 0.0,
                late_p99_ms=percentile(sorted(late_ns), 99) / 1e6,
                unheard_count=unheard_count,
            )
        )
        while not pipe.poll(0.01):  # some servers drop unsent messages of a publisher that has disconnected
            _answers(connection, outlet)


def _answers(connection: socket.socket, outlet: Outlet) -> int:
    """Read the server's responses, so that it never waits. Returns: how many messages had no subscriber."""
    unheard_count = 0
    while select.select([connection], [], [], 0)[0]:
        answers = connection.recv(_READ_BYTES)
        if not answers:
            raise ConnectionResetError("the server has ended the publisher's connection")
        if outlet.unheard:
            unheard_count += answers.count(outlet.unheard)
        if b"PING\r\n" in answers:  # NATS
            connection.sendall(b"PONG\r\n")
    return unheard_count


def _sleep_until(at_ns: int) -> None:
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
