"""Maps as the contenders have them: how clients subscribe to one and set its keys, and how services do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from tests.bench.dialogue import TEXT, Dialogue, frame
from tests.bench.messages import NUMBER, message
from tests.bench.outlet import Outlet
from tests.bench.place import Place

# A persistent map and an ephemeral one.
STATE = "state:bench"
CURSORS = "cursors:bench"

_KEY = b'"key":"%05d"'
_KEY_BYTES = len(_KEY % 0)


@dataclass(frozen=True, slots=True)
class MapDialogue(Dialogue):
    """A client's dialogue with a map; message n sets key n modulo `key_count`."""

    key_count: int = 1

    @override
    def publication(self, message: bytes) -> bytes:
        return frame(TEXT, self.before + message + _key(message, self.key_count) + self.after)


@dataclass(frozen=True, slots=True)
class MapOutlet(Outlet):
    """How a service writes to a map; message n sets key n modulo `key_count`."""

    key_count: int = 1

    @override
    def publication(self, message: bytes) -> bytes:
        return self.before + message + _key(message, self.key_count) + self.after


@dataclass(frozen=True, slots=True)
class Maps:
    """A contender's maps; all that have any understand the server API of Centrifugo.

    connect: the first command of its clients, which speak the Centrifuge protocol; empty: they use `/ws/maps/`.
    api_key: of the server API.
    """

    connect: bytes = b""
    api_key: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers of a call of the server API."""
        return {"Content-Type": "application/json", "X-API-Key": self.api_key}

    def path(self, channel: str) -> str:
        """Return the path of a client's WebSocket."""
        return "/connection/websocket" if self.connect else f"/ws/maps/{channel}"

    def dialogue(self, channel: str, *, key_count: int) -> MapDialogue:
        """Return how a client subscribes to an empty map and sets its keys."""
        if not self.connect:
            steps = ((b"", b'"synced":true'),)
            return MapDialogue(self.path(channel), steps, before=b'{"data":', after=b"}", key_count=key_count)
        before = b'{"id":3,"publish":{"channel":"%b","type":1,"data":' % channel.encode()
        steps = ((self.connect + b"\n" + subscribe(channel, b',"phase":2'), b'"id":2'),)
        return MapDialogue(self.path(channel), steps, before=before, after=b"}}", key_count=key_count)

    def outlet(self, place: Place, channel: str, *, size_bytes: int, key_count: int) -> MapOutlet:
        """Return how a service sets the keys of a map, one in a call."""
        before = b'{"channel":"%b","data":' % channel.encode()
        length = len(before) + size_bytes + _KEY_BYTES + len(b",}")
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"POST /api/map_publish HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
        return MapOutlet(place.port, head.encode() + before, b"}", key_count=key_count)


def subscribe(channel: str, more: bytes) -> bytes:
    """Return the command for a part of a map; `more`: its members about this part."""
    return b'{"id":2,"subscribe":{"channel":"%b","type":1,"flag":1,"limit":1000%b}}' % (channel.encode(), more)


def batches(channel: str, *, key_count: int, size_bytes: int, batch_length: int = 100) -> list[bytes]:
    """Return the bodies of API calls that set each key once."""
    commands = []
    for number in range(key_count):
        value = message(number, 0, size_bytes=size_bytes)
        commands.append(
            b'{"map_publish":{"channel":"%b","data":%b%b}}' % (channel.encode(), value, _key(value, key_count))
        )
    return [
        b'{"parallel":true,"commands":[' + b",".join(commands[start : start + batch_length]) + b"]}"
        for start in range(0, key_count, batch_length)
    ]


def _key(message: bytes, key_count: int) -> bytes:
    return b"," + _KEY % (int(message[NUMBER]) % key_count)
