"""One timer for all that can expire: tokens, subscriptions, and the time to say who one is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_S = 0.5
# What was forgotten stays in the heap until its time, or until there is more of it than of what holds, and this much.
_MAX_FORGOTTEN = 1000


class Expiring(Protocol):
    """Something that may end at its time."""

    __slots__ = ()

    def on_deadline(self, now_s: float, grace_s: float) -> None:
        """End what has expired, and add again what has not; called once, at the earliest time that was added."""


@dataclass(slots=True, order=True)
class _Entry:
    """When something is called, and in which order at the same time; None: it is not, any more."""

    at_s: float
    number: int
    expiring: Expiring | None = field(compare=False)


class Deadlines:
    """Calls what expires, up to half a second late. Of each it knows the earliest time alone.

    Args:
        clock: `time.time`, Unix seconds, which tokens count in.
        grace_s: how long after its time something expires: clients refresh at the last moment.
    """

    def __init__(self, clock: Callable[[], float], *, grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._numbers = itertools.count()
        self._heap: list[_Entry] = []
        self._entries: dict[Expiring, _Entry] = {}  # of those in the heap, the ones that hold

    def now_s(self) -> float:
        """Return the Unix time."""
        return self._clock()

    def add(self, unix_s: float, expiring: Expiring, *, at_once: bool = False) -> None:
        """Call it soon after this time or, unless at once, after the grace that follows it; 0: never."""
        if unix_s:
            self._push(unix_s if at_once else unix_s + self._grace_s, expiring)

    def add_in(self, delay_s: float, expiring: Expiring) -> None:
        """Call it after a while, without grace."""
        self._push(self._clock() + delay_s, expiring)

    async def run(self) -> None:
        """Tick for ever; end only when cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """Call what is due."""
        now_s = self._clock()
        # First all: what is called may add itself again, for a time that is over too.
        due = []
        while self._heap and self._heap[0].at_s <= now_s:
            due.append(heapq.heappop(self._heap))
        for entry in due:
            if entry.expiring is not None:
                del self._entries[entry.expiring]
                entry.expiring.on_deadline(now_s, self._grace_s)

    def forget(self, expiring: Expiring) -> None:
        """Call it no more, and let go of it."""
        entry = self._entries.pop(expiring, None)
        if entry is not None:
            entry.expiring = None
            if len(self._heap) > 2 * len(self._entries) + _MAX_FORGOTTEN:
                self._heap = [entry for entry in self._heap if entry.expiring is not None]
                heapq.heapify(self._heap)

    def _push(self, at_s: float, expiring: Expiring) -> None:
        entry = self._entries.get(expiring)
        if entry is not None and entry.at_s <= at_s:
            return
        self.forget(expiring)
        entry = self._entries[expiring] = _Entry(at_s, next(self._numbers), expiring)
        heapq.heappush(self._heap, entry)
