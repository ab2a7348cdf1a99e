"""One timer for all connections that no server pings: pings and all deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from roomcast.model.errors import NO_PONG, SLOW, Disconnect

# The ping interval has at least 50 ticks, which spread the pings of a storm of connections, and a tick has at most a
# second, by which a deadline may be late.
_MIN_SLOT_COUNT = 50
_MAX_TICK_S = 1.0
_WRITE_TIMEOUT_S = 10.0


class Pinged(Protocol):
    """A transport that the heartbeat watches.

    has_answered: its client has sent something since the last ping. is_reading: False while reading is paused.
    heartbeat_slot: the result of `Heartbeat.add`.
    """

    __slots__ = ()

    has_answered: bool
    is_reading: bool
    heartbeat_slot: int

    def ping(self) -> None:
        """Send a ping; any bytes of the client answer it."""

    def give_up(self, disconnect: Disconnect) -> None:
        """Close with a close frame: the client seems to be gone, but may still read it."""

    def abort(self, disconnect: Disconnect) -> None:
        """End at once: the client does not read."""

    def unsent_bytes(self) -> int:
        """Return the bytes that the client has not accepted yet, as in `Transport`."""

    def written_while_congested_bytes(self) -> int:
        """Return how many bytes were written since the client became congested."""


class _Congestion(NamedTuple):
    since_s: float
    unsent_bytes: int
    written_bytes: int


class Heartbeat:
    """Finds dead connections. It costs a set entry per connection; a timer for each would cost 200 bytes.

    Args:
        ping_interval_s: between two pings of a connection.
        ping_timeout_s: from a ping to the deadline for its answer; at most the interval.
        clock: `time.monotonic`, seconds.
    """

    def __init__(self, *, ping_interval_s: float, ping_timeout_s: float, clock: Callable[[], float]) -> None:
        self._slot_count = max(_MIN_SLOT_COUNT, math.ceil(ping_interval_s / _MAX_TICK_S))
        self.tick_s = ping_interval_s / self._slot_count
        self._timeout_ticks = min(self._slot_count, max(1, math.ceil(ping_timeout_s / self.tick_s)))
        self._clock = clock
        self._slots: list[set[Pinged]] = [set() for _ in range(self._slot_count)]
        self._tick = 0
        self._next_slot = 0
        self._congested: dict[Pinged, _Congestion] = {}
        self._aborting: dict[Pinged, float] = {}  # -> clock time of the abort

    def add(self, socket: Pinged) -> int:
        """Add a connection, which is alive now; return its slot."""
        self._next_slot = (self._next_slot + 1) % self._slot_count
        self._slots[self._next_slot].add(socket)
        return self._next_slot

    def remove(self, socket: Pinged) -> None:
        """Remove a connection."""
        self._slots[socket.heartbeat_slot].discard(socket)
        self._congested.pop(socket, None)
        self._aborting.pop(socket, None)

    def watch_congested(self, socket: Pinged) -> None:
        """Watch a slow client: 10 s without an accepted byte end it."""
        self._congested[socket] = _Congestion(self._clock(), socket.unsent_bytes(), 0)

    def unwatch_congested(self, socket: Pinged) -> None:
        """Stop watching a client that has caught up, and so is alive."""
        socket.has_answered = True  # type: ignore[misc]  # implementations have the slot
        self._congested.pop(socket, None)

    def abort_after(self, socket: Pinged, timeout_s: float) -> None:
        """Abort a connection that has not ended by then."""
        at_s = self._clock() + timeout_s
        self._aborting[socket] = min(at_s, self._aborting.get(socket, at_s))

    async def run(self) -> None:
        """Tick for ever; end only when cancelled."""
        while True:
            await asyncio.sleep(self.tick_s)
            self.tick()

    def tick(self) -> None:
        """Send due pings and check deadlines; called each `tick_s`."""
        self._tick = (self._tick + 1) % self._slot_count
        for socket in tuple(self._slots[(self._tick - self._timeout_ticks) % self._slot_count]):
            # A congested client's ping waits behind the bytes that it has not accepted: it has a deadline for those.
            if not socket.has_answered and socket.is_reading and socket not in self._congested:
                socket.give_up(NO_PONG)
        for socket in self._slots[self._tick]:
            socket.ping()
        self._check_deadlines()

    def _check_deadlines(self) -> None:
        now_s = self._clock()
        for socket, at_s in tuple(self._aborting.items()):
            if at_s <= now_s:
                socket.abort(SLOW)
        for socket, before in tuple(self._congested.items()):
            unsent_bytes, written_bytes = socket.unsent_bytes(), socket.written_while_congested_bytes()
            has_accepted = before.unsent_bytes + written_bytes - before.written_bytes > unsent_bytes
            if has_accepted:
                self._congested[socket] = _Congestion(now_s, unsent_bytes, written_bytes)
            elif now_s - before.since_s > _WRITE_TIMEOUT_S:
                socket.abort(SLOW)
