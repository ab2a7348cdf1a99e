"""Inbound echo: a few connections that keep the server busy with small messages."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import echoers
from tests.bench.companions import companion
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.scenario import Bench
from tests.bench.scenarios.turns import WARM_UP_S, measure_turns
from tests.bench.servers import running_server

_CONNECTION_COUNT = 8
_WINDOW_COUNT = 100
_SIZE_BYTES = 32


class EchoScenario:
    """Implements `Scenario`."""

    name = "echo"
    title = f"Inbound echo, {_SIZE_BYTES} B messages, {_WINDOW_COUNT} under way on each connection"
    columns = (
        Column("messages/s", "turned_per_s"),
        Column("CPU us/message", "cpu_us", 2),
        Column("wrong", "wrong_count", 0, max),
        Column("server CPU %", "server_percent"),
        Column("client CPU %", "client_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{_CONNECTION_COUNT} connections"]

    def takes(self, contender: Contender) -> bool:
        return contender.echo is not None

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        assert contender.echo is not None
        with (
            running_server(contender, bench.bus, bench.cores) as server,
            companion(
                "load client",
                echoers.run,
                port=server.place.port,
                path=contender.echo.path,
                before=contender.echo.before,
                connection_count=_CONNECTION_COUNT,
                window_count=_WINDOW_COUNT,
                size_bytes=_SIZE_BYTES,
                warm_up_s=WARM_UP_S,
                seconds=bench.seconds,
            ) as client,
        ):
            return measure_turns(client, server, bench)
