"""Loading a map: by one client, and by many at once, also while it changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import redis

from tests.bench import batches, loaders
from tests.bench.bus import Bus
from tests.bench.companions import companion
from tests.bench.contenders import Contender
from tests.bench.figures import Column, Figures, Row
from tests.bench.maps import STATE
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import running_server
from tests.bench.usage import Meter, shares

_KEY_COUNT = 10_000
_SIZE_BYTES = 100
_WRITES_PER_S = 50
_FIRST, _NEXT = "first client", "next client"
_WRITTEN = f", {_WRITES_PER_S} writes/s"
_ANSWER_TIMEOUT_S = 120.0


class MapLoad:
    """Implements `Scenario`."""

    name = "map-load"
    title = f"Loading a map of {_KEY_COUNT:,} keys of {_SIZE_BYTES} B"
    columns = (
        Column("all live ms", "took_ms"),
        Column("server CPU ms/client", "client_ms", 1),
        Column("failed", "failed_count", 0, max),
        Column("keys missing", "missing_count", 0, max),
        Column("pages read from Redis", "page_count", 0, max),
        Column("MiB from Redis", "redis_mib", 1, max),
        Column("memory growth MiB", "growth_mib", 0, max),
        Column("server CPU %", "server_percent"),
        Column("client CPU %", "client_percent"),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        crowd = f"{bench.connection_count // 10:,} clients"
        return [_FIRST, _NEXT, crowd, crowd + _WRITTEN]

    def takes(self, contender: Contender) -> bool:
        return contender.maps is not None

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        maps = contender.maps
        assert maps is not None
        bench.bus.clear()
        with ExitStack() as stack:
            server = stack.enter_context(running_server(contender, bench.bus, bench.cores))
            port = server.place.port
            batches.fill(port, maps, STATE, key_count=_KEY_COUNT, size_bytes=_SIZE_BYTES)
            client = stack.enter_context(companion("load client", loaders.run, port=port, maps=maps, channel=STATE))

            def load(count: int) -> loaders.Loaded:
                client.send(loaders.Load(count))
                return client.receive(loaders.Loaded, within_s=_ANSWER_TIMEOUT_S)

            if case == _NEXT:
                load(1)
            if case.endswith(_WRITTEN):
                stack.enter_context(
                    batches.writing(
                        port, maps, STATE, rate_per_s=_WRITES_PER_S, key_count=_KEY_COUNT, size_bytes=_SIZE_BYTES
                    )
                )
            count = 1 if case in (_FIRST, _NEXT) else bench.connection_count // 10
            meter = Meter(bench.cores, server_pids=[server.pid], load_pids=[client.pid, bench.bus.pid])
            memory_bytes, read_before, before = _memory_bytes(server.pid, "VmRSS"), _read(bench.bus), meter.read()
            loaded = load(count)
            after, read_after = meter.read(), _read(bench.bus)
            growth_bytes = _memory_bytes(server.pid, "VmHWM") - memory_bytes
        return {
            "took_ms": loaded.took_s * 1e3,
            "client_ms": (after.server_s - before.server_s) * 1e3 / count,
            "failed_count": loaded.failed_count,
            "missing_count": max(0, _KEY_COUNT - loaded.least_count),
            **{name: read_after[name] - read_before[name] for name in read_after},
            "growth_mib": growth_bytes / 1024**2,
            **shares(before, after, bench.cores),
        }


def _memory_bytes(pid: int, name: str) -> int:
    """Return a figure of Linux; 0 elsewhere."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _read(bus: Bus) -> Figures:
    """Return what was read from Redis until now."""
    with redis.Redis.from_url(bus.url) as client:
        commands, network = client.info("commandstats"), client.info("stats")
    assert isinstance(commands, dict)
    assert isinstance(network, dict)
    pages = commands.get("cmdstat_zrangebylex", {"calls": 0})["calls"]
    return {"page_count": pages, "redis_mib": network["total_net_output_bytes"] / 1024**2}
