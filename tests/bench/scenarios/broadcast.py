"""The part that scenarios share: messages at a fixed rate to subscribers that are connected, measured over a window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench import publisher, subscribers
from tests.bench.companions import Companion, companion
from tests.bench.dialogue import Dialogue
from tests.bench.errors import BenchError
from tests.bench.figures import Figures
from tests.bench.outlet import Outlet
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import Server
from tests.bench.usage import Meter, shares

WARM_UP_S = 1.0

_DRAIN_S = 3.0
_START_IN_S = 0.1
_ANSWER_TIMEOUT_S = 60.0
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Crowd:
    """A load client and its server."""

    client: Companion
    server: Server
    count: int

    def delivered_count(self) -> int:
        """Return how many deliveries there were until now."""
        self.client.send(subscribers.Count())
        return self.client.receive(int, within_s=_ANSWER_TIMEOUT_S)


@contextmanager
def crowd(dialogue: Dialogue, server: Server, *, count: int, size_bytes: int) -> Iterator[Crowd]:
    """Subscribe clients, from one process. Raises: BenchError if one is refused."""
    with companion(
        "load client",
        subscribers.run,
        port=server.place.port,
        dialogue=dialogue,
        size_bytes=size_bytes,
    ) as client:
        open_subscribers(client, count, at_once=50)
        yield Crowd(client, server, count)


def open_subscribers(client: Companion, count: int, *, at_once: int) -> subscribers.Opened:
    """Subscribe more clients. Raises: BenchError if one is refused."""
    client.send(subscribers.Open(count, at_once))
    opened = client.receive(subscribers.Opened, within_s=_ANSWER_TIMEOUT_S)
    if opened.refused_count:
        raise BenchError(f"the server refused {opened.refused_count} of {count} subscribers")
    return opened


def broadcast(
    outlet: Outlet,
    crowds: Sequence[Crowd],
    bench: Bench,
    *,
    rate_per_s: int,
    seconds: float,
    size_bytes: int,
    look: Callable[[], None] = lambda: None,
) -> Figures:
    """Publish at a fixed rate, from one publisher, for WARM_UP_S and then `seconds`, which count.

    Args:
        look: called repeatedly during the run.
    """
    count = sum(crowd.count for crowd in crowds)
    with companion(
        "publisher",
        publisher.run,
        outlet=outlet,
        rate_per_s=rate_per_s,
        seconds=WARM_UP_S + seconds,
        size_bytes=size_bytes,
    ) as source:
        meter = Meter(
            bench.cores,
            server_pids=[crowd.server.pid for crowd in crowds],
            load_pids=[*[crowd.client.pid for crowd in crowds], source.pid, bench.bus.pid],
        )
        source.receive(publisher.Ready, within_s=_ANSWER_TIMEOUT_S)
        start_s = time.monotonic() + _START_IN_S
        window_s = start_s + WARM_UP_S
        source.send(publisher.Start(at_ns=round(start_s * 1e9)))
        _look_until(window_s, look)
        count_before, before = _delivered_count(crowds), meter.read()
        _look_until(window_s + seconds, look)
        count_after, after = _delivered_count(crowds), meter.read()
        published = source.receive(publisher.Published, within_s=_ANSWER_TIMEOUT_S)
        expected_count = published.count * count
        _drain(crowds, expected_count)
        received = _finish(crowds, since_s=window_s)
    delivered_count = count_after - count_before
    in_order_count = sum(each.in_order_count for each in received)
    return {
        "cpu_us": (after.server_s - before.server_s) * 1e6 / max(1, delivered_count),
        "delivered_percent": in_order_count * 100 / expected_count,
        "lost_count": expected_count - in_order_count,
        "other_count": sum(each.other_count for each in received),
        "ended_count": sum(each.ended_count for each in received),
        "p50_ms": max(each.p50_ms for each in received),
        "p99_ms": max(each.p99_ms for each in received),
        "published_per_s": published.per_s,
        "unpublished_percent": max(0.0, 100 - published.per_s * 100 / rate_per_s),
        "delivered_per_s": delivered_count / (after.at_s - before.at_s),
        "late_p99_ms": published.late_p99_ms,
        "unheard_count": published.unheard_count,
        "stalled_ended": float(any(each.stalled_ended for each in received)),
        **shares(before, after, bench.cores),
    }


def _delivered_count(crowds: Sequence[Crowd]) -> int:
    return sum(crowd.delivered_count() for crowd in crowds)


def _drain(crowds: Sequence[Crowd], expected_count: int) -> None:
    """Wait at most _DRAIN_S for messages under way; the others count as lost."""
    deadline_s = time.monotonic() + _DRAIN_S
    while _delivered_count(crowds) < expected_count and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _finish(crowds: Sequence[Crowd], *, since_s: float) -> list[subscribers.Received]:
    received = []
    for crowd in crowds:
        crowd.client.send(subscribers.Finish(since_ns=round(since_s * 1e9)))
        received.append(crowd.client.receive(subscribers.Received, within_s=_ANSWER_TIMEOUT_S))
    return received


def _look_until(at_s: float, look: Callable[[], None]) -> None:
    while (left_s := at_s - time.monotonic()) > 0:
        time.sleep(min(left_s, _LOOK_EVERY_S))
        look()
