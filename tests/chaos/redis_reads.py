"""What Redis holds of rooms and maps, read by plain commands."""

from __future__ import annotations

import json

from roomcast.redis_access.keys import ChannelKeys
from tests.chaos.journal import Name, Place, read_payload
from tests.chaos.map_journal import Change, Kept
from tests.chaos.map_writer import text_of
from tests.support.redis_shapes import Servers


class RedisReads:
    """Reads the channels of a run. Every method raises the exceptions of redis while it cannot be reached."""

    def __init__(self, servers: Servers, prefix: str) -> None:
        self._servers = servers
        self._keys = ChannelKeys(prefix)

    def place(self, room: str) -> Place:
        """Return the place of the newest publication of a room, or where its epoch started."""
        key = self._keys.key
        with self._servers.client() as client:
            epoch, base = client.hmget(key(f"room:{room}", "meta"), "epoch", "base")
            newest = client.xrevrange(key(f"room:{room}", "stream"), count=1)
        return Place(epoch.decode(), max(int(base or 0), *[_offset(entry_id) for entry_id, _ in newest]))

    def stream(self, room: str) -> dict[Place, tuple[Name, int]]:
        """Return the entries of a room, of the present epoch."""
        key = self._keys.key
        with self._servers.client() as client:
            epoch, base = client.hmget(key(f"room:{room}", "meta"), "epoch", "base")
            entries = client.xrange(key(f"room:{room}", "stream"), f"({int(base or 0)}-0")
        return {Place(epoch.decode(), _offset(entry_id)): read_payload(fields[b"d"]) for entry_id, fields in entries}

    def map(self, channel: str, *, with_stream: bool = False) -> Kept:
        """Return a map as it is at one moment."""
        key = self._keys.key
        with self._servers.client() as client:
            before: object = None
            while True:  # keys may expire between two commands
                epoch, offset = client.hmget(key(channel, "meta"), "epoch", "offset")
                if before == (epoch, offset):
                    break
                before = (epoch, offset)
                state = client.hgetall(key(channel, "state"))
                stream = client.xrange(key(channel, "stream")) if with_stream else []
        entries = {name.decode(): _value(entry) for name, entry in state.items()}
        changes = [_change(_offset(entry_id), fields) for entry_id, fields in stream]
        return Kept(channel, (epoch or b"").decode(), int(offset or 0), entries, changes)


def _offset(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _value(entry: bytes) -> str:
    """Return the value of an entry, see map_change.lua: a line that ends with three lengths, all of them, the value."""
    header, _, rest = entry.partition(b"\n")
    lengths = [int(length) for length in header.split(b",")[-3:]]
    return text_of(json.loads(rest[sum(lengths) :]))


def _change(offset: int, fields: dict[bytes, bytes]) -> Change:
    about = json.loads(fields[b"m"])
    return Change(offset, about["key"], None if about.get("removed") else text_of(json.loads(fields[b"d"])))
