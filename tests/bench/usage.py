"""Processor time, read before and after a measured window."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.cores import Cores


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds (user and system) used until `at_s`.

    core_s: of the server's core, by any process; 0 without a core of its own.
    load_s: of the load client, the publisher and Redis together.
    """

    at_s: float
    server_s: float
    core_s: float
    client_s: float
    load_s: float


class Meter:
    """Measures the processes of one run.

    Args:
        load_pids: the load client first, then publisher, Redis and the other processes that make the load.
    """

    def __init__(self, cores: Cores, *, server_pids: Sequence[int], load_pids: Sequence[int]) -> None:
        self._core = cores.server
        self._servers = [psutil.Process(pid) for pid in server_pids]
        self._loads = [psutil.Process(pid) for pid in load_pids]

    def read(self) -> Usage:
        """Return the use until now."""
        client_s, *others_s = map(_processor_s, self._loads)
        return Usage(
            at_s=time.monotonic(),
            server_s=sum(map(_processor_s, self._servers)),
            core_s=self._core_s(),
            client_s=client_s,
            load_s=client_s + sum(others_s),
        )

    def _core_s(self) -> float:
        if self._core is None:
            return 0.0
        times = psutil.cpu_times(percpu=True)[self._core]
        # Linux counts a guest's time in `user` as well.
        return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def shares(before: Usage, after: Usage, cores: Cores) -> dict[str, float]:
    """Return percents of one core over a window.

    load_percent: load client, publisher and Redis, of all the cores that they may use.
    disturbance_percent: of the server's core, used by anything else.
    """
    window_s = after.at_s - before.at_s
    server_s = after.server_s - before.server_s
    return {
        "server_percent": server_s * 100 / window_s,
        "client_percent": (after.client_s - before.client_s) * 100 / window_s,
        "load_percent": (after.load_s - before.load_s) * 100 / window_s / len(cores.load),
        "disturbance_percent": max(0.0, after.core_s - before.core_s - server_s) * 100 / window_s,
    }


def _processor_s(process: psutil.Process) -> float:
    """Return the time that a process has used; on Linux in ns: its usual times have steps of 10 ms."""
    try:
        threads = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
    except OSError:  # a thread has just ended
        threads = []
    if threads:
        return sum(int(thread.partition(" ")[0]) for thread in threads) / 1e9
    times = process.cpu_times()
    return times.user + times.system
