"""nats-server with its WebSocket listener, on one core (Debian: nats-server). Its clients speak NATS in the frames."""

from __future__ import annotations

import shutil

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.contenders.printed import printed
from tests.bench.dialogue import BINARY, Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet
from tests.bench.place import HOST, Place

_PROGRAM = "nats-server"
_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":1}\r\n'


class Nats:
    """Implements `Contender`."""

    name = "nats-server"
    echo: Echo | None = None
    maps: Maps | None = None
    can_publish = True
    shares_redis = False

    def missing(self) -> str | None:
        return None if shutil.which(_PROGRAM) else f"no {_PROGRAM} on the PATH"

    def version(self) -> dict[str, str]:
        return {_PROGRAM: printed([_PROGRAM, "--version"]).split()[-1].lstrip("v")}

    def command(self, place: Place, bus: Bus) -> list[str]:
        config = place.folder / "nats.conf"
        config.write_text(
            f"listen: '{HOST}:{place.other_port}'\n"
            f"websocket {{ listen: '{HOST}:{place.port}', no_tls: true, compression: false }}\n"
        )
        return [_PROGRAM, "--config", str(config)]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {"GOMAXPROCS": "1"}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        # The PONG says that everything before the PING was done.
        steps = ((_CONNECT + b"SUB bench 1\r\nPING\r\n", b"PONG\r\n"),)
        return Dialogue("/", steps, BINARY, before=b"PUB bench %d\r\n" % size_bytes, after=b"\r\n")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        return Outlet(place.other_port, b"PUB bench %d\r\n" % size_bytes, b"\r\n", hello=_CONNECT)
