"""One timer for all that can expire: tokens, subscriptions, and the time to say who one is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_S = 0.5


class Expiring(Protocol):
    """Something that may end at its time."""

    def on_deadline(self, now_s: float, grace_s: float) -> None:
        """End what has expired; called at each of its deadlines, also at those that have been put off since."""


class Deadlines:
    """Calls what expires, up to half a second late.

    Args:
        clock: `time.time`, Unix seconds, which tokens count in.
        grace_s: how long after its time something expires: clients refresh at the last moment.
    """

    def __init__(self, clock: Callable[[], float], *, grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, Expiring]] = []

    def now_s(self) -> float:
        """Return the Unix time."""
        return self._clock()

    def add(self, unix_s: float, expiring: Expiring) -> None:
        """Call it soon after the grace that follows this time; 0: never."""
        if unix_s:
            self._push(unix_s + self._grace_s, expiring)

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
        while self._heap and self._heap[0][0] <= now_s:
            _, _, expiring = heapq.heappop(self._heap)
            expiring.on_deadline(now_s, self._grace_s)

    def _push(self, at_s: float, expiring: Expiring) -> None:
        heapq.heappush(self._heap, (at_s, next(self._numbers), expiring))
