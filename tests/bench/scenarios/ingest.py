"""The ingest worker: how fast it publishes the entries of a full ingest stream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
import redis

from roomcast.redis_access.keys import ChannelKeys
from tests.bench.contenders import Contender
from tests.bench.errors import BenchError
from tests.bench.figures import Column, Figures, Row
from tests.bench.messages import message
from tests.bench.scenarios.scenario import Bench

_ENTRY_COUNT = 100_000
_ENTRIES, _WRITES = f"{_ENTRY_COUNT:,} entries", f"{_ENTRY_COUNT:,} writes to maps"
_KEY_COUNT = 1000
_CHANNEL_COUNT = 10
_PIPELINE_LENGTH = 1000
_DEADLINE_S = 60.0


class IngestScenario:
    """Implements `Scenario`."""

    name = "ingest"
    title = f"One ingest worker publishes, with history, what has gathered for {_CHANNEL_COUNT} channels"
    columns = (
        Column("entries/s", "entries_per_s"),
        Column("worker CPU us per entry", "cpu_us", 1),
        Column("Redis CPU us per entry", "redis_us", 1),
    )

    def cases(self, bench: Bench) -> Sequence[str]:
        return [_ENTRIES, _WRITES]

    def takes(self, contender: Contender) -> bool:
        return contender.name == "ours"

    def is_hopeless(self, row: Row) -> bool:
        return False

    def measure(self, contender: Contender, case: str, bench: Bench) -> Figures:
        keys = ChannelKeys(bench.bus.prefix)
        stream, lease = keys.topic("ingest"), keys.key("ingest", "lease")
        command = [sys.executable, "-m", "roomcast", "worker", "ingest"]
        # The user's settings must not change the measurement.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}
        environment |= {**contender.environment(bench.bus), "ROOMCAST_LOG_LEVEL": "warning"}
        with redis.Redis.from_url(bench.bus.url) as client:
            client.set(lease, "bench", ex=60)  # the worker stands by until all of it has gathered
            worker = subprocess.Popen(command, env=environment, start_new_session=True)
            try:
                bench.cores.pin_server(worker.pid)
                _fill(client, stream, bench.size_bytes, is_map=case == _WRITES)
                processes = psutil.Process(worker.pid), psutil.Process(bench.bus.pid)
                client.delete(lease)
                left = _wait_until_at_most(client, stream, _ENTRY_COUNT - 1)
                started_s, before_s = time.perf_counter(), list(map(_cpu_s, processes))
                _wait_until_at_most(client, stream, 0)
                took_s = time.perf_counter() - started_s
                cpu_s, redis_s = (_cpu_s(each) - until_s for each, until_s in zip(processes, before_s, strict=True))
            finally:
                worker.terminate()
                worker.wait()
            if case == _WRITES and not all(
                client.zcard(keys.key(f"state:{place}", "keys")) for place in range(_CHANNEL_COUNT)
            ):
                raise BenchError("the worker has not written the maps")
        return {"entries_per_s": left / took_s, "cpu_us": cpu_s / left * 1e6, "redis_us": redis_s / left * 1e6}


def _fill(client: redis.Redis, stream: str, size_bytes: int, *, is_map: bool) -> None:
    for start in range(0, _ENTRY_COUNT, _PIPELINE_LENGTH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, start + _PIPELINE_LENGTH):
            data = message(number, 0, size_bytes=size_bytes)
            place = number % _CHANNEL_COUNT
            where: Any = {"channel": f"room:{place}"}  # Any: redis-py's argument
            if is_map:
                where = {"map": f"state:{place}", "key": number % _KEY_COUNT}
            pipeline.xadd(stream, {**where, "data": data})
        pipeline.execute()


def _wait_until_at_most(client: redis.Redis, stream: str, count: int) -> int:
    """Return how many entries are left. Raises: BenchError."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        left: Any = client.xlen(stream)  # Any: redis-py's reply
        if left <= count:
            return int(left)
        time.sleep(0.005)
    raise BenchError(f"more than {count} entries were left after {_DEADLINE_S:g} s")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
