"""One timer for all expiries: tokens, subscriptions, and the first message with a token."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

_TICK_S = 0.5
# Forgotten entries stay in the heap until their time, or until they outnumber the valid ones by this many.
_MAX_FORGOTTEN = 1000


class Expiring(Protocol):
    """An object with an expiry."""

    __slots__ = ()

    def on_deadline(self, now_s: float, grace_s: float) -> None:
        """End everything that has expired and add the rest again. Called once, at the earliest added time."""


@dataclass(slots=True, order=True)
class _Entry:
    """The time of a call, and its order among equal times. expiring: None if it was forgotten."""

    at_s: float
    number: int
    expiring: Expiring | None = field(compare=False)


class Deadlines:
    """Calls each object at its earliest added time and after its shortest delay, up to half a second late.

    Args:
        clock: `time.time`: Unix seconds, as in tokens.
        steady: `time.monotonic`, for delays: the other clock may be set forward or back. None: `clock`.
        grace_s: added to each expiry, because clients refresh at the last moment.
    """

    def __init__(
        self, clock: Callable[[], float], *, grace_s: float, steady: Callable[[], float] | None = None
    ) -> None:
        self.now_s = clock
        self._steady_s = steady or clock
        self._grace_s = grace_s
        self._expiries = _Timetable()
        self._delays = _Timetable()

    def add(self, unix_s: float, expiring: Expiring, *, at_once: bool = False) -> None:
        """Call an object at this time plus, unless `at_once`, the grace. 0: never."""
        if unix_s:
            self._expiries.push(unix_s if at_once else unix_s + self._grace_s, expiring)

    def add_in(self, delay_s: float, expiring: Expiring) -> None:
        """Call an object after a delay, without grace."""
        self._delays.push(self._steady_s() + delay_s, expiring)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """Call all objects whose time has come."""
        now_s = self.now_s()
        # Collected first: a called object may add itself again, also for a past time.
        due = [*self._expiries.due(now_s), *self._delays.due(self._steady_s())]
        for timetable, entry in due:
            if (expiring := entry.expiring) is not None:
                timetable.forget(expiring)
                expiring.on_deadline(now_s, self._grace_s)

    def forget(self, expiring: Expiring) -> None:
        """Drop an object and its times."""
        self._expiries.forget(expiring)
        self._delays.forget(expiring)


class _Timetable:
    """Objects by their times; of each object the earliest."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._heap: list[_Entry] = []
        self._entries: dict[Expiring, _Entry] = {}  # the valid ones in the heap

    def push(self, at_s: float, expiring: Expiring) -> None:
        """Add an object, unless it is there with an earlier time."""
        entry = self._entries.get(expiring)
        if entry is not None and entry.at_s <= at_s:
            return
        self.forget(expiring)
        entry = self._entries[expiring] = _Entry(at_s, next(self._numbers), expiring)
        heapq.heappush(self._heap, entry)

    def due(self, now_s: float) -> list[tuple[_Timetable, _Entry]]:
        """Remove the entries up to now from the heap, and return them with this timetable."""
        due = []
        while self._heap and self._heap[0].at_s <= now_s:
            due.append((self, heapq.heappop(self._heap)))
        return due

    def forget(self, expiring: Expiring) -> None:
        """Drop an object and its time."""
        entry = self._entries.pop(expiring, None)
        if entry is not None:
            entry.expiring = None
            if len(self._heap) > 2 * len(self._entries) + _MAX_FORGOTTEN:
                self._heap = [entry for entry in self._heap if entry.expiring is not None]
                heapq.heapify(self._heap)
