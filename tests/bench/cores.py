"""Which processor cores the server and the load run on."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """The server has a core of its own; the load has the others. `server` is None where nothing can be pinned."""

    server: int | None
    load: frozenset[int]

    def pin_load(self) -> None:
        """Keep this process, and all that it starts from now on, off the server's core."""
        if self.server is not None:
            os.sched_setaffinity(0, self.load)

    def pin_server(self, pid: int) -> None:
        """Give the server's process its core, before it has threads."""
        if self.server is not None:
            os.sched_setaffinity(pid, {self.server})

    def __str__(self) -> str:
        if self.server is None:
            return "no pinning: the server and the load share the cores"
        load = ", ".join(map(str, sorted(self.load)))
        return f"server alone on core {self.server}; load client, publisher and Redis on core {load}"


def choose_cores() -> Cores:
    """Return the first usable core for the server and the rest for the load; no pinning with fewer than two cores."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return Cores(server=None, load=frozenset(range(os.cpu_count() or 1)))
    first, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        return Cores(server=None, load=frozenset({first}))
    return Cores(server=first, load=frozenset(rest))
