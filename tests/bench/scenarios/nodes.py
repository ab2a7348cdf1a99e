"""Several nodes on one Redis: the same subscribers, spread over them. All nodes share the server's core."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.broadcast import broadcast, crowd
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server

_RATE_PER_S = 100


class Nodes:
    """Implements `Scenario`."""

    name = "nodes"
    title = f"Several nodes on one Redis, {_RATE_PER_S} msg/s"
    columns = (
        Column("CPU us/delivery", "cpu_us", 2),
        Column("delivered %", "delivered_percent", 2, min),
        Column("lost", "lost_count", 0, max),
        Column("twice/disorder", "other_count", 0, max),
        Column("p50 ms", "p50_ms", 1),
        Column("p99 ms", "p99_ms", 1),
        Column("server CPU %", "server_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return ["2 nodes", "4 nodes"]  # one node: that is `fanout`

    def takes(self, contender: Contender) -> bool:
        return contender.shares_redis

    def is_hopeless(self, row: Row) -> bool:
        return row.figure("delivered_percent") < 60.0

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        node_count = int(case.partition(" ")[0])
        dialogue = contender.dialogue(bench.bus, bench.size_bytes)
        with ExitStack() as stack:
            servers = [
                stack.enter_context(running_server(contender, bench.bus, bench.cores)) for _ in range(node_count)
            ]
            crowds = [
                stack.enter_context(
                    crowd(dialogue, server, count=bench.subscriber_count // node_count, size_bytes=bench.size_bytes)
                )
                for server in servers
            ]
            return broadcast(
                contender.outlet(servers[0].place, bench.bus, bench.size_bytes),
                crowds,
                bench,
                rate_per_s=_RATE_PER_S,
                seconds=bench.seconds,
                size_bytes=bench.size_bytes,
            )
