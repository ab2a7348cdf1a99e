"""One timer for all connections that no server pings: pings, and every deadline that a connection can miss."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from roomcast.model.errors import NO_PONG, SLOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomcast.model.errors import Disconnect

# The ping interval is cut into so many ticks at least, so that pings of a storm of connections do not stay together in
# one, and into ticks of a second at most, so that no deadline comes later than that.
_MIN_SLOT_COUNT = 50
_MAX_TICK_S = 1.0
_WRITE_TIMEOUT_S = 10.0


class Pinged(Protocol):
    """A transport that the heartbeat keeps an eye on.

    has_been_heard: its client has sent something since the last ping. is_reading: nobody has asked it not to read.
    heartbeat_slot: what `Heartbeat.add` has returned.
    """

    has_been_heard: bool
    is_reading: bool
    heartbeat_slot: int

    def ping(self) -> None:
        """Ask whether the client lives."""

    def give_up(self, disconnect: Disconnect) -> None:
        """End soon: the client seems to be gone, but may yet read why."""

    def abort(self, disconnect: Disconnect) -> None:
        """End at once: there is nobody to say it to."""

    def unsent_bytes(self) -> int:
        """See `Transport.unsent_bytes`."""

    def written_while_congested_bytes(self) -> int:
        """Return what was written since the client became congested."""


class _Congestion(NamedTuple):
    since_s: float
    unsent_bytes: int
    written_bytes: int


class Heartbeat:
    """Finds dead connections. It costs a set entry per connection, where timers of their own would cost 200 bytes.

    Args:
        ping_interval_s: how often each connection is asked.
        ping_timeout_s: how long it may take to send anything after that; at most the interval.
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
        self._aborting: dict[Pinged, float] = {}  # -> clock time at which it is aborted

    def add(self, socket: Pinged) -> int:
        """Take in a connection, which is alive now; return its slot."""
        self._next_slot = (self._next_slot + 1) % self._slot_count
        self._slots[self._next_slot].add(socket)
        return self._next_slot

    def remove(self, socket: Pinged) -> None:
        """Forget a connection."""
        self._slots[socket.heartbeat_slot].discard(socket)
        self._congested.pop(socket, None)
        self._aborting.pop(socket, None)

    def watch_congested(self, socket: Pinged) -> None:
        """Watch that a client which takes slowly takes at all: 10 s without a byte end it."""
        self._congested[socket] = _Congestion(self._clock(), socket.unsent_bytes(), 0)

    def unwatch_congested(self, socket: Pinged) -> None:
        """Watch it no more: it has caught up, so it lives."""
        socket.has_been_heard = True
        self._congested.pop(socket, None)

    def abort_after(self, socket: Pinged, timeout_s: float) -> None:
        """End a connection for good if it is still there then."""
        at_s = self._clock() + timeout_s
        self._aborting[socket] = min(at_s, self._aborting.get(socket, at_s))

    async def run(self) -> None:
        """Tick for ever; end only when cancelled."""
        while True:
            await asyncio.sleep(self.tick_s)
            self.tick()

    def tick(self) -> None:
        """Do what is due; called each `tick_s`."""
        self._tick = (self._tick + 1) % self._slot_count
        for socket in tuple(self._slots[(self._tick - self._timeout_ticks) % self._slot_count]):
            # A congested client's ping waits behind all that it has not taken: its own deadline is the one for taking.
            if not socket.has_been_heard and socket.is_reading and socket not in self._congested:
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
            has_taken = before.unsent_bytes + written_bytes - before.written_bytes > unsent_bytes
            if has_taken:
                self._congested[socket] = _Congestion(now_s, unsent_bytes, written_bytes)
            elif now_s - before.since_s > _WRITE_TIMEOUT_S:
                socket.abort(SLOW)
