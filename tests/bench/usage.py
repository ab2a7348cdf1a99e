"""Processor time, read before and after a measured window."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from tests.bench.cores import Cores


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds (user and system) used until `at_s`.

    core_s: of the server's core, by whomever; 0 without a core of its own.
    load_s: of the load client, the publisher and Redis together.
    """

    at_s: float
    server_s: float
    core_s: float
    client_s: float
    load_s: float


class Meter:
    """Reads what the processes of one run use."""

    def __init__(self, cores: Cores, *, server_pid: int, client_pid: int, publisher_pid: int, redis_pid: int) -> None:
        self._core = cores.server
        self._server = psutil.Process(server_pid)
        self._client = psutil.Process(client_pid)
        self._others = (psutil.Process(publisher_pid), psutil.Process(redis_pid))

    def read(self) -> Usage:
        """Return the use until now."""
        client_s = _processor_s(self._client)
        return Usage(
            at_s=time.monotonic(),
            server_s=_processor_s(self._server),
            core_s=self._core_s(),
            client_s=client_s,
            load_s=client_s + sum(map(_processor_s, self._others)),
        )

    def _core_s(self) -> float:
        if self._core is None:
            return 0.0
        times = psutil.cpu_times(percpu=True)[self._core]
        # Linux counts a guest's time in `user` as well.
        return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
