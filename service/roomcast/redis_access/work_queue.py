"""A work queue in a Redis stream: the ingest stream of other services, and the webhooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from redis.exceptions import ResponseError

from roomcast.redis_access.client import Client, ask_for_key
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import Command, read_script

_MAX_DEAD_LETTERS = 10_000
# Half of them are names. Redis's Lua passes 8,000 on at the most.
_MAX_DEAD_FIELDS = 1000


class Entry(NamedTuple):
    """An entry: its fields by name; of a repeated name the last one counts."""

    id: bytes
    fields: Mapping[bytes, bytes]


class WorkQueue:
    """A stream of entries that are not processed yet: there is no other state, so its length is the lag.

    It has no consumer group, which would spread one channel's entries over many readers and lose their order: the
    worker that holds the lease reads from the beginning, and removes processed entries.

    Keys, in one slot of a cluster: `<prefix>ingest`, `{<prefix>ingest}:dead`, `{<prefix>ingest}:lease`.
    Methods raise redis-py's errors (`client.OUTAGES`).

    Args:
        name: of the stream in the keys.
    """

    def __init__(self, client: Client, *, prefix: str, name: str = "ingest") -> None:
        keys = ChannelKeys(prefix)
        self.key = keys.topic(name)
        self.dead_key = keys.key(name, "dead")
        self.lease_key = keys.key(name, "lease")
        self._client = client
        self._bury = read_script("roomcast.redis_access", "bury")

    async def read(self, *, count: int, within_s: float, after: bytes = b"0") -> list[Entry]:
        """Return the oldest entries after an id, `count` at most; if there are none, wait for one."""
        command = ("XREAD", "COUNT", count, "BLOCK", max(1, int(within_s * 1000)), "STREAMS", self.key, after)
        try:
            streams = await ask_for_key(self._client, self.key, *command)
        except ResponseError as exc:
            raise ResponseError(f"{self.key}: {exc}") from exc
        return [Entry(entry_id, fields) for _, entries in streams for entry_id, fields in entries]

    async def find(self, ids: Iterable[bytes]) -> list[Entry]:
        """Return the entries with these ids that are still there."""
        found = await run_all(self._client, [("XRANGE", self.key, each, each) for each in ids], ())
        return [Entry(entry_id, fields) for entries in found for entry_id, fields in entries]

    async def ack(self, published: Iterable[bytes], dead: Mapping[bytes, str]) -> None:
        """Remove published entries, and move those that cannot be published to the dead letters, with the reason."""
        commands: list[Command] = [
            self._bury.call([self.key, self.dead_key], [entry_id, reason, _MAX_DEAD_LETTERS, _MAX_DEAD_FIELDS])
            for entry_id, reason in dead.items()
        ]
        ids = list(published)
        if ids:
            commands.append(("XDEL", self.key, *ids))
        await run_all(self._client, commands, [self._bury])

    async def counts(self) -> StreamCounts:
        """Return the number of waiting entries and of dead letters."""
        return StreamCounts(*await run_all(self._client, [("XLEN", self.key), ("XLEN", self.dead_key)], ()))


class StreamCounts(NamedTuple):
    """The entries of a queue: those that wait, and those that cannot be processed and were moved away."""

    lag: int
    dead: int
