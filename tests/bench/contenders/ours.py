"""One Roomcast node with its default settings."""

from __future__ import annotations

import sys

from tests.bench.bus import Bus


class Ours:
    """Implements `Contender`."""

    name = "ours"
    path = "/ws/rooms/bench"

    def command(self, port: int, bus: Bus) -> list[str]:
        return [sys.executable, "-m", "service", "node", "--port", str(port)]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {"ROOMCAST_REDIS_URL": bus.url, "ROOMCAST_PREFIX": bus.prefix}
