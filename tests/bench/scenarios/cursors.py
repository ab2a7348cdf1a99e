"""Fan-out of one ephemeral map, beside that of a stream by the same server process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.maps import CURSORS
from tests.bench.scenarios.broadcast import broadcast, crowd
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server

_RATE_PER_S = 200


class Cursors:
    """Implements `Scenario`."""

    name = "cursors"
    title = f"An ephemeral map with a key for each subscriber, {_RATE_PER_S} changes/s, and a stream beside it"
    columns = (
        Column("CPU us/delivery", "cpu_us", 2),
        Column("of the stream", "stream_us", 2),
        Column("ratio", "ratio", 2),
        Column("delivered %", "delivered_percent", 2, min),
        Column("lost", "lost_count", 0, max),
        Column("twice/disorder", "other_count", 0, max),
        Column("p50 ms", "p50_ms", 1),
        Column("p99 ms", "p99_ms", 1),
        Column("server CPU %", "server_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{_RATE_PER_S}/s"]

    def takes(self, contender: Contender) -> bool:
        return contender.maps is not None

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        maps, bus, count, size_bytes = contender.maps, bench.bus, bench.subscriber_count, bench.size_bytes
        assert maps is not None
        bus.clear()
        with ExitStack() as stack:
            server = stack.enter_context(running_server(contender, bus, bench.cores))
            # Calls of the API would be part of the server's CPU; a stream is published to without any.
            other = (
                stack.enter_context(running_server(contender, bus, bench.cores)) if contender.shares_redis else server
            )
            found = {}
            for name, dialogue, outlet in (
                ("stream", contender.dialogue(bus, size_bytes), contender.outlet(server.place, bus, size_bytes)),
                (
                    "map",
                    maps.dialogue(CURSORS, key_count=count),
                    maps.outlet(other.place, CURSORS, size_bytes=size_bytes, key_count=count),
                ),
            ):
                with crowd(dialogue, server, count=count, size_bytes=size_bytes) as room:
                    found[name] = broadcast(
                        outlet, [room], bench, rate_per_s=_RATE_PER_S, seconds=bench.seconds, size_bytes=size_bytes
                    )
        stream_us = found["stream"]["cpu_us"]
        return {**found["map"], "stream_us": stream_us, "ratio": found["map"]["cpu_us"] / stream_us}
