"""Shared by the inbound scenarios: a load client that runs by itself, and the usage of the server meanwhile."""

from __future__ import annotations

import time

from tests.bench.companions import Companion
from tests.bench.figures import Figures
from tests.bench.scenarios.scenario import Bench
from tests.bench.servers import Server
from tests.bench.turned import Connected, Go, Turned
from tests.bench.usage import Meter, shares

WARM_UP_S = 1.0

_ANSWER_TIMEOUT_S = 30.0


def measure_turns(client: Companion, server: Server, bench: Bench) -> Figures:
    """Let a connected load client go, and measure its window."""
    meter = Meter(bench.cores, server_pids=[server.pid], load_pids=[client.pid, bench.bus.pid])
    client.receive(Connected, within_s=_ANSWER_TIMEOUT_S)
    client.send(Go())
    time.sleep(WARM_UP_S)
    before = meter.read()
    time.sleep(bench.seconds)
    after = meter.read()
    turned = client.receive(Turned, within_s=_ANSWER_TIMEOUT_S)
    count = max(1.0, turned.per_s * (after.at_s - before.at_s))
    redis_s = (after.load_s - after.client_s) - (before.load_s - before.client_s)
    return {
        "turned_per_s": turned.per_s,
        "cpu_us": (after.server_s - before.server_s) * 1e6 / count,
        "redis_us": redis_s * 1e6 / count,
        "wrong_count": turned.wrong_count,
        "missed_count": turned.missed_count,
        **shares(before, after, bench.cores),
    }
