"""The fan-out scenario: one room, many subscribers on one server, messages at a fixed rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench import publisher, subscribers
from tests.bench.bus import Bus
from tests.bench.companions import Companion, companion
from tests.bench.contenders import Contender
from tests.bench.cores import Cores
from tests.bench.figures import Figures, Row
from tests.bench.servers import running_server
from tests.bench.usage import Meter, Usage

WARM_UP_S = 2.0
DRAIN_S = 3.0

_START_IN_S = 0.1
_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What every contender has to carry; `seconds` is the measured window, after WARM_UP_S of the same load."""

    subscriber_count: int
    rate_per_s: int
    seconds: float
    size_bytes: int

    @property
    def message_count(self) -> int:
        """Return how many messages are published, the warm-up's too."""
        return math.ceil(self.rate_per_s * (WARM_UP_S + self.seconds))


def measure_rounds(
    contenders: Sequence[Contender],
    loads: Sequence[Load],
    bus: Bus,
    cores: Cores,
    *,
    round_count: int,
    tell: Callable[[str], None],
) -> list[Row]:
    """Return a row per contender and load.

    The contenders take turns in each round, so that what the machine does meanwhile meets all of them.
    """
    rows = [Row(contender.name, load.rate_per_s, []) for load in loads for contender in contenders]
    for round_number in range(1, round_count + 1):
        runs = [(contender, load) for load in loads for contender in contenders]
        for row, (contender, load) in zip(rows, runs, strict=True):
            figures = measure(contender, load, bus, cores)
            row.rounds.append(figures)
            tell(
                f"round {round_number}/{round_count}: {contender.name} at {load.rate_per_s}/s: "
                f"{figures.cpu_us:.2f} us a delivery, {figures.delivered_percent:.2f} % delivered"
            )
    return rows


def measure(contender: Contender, load: Load, bus: Bus, cores: Cores) -> Figures:
    """Run one contender, on a server process of its own, under one load.

    Raises: BenchError if something does not start, ends by itself or hangs.
    """
    with ExitStack() as stack:
        server = stack.enter_context(running_server(contender, bus, cores))
        client = stack.enter_context(
            companion("load client", subscribers.run, url=server.url, count=load.subscriber_count)
        )
        source = stack.enter_context(
            companion(
                "publisher",
                publisher.run,
                redis_url=bus.url,
                topic=bus.topic,
                rate_per_s=load.rate_per_s,
                count=load.message_count,
                size_bytes=load.size_bytes,
            )
        )
        meter = Meter(cores, server_pid=server.pid, client_pid=client.pid, publisher_pid=source.pid, redis_pid=bus.pid)
        client.receive(subscribers.Connected, within_s=_ANSWER_TIMEOUT_S)
        source.receive(publisher.Ready, within_s=_ANSWER_TIMEOUT_S)
        start_s = time.monotonic() + _START_IN_S
        window_s = start_s + WARM_UP_S
        source.send(publisher.Start(at_ns=round(start_s * 1e9)))

        _sleep_until(window_s)
        count_before, before = _delivered_count(client), meter.read()
        _sleep_until(window_s + load.seconds)
        count_after, after = _delivered_count(client), meter.read()

        published = source.receive(publisher.Published, within_s=_ANSWER_TIMEOUT_S)
        _drain(client, published.count * load.subscriber_count)
        client.send(subscribers.Finish(since_ns=round(window_s * 1e9)))
        received = client.receive(subscribers.Received, within_s=_ANSWER_TIMEOUT_S)
    return _figures(
        load, cores, before, after, delivered_count=count_after - count_before, published=published, received=received
    )


def _figures(
    load: Load,
    cores: Cores,
    before: Usage,
    after: Usage,
    *,
    delivered_count: int,
    published: publisher.Published,
    received: subscribers.Received,
) -> Figures:
    expected_count = published.count * load.subscriber_count
    window_s = after.at_s - before.at_s
    server_s = after.server_s - before.server_s
    core_s = after.core_s - before.core_s
    return Figures(
        cpu_us=server_s * 1e6 / max(1, delivered_count),
        delivered_percent=received.in_order_count * 100 / expected_count,
        lost_count=expected_count - received.in_order_count,
        other_count=received.other_count,
        ended_count=received.ended_count,
        p50_ms=received.p50_ms,
        p99_ms=received.p99_ms,
        published_per_s=published.per_s,
        delivered_per_s=delivered_count / window_s,
        late_p99_ms=published.late_p99_ms,
        unheard_count=published.unheard_count,
        server_cpu_percent=server_s * 100 / window_s,
        client_cpu_percent=(after.client_s - before.client_s) * 100 / window_s,
        load_cpu_percent=(after.load_s - before.load_s) * 100 / window_s / len(cores.load),
        disturbance_percent=max(0.0, core_s - server_s) * 100 / window_s,
    )


def _delivered_count(client: Companion) -> int:
    client.send(subscribers.Count())
    return client.receive(int, within_s=_ANSWER_TIMEOUT_S)


def _drain(client: Companion, expected_count: int) -> None:
    """Wait for what is under way, at most DRAIN_S: what has not come by then counts as lost."""
    deadline_s = time.monotonic() + DRAIN_S
    while _delivered_count(client) < expected_count and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.monotonic()))
