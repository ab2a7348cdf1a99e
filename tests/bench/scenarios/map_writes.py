"""Writes to a map: by services in batches, and by clients, to one subscriber and the writers."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import batches, senders
from tests.bench.companions import companion
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.maps import STATE
from tests.bench.scenarios.scenario import Bench
from tests.bench.scenarios.turns import WARM_UP_S, measure_turns
from tests.bench.servers import running_server

_KEY_COUNT = 10_000
_BATCHES, _CLIENTS = "API, 100 a call", "4 clients"
_SENDER_COUNT = 4
_WINDOW_COUNT = 1000


class MapWrites:
    """Implements `Scenario`."""

    name = "map-writes"
    title = f"Writes to a persistent map of {_KEY_COUNT:,} keys"
    columns = (
        Column("writes/s", "turned_per_s"),
        Column("server CPU us/write", "cpu_us", 1),
        Column("Redis CPU us/write", "redis_us", 1),
        Column("lost", "missed_count", 0, max),
        Column("refused/twice/disorder", "wrong_count", 0, max),
        Column("server CPU %", "server_percent"),
        Column("load CPU %", "load_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [_BATCHES, _CLIENTS]

    def takes(self, contender: Contender) -> bool:
        return contender.maps is not None

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        assert contender.maps is not None
        bench.bus.clear()
        with running_server(contender, bench.bus, bench.cores) as server:
            if case == _BATCHES:
                load = companion(
                    "load client",
                    batches.run,
                    port=server.place.port,
                    maps=contender.maps,
                    channel=STATE,
                    key_count=_KEY_COUNT,
                    size_bytes=bench.size_bytes,
                    warm_up_s=WARM_UP_S,
                    seconds=bench.seconds,
                )
            else:
                load = companion(
                    "load client",
                    senders.run,
                    port=server.place.port,
                    dialogue=contender.maps.dialogue(STATE, key_count=_KEY_COUNT),
                    sender_count=_SENDER_COUNT,
                    window_count=_WINDOW_COUNT,
                    size_bytes=bench.size_bytes,
                    warm_up_s=WARM_UP_S,
                    seconds=bench.seconds,
                )
            with load as client:
                return measure_turns(client, server, bench)
