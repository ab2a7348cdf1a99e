"""A connection storm, and the cost of its idle connections."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.bench import subscribers
from tests.bench.companions import companion
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.broadcast import Crowd, broadcast, open_subscribers
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server
from tests.bench.usage import Meter, shares

# Servers allocate some memory once, for their first connections; it is not the cost of one.
_FIRST_COUNT = 200
_AT_ONCE = 500
_SETTLE_S = 4.0


class CrowdScenario:
    """Implements `Scenario`."""

    name = "crowd"
    title = "Connection storm, then idle"
    columns = (
        Column("subscribed/s", "subscribed_per_s"),
        Column("CPU us/connection", "connection_us"),
        Column("KiB/connection", "connection_kib", 2),
        Column("idle CPU %", "idle_percent", 1),
        Column("then delivered %", "delivered_percent", 2, min),
        Column("server CPU %", "server_percent"),
        Column("client CPU %", "client_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{bench.connection_count:,} connections"]

    def takes(self, contender: Contender) -> bool:
        return True

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        count, size_bytes = bench.connection_count, bench.size_bytes
        with (
            running_server(contender, bench.bus, bench.cores) as server,
            companion(
                "load client",
                subscribers.run,
                port=server.place.port,
                dialogue=contender.dialogue(bench.bus, size_bytes),
                size_bytes=size_bytes,
            ) as client,
        ):
            meter = Meter(bench.cores, server_pids=[server.pid], load_pids=[client.pid])
            open_subscribers(client, _FIRST_COUNT, at_once=_AT_ONCE)
            time.sleep(_SETTLE_S / 4)
            bytes_before = server.memory_bytes()
            before = meter.read()
            opened = open_subscribers(client, count, at_once=_AT_ONCE)
            after = meter.read()
            time.sleep(_SETTLE_S)
            idle = meter.read()
            bytes_after = server.memory_bytes()
            # Two messages each, a second apart: all are subscribed, not only connected.
            room = Crowd(client, server, count + _FIRST_COUNT)
            outlet = contender.outlet(server.place, bench.bus, size_bytes)
            reached = broadcast(outlet, [room], bench, rate_per_s=1, seconds=0.5, size_bytes=size_bytes)
        return {
            "subscribed_per_s": opened.subscribed_count / opened.took_s,
            "connection_us": (after.server_s - before.server_s) * 1e6 / count,
            "connection_kib": (bytes_after - bytes_before) / 1024 / count,
            "idle_percent": (idle.server_s - after.server_s) * 100 / (idle.at_s - after.at_s),
            "delivered_percent": reached["delivered_percent"],
            "ended_count": reached["ended_count"],
            **shares(before, after, bench.cores),
        }
