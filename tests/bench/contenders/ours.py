"""One Roomcast node with its default settings."""

from __future__ import annotations

import sys

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet, redis_outlet
from tests.bench.place import Place

API_KEY = "0123456789abcdef"


class Ours:
    """Implements `Contender`."""

    name = "ours"
    echo: Echo | None = Echo("/ws", b"Message received: ")
    maps: Maps | None = Maps(api_key=API_KEY)
    can_publish = True
    shares_redis = True

    def missing(self) -> str | None:
        return None

    def version(self) -> dict[str, str]:
        return {}

    def command(self, place: Place, bus: Bus) -> list[str]:
        return [sys.executable, "-m", "roomcast", "node", "--port", str(place.port)]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {
            "ROOMCAST_REDIS_URL": bus.url,
            "ROOMCAST_PREFIX": bus.prefix,
            "ROOMCAST_API_KEY": API_KEY,
            "ROOMCAST_INSECURE": "true",
        }

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        return Dialogue("/ws/rooms/bench")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        return redis_outlet(bus.url, bus.topic, size_bytes)
