"""When the hub flushes: at once while flushes are cheap, at most a third of the time while they are long."""

from __future__ import annotations

from collections.abc import Callable

_PAUSE_PER_FLUSH = 2.0


class Pace:
    """Calls the hub's flush; after a long one it pauses for twice its time.

    Publications during the pause share the next write. Without it a node under load flushes two or three publications
    at a time on a full core: 500 subscribers x 1,000 msg/s cost 1.99 us a delivery at 99 % of a core, p99 12.6 ms
    (figures with it: tests/bench/README.md). Short flushes cause no pause.

    Args:
        call_soon: calls a function in the loop's next turn, when the broker's reader has nothing more to read.
        call_later: calls a function after a delay in seconds.
        clock: `time.monotonic`, seconds; not the loop's time, which uvloop does not update during a flush.
        max_pause_s: the longest pause; 0: none.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        *,
        max_pause_s: float,
    ) -> None:
        self._call_soon = call_soon
        self._call_later = call_later
        self._clock = clock
        self._max_pause_s = max_pause_s
        self._not_before_s = 0.0

    def schedule(self, flush: Callable[[], None]) -> None:
        """Call `flush` once, when it is due; the hub schedules the next one only after that."""

        def timed_flush() -> None:
            started_s = self._clock()
            flush()
            ended_s = self._clock()
            self._not_before_s = ended_s + min(_PAUSE_PER_FLUSH * (ended_s - started_s), self._max_pause_s)

        pause_s = self._not_before_s - self._clock()
        if pause_s > 0:
            self._call_later(pause_s, timed_flush)
        else:
            self._call_soon(timed_flush)
