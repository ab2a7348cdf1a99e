"""A `centrifugo` binary (version 6) on the PATH, on one core: JSON protocol, published to by pipelined API calls."""

from __future__ import annotations

import json
import shutil

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.contenders.printed import printed
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet
from tests.bench.place import HOST, Place

_PROGRAM = "centrifugo"
_BODY = (b'{"channel":"bench","data":', b"}")
_CONNECT = b'{"id":1,"connect":{}}'
_EVERYONE_MAY = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
# As those of ours.
_NAMESPACES = [
    {"name": "state", "map": {"mode": "persistent", "stream_size": 1000, "stream_ttl": "3600s"}},
    {"name": "cursors", "map": {"mode": "ephemeral", "key_ttl": "15s"}},
]


class Centrifugo:
    """Implements `Contender`. Streams and maps are in its memory: it does not use Redis."""

    name = "centrifugo"
    echo: Echo | None = None
    maps: Maps | None = Maps(_CONNECT)
    can_publish = True
    shares_redis = False

    def missing(self) -> str | None:
        return None if shutil.which(_PROGRAM) else f"no {_PROGRAM} on the PATH"

    def version(self) -> dict[str, str]:
        return {_PROGRAM: printed([_PROGRAM, "version"]).split()[1].lstrip("v")}

    def command(self, place: Place, bus: Bus) -> list[str]:
        config = place.folder / "centrifugo.json"
        config.write_text(
            json.dumps(
                {
                    "http_server": {"address": HOST, "port": str(place.port)},
                    "client": {"insecure": True, "allowed_origins": ["*"]},
                    "http_api": {"insecure": True},
                    "channel": {
                        "without_namespace": _EVERYONE_MAY | {"allow_publish_for_subscriber": True},
                        "namespaces": [each | _EVERYONE_MAY | {"subscription_type": "map"} for each in _NAMESPACES],
                    },
                    "log": {"level": "error"},
                }
            )
        )
        return [_PROGRAM, "--config", str(config)]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {"GOMAXPROCS": "1"}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        subscribe = _CONNECT + b'\n{"id":2,"subscribe":{"channel":"bench"}}'
        before = b'{"id":3,"publish":{"channel":"bench","data":'
        return Dialogue("/connection/websocket", ((subscribe, b'"id":2'),), before=before, after=b"}}")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        length = sum(map(len, _BODY)) + size_bytes
        request = (
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        return Outlet(place.port, request.encode() + _BODY[0], _BODY[1])
