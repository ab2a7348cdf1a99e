"""The same node with clients of the Centrifuge protocol, each with a token."""

from __future__ import annotations

import jwt

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.contenders.ours import API_KEY, Ours
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps

_SECRET = "0123456789abcdef0123456789abcdef"
_CONNECT = b'{"id":1,"connect":{"token":"%b"}}' % jwt.encode({"sub": "bench", "exp": 2**32}, _SECRET, "HS256").encode()


class OursCentrifuge(Ours):
    """Implements `Contender`."""

    name = "ours-centrifuge"
    echo: Echo | None = None
    maps: Maps | None = Maps(_CONNECT, API_KEY)

    def environment(self, bus: Bus) -> dict[str, str]:
        return {
            "ROOMCAST_REDIS_URL": bus.url,
            "ROOMCAST_PREFIX": bus.prefix,
            "ROOMCAST_API_KEY": API_KEY,
            "ROOMCAST_SECRET": _SECRET,
        }

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        subscribe = _CONNECT + b'\n{"id":2,"subscribe":{"channel":"room:bench"}}'
        before = b'{"id":3,"publish":{"channel":"room:bench","data":'
        return Dialogue("/connection/websocket", ((subscribe, b'"id":2'),), before=before, after=b"}}")
