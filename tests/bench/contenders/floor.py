"""The least that a server without coalescing can do; the server itself is floor_server.py."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet, redis_outlet
from tests.bench.place import Place


class Floor:
    """Implements `Contender`."""

    name = "floor"
    echo: Echo | None = None
    maps: Maps | None = None
    can_publish = False
    shares_redis = False

    def missing(self) -> str | None:
        return None

    def version(self) -> dict[str, str]:
        return {}

    def command(self, place: Place, bus: Bus) -> list[str]:
        # By its path, not as a module: the bench's own imports are not the server's.
        server = Path(__file__).with_name("floor_server.py")
        return [sys.executable, str(server), str(place.port), bus.url, bus.topic]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        return Dialogue("/")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        return redis_outlet(bus.url, bus.topic, size_bytes)
