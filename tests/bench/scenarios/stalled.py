"""One client that stops reading, among many that read."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import subscribers
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.scenarios.broadcast import broadcast, crowd
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server

_LIVE_COUNT = 50
_RATE_PER_S = 200
_SIZE_BYTES = 4096
# The kernel takes some 3 MB for the stalled one before the server notices anything: 4 s.
_MIN_SECONDS = 8.0
_ANSWER_TIMEOUT_S = 30.0


class Stalled:
    """Implements `Scenario`."""

    name = "stalled"
    title = f"1 stalled client among {_LIVE_COUNT + 1}, {_SIZE_BYTES} B messages"
    columns = (
        Column("others delivered %", "delivered_percent", 2, min),
        Column("others p50 ms", "p50_ms", 1),
        Column("others p99 ms", "p99_ms", 1),
        Column("memory growth MiB", "growth_mib", 1, max),
        Column("ended the stalled one", "stalled_ended", 0, min),
        Column("CPU us/delivery", "cpu_us", 2),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [f"{_RATE_PER_S}/s"]

    def takes(self, contender: Contender) -> bool:
        return True

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        with (
            running_server(contender, bench.bus, bench.cores) as server,
            crowd(
                contender.dialogue(bench.bus, _SIZE_BYTES), server, count=_LIVE_COUNT, size_bytes=_SIZE_BYTES
            ) as room,
        ):
            room.client.send(subscribers.OpenStalled())
            room.client.receive(subscribers.Opened, within_s=_ANSWER_TIMEOUT_S)
            memory_bytes: list[int] = []
            figures = broadcast(
                contender.outlet(server.place, bench.bus, _SIZE_BYTES),
                [room],
                bench,
                rate_per_s=_RATE_PER_S,
                seconds=max(_MIN_SECONDS, bench.seconds),
                size_bytes=_SIZE_BYTES,
                look=lambda: memory_bytes.append(server.memory_bytes()),
            )
        # The first sample is taken after some messages: memory that a server allocates once is not growth.
        return {**figures, "growth_mib": (max(memory_bytes) - memory_bytes[0]) / 1024**2}
