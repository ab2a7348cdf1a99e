from __future__ import annotations

from collections.abc import Callable

from roomcast.node.flush_pace import Pace


class Loop:
    """A loop's clock and calls that the test drives; a flush takes `flush_s`."""

    def __init__(self, flush_s: float) -> None:
        self.now_s = 100.0
        self.flush_s = flush_s
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.flushed_at_s: list[float] = []
        self.pace = Pace(self.soon.append, self._call_later, lambda: self.now_s, max_pause_s=0.01)

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((self.now_s + delay_s, call))

    def flush(self) -> None:
        self.flushed_at_s.append(self.now_s)
        self.now_s += self.flush_s

    def run(self) -> None:
        """Run what is due next, as a loop would."""
        if self.soon:
            self.soon.pop(0)()
        else:
            at_s, call = self.later.pop(0)
            self.now_s = max(self.now_s, at_s)
            call()


def flushes(flush_s: float, every_s: float, count: int) -> list[float]:
    """Return when flushes happened, relative to the first, for work that comes at an even rate."""
    loop = Loop(flush_s)
    start_s = loop.now_s
    for number in range(count):
        loop.now_s = max(loop.now_s, start_s + number * every_s)
        loop.pace.schedule(loop.flush)
        loop.run()
    return [at_s - start_s for at_s in loop.flushed_at_s]


def test_nothing_waits_while_flushing_takes_less_than_a_third_of_the_time() -> None:
    assert [round(at_s, 3) for at_s in flushes(flush_s=0.003, every_s=0.01, count=3)] == [0.0, 0.01, 0.02]


def test_after_a_flush_there_is_a_pause_of_twice_its_time() -> None:
    assert [round(at_s, 3) for at_s in flushes(flush_s=0.003, every_s=0.001, count=4)] == [0.0, 0.009, 0.018, 0.027]


def test_the_pause_has_a_bound() -> None:
    assert [round(at_s, 3) for at_s in flushes(flush_s=0.5, every_s=0.001, count=3)] == [0.0, 0.51, 1.02]
