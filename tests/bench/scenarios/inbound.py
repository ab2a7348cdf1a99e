"""Inbound publishing: clients publish over their WebSockets, one more client of the room counts the messages."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import senders
from tests.bench.companions import companion
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.scenario import Bench
from tests.bench.scenarios.turns import WARM_UP_S, measure_turns
from tests.bench.servers import running_server

_SENDER_COUNT = 4
_WINDOW_COUNT = 1000


class Inbound:
    """Implements `Scenario`."""

    name = "inbound"
    title = f"Inbound publishing, to one subscriber and the senders, {_WINDOW_COUNT} under way"
    columns = (
        Column("messages/s", "turned_per_s"),
        Column("CPU us/message", "cpu_us", 2),
        Column("lost", "missed_count", 0, max),
        Column("twice/disorder", "wrong_count", 0, max),
        Column("server CPU %", "server_percent"),
        Column("client CPU %", "client_percent"),
        Column("load CPU %", "load_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{_SENDER_COUNT} senders"]

    def takes(self, contender: Contender) -> bool:
        return contender.can_publish

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        with (
            running_server(contender, bench.bus, bench.cores) as server,
            companion(
                "load client",
                senders.run,
                port=server.place.port,
                dialogue=contender.dialogue(bench.bus, bench.size_bytes),
                sender_count=_SENDER_COUNT,
                window_count=_WINDOW_COUNT,
                size_bytes=bench.size_bytes,
                warm_up_s=WARM_UP_S,
                seconds=bench.seconds,
            ) as client,
        ):
            return measure_turns(client, server, bench)
