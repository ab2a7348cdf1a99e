"""The connection manager that most FastAPI chats begin with; the server itself is classic_server.py."""

from __future__ import annotations

import sys

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet, redis_outlet
from tests.bench.place import Place


class Classic:
    """Implements `Contender`."""

    name = "classic"
    echo: Echo | None = Echo("/echo")
    maps: Maps | None = None
    can_publish = True
    shares_redis = True

    def missing(self) -> str | None:
        return None

    def version(self) -> dict[str, str]:
        return {}

    def command(self, place: Place, bus: Bus) -> list[str]:
        return [sys.executable, "-m", "tests.bench.contenders.classic_server", str(place.port), bus.url, bus.topic]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        return Dialogue("/ws")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        return redis_outlet(bus.url, bus.topic, size_bytes)
