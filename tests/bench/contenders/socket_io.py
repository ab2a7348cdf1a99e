"""python-socketio on uvicorn, its Redis manager behind it; the server itself is socket_io_server.py.

The project does not depend on it: BENCH_PYTHON names an interpreter whose environment has python-socketio, uvicorn
and redis; the default is this interpreter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench.bus import Bus
from tests.bench.contenders.contender import Echo
from tests.bench.contenders.printed import printed
from tests.bench.dialogue import Dialogue
from tests.bench.maps import Maps
from tests.bench.outlet import Outlet, redis_outlet
from tests.bench.place import Place

_PACKAGE = "python-socketio"
_VERSION = f"from importlib.metadata import version; import socketio, uvicorn, redis; print(version({_PACKAGE!r}))"


class SocketIO:
    """Implements `Contender`."""

    name = "socketio"
    echo: Echo | None = None
    maps: Maps | None = None
    can_publish = True
    shares_redis = True

    def missing(self) -> str | None:
        if self._printed_version()[:1].isdigit():
            return None
        return f"no {_PACKAGE} here; BENCH_PYTHON may name an interpreter that has it"

    def version(self) -> dict[str, str]:
        return {_PACKAGE: self._printed_version().strip()}

    def command(self, place: Place, bus: Bus) -> list[str]:
        server = Path(__file__).with_name("socket_io_server.py")
        return [_interpreter(), "-P", str(server), str(place.port), bus.url, bus.topic]

    def environment(self, bus: Bus) -> dict[str, str]:
        return {}

    def dialogue(self, bus: Bus, size_bytes: int) -> Dialogue:
        # Engine.IO opens the session, then Socket.IO's CONNECT joins the namespace (protocol 5).
        steps = ((b"", b'0{"sid"'), (b"40", b'40{"sid"'))
        return Dialogue("/socket.io/?EIO=4&transport=websocket", steps, before=b'42["m",', after=b"]")

    def outlet(self, place: Place, bus: Bus, size_bytes: int) -> Outlet:
        # The format of its write-only RedisManager (python-socketio 5.14+: JSON).
        return redis_outlet(
            bus.url,
            bus.topic,
            size_bytes,
            before=b'{"method":"emit","event":"m","data":',
            after=b',"binary":false,"namespace":"/","room":null,"skip_sid":null,"callback":null,"host_id":"bench"}',
        )

    def _printed_version(self) -> str:
        return printed([_interpreter(), "-c", _VERSION])


def _interpreter() -> str:
    return os.environ.get("BENCH_PYTHON") or sys.executable
