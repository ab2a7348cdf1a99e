"""Fan-out: one room, many subscribers on one server, messages at a fixed rate."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.bus import RedisReader
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.broadcast import broadcast, crowd
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server

_HOPELESS_PERCENT = 60.0


class Fanout:
    """Implements `Scenario`."""

    name = "fanout"
    title = "Fan-out"
    columns = (
        Column("CPU us/delivery", "cpu_us", 2),
        Column("delivered %", "delivered_percent", 2, min),
        Column("lost", "lost_count", 0, max),
        Column("twice/disorder", "other_count", 0, max),
        Column("p50 ms", "p50_ms", 1),
        Column("p99 ms", "p99_ms", 1),
        Column("published/s", "published_per_s"),
        Column("delivered/s", "delivered_per_s"),
        Column("Redis' buffer KiB", "backlog_kib", 0, max),
        Column("server CPU %", "server_percent"),
        Column("client CPU %", "client_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{rate}/s" for rate in bench.rates]

    def takes(self, contender: Contender) -> bool:
        return True

    def is_hopeless(self, row: Row) -> bool:
        return row.figure("delivered_percent") < _HOPELESS_PERCENT

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        size_bytes = bench.size_bytes
        with (
            running_server(contender, bench.bus, bench.cores) as server,
            crowd(
                contender.dialogue(bench.bus, size_bytes), server, count=bench.subscriber_count, size_bytes=size_bytes
            ) as room,
            RedisReader(bench.bus) as reader,
        ):
            figures = broadcast(
                contender.outlet(server.place, bench.bus, size_bytes),
                [room],
                bench,
                rate_per_s=int(case.removesuffix("/s")),
                seconds=bench.seconds,
                size_bytes=size_bytes,
                look=reader.look,
            )
        return {**figures, **reader.figures()}
