"""The ingest stream: what other services have added, oldest first, until the ingest worker has published it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import Command, read_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from roomcast.redis_access.client import Client

_MAX_DEAD_LETTERS = 10_000
# Half of them are names. Redis's Lua passes 8,000 on at the most.
_MAX_DEAD_FIELDS = 1000


class Entry(NamedTuple):
    """What a service has added: its fields by name. Of a name that is there twice the last one counts."""

    id: bytes
    fields: Mapping[bytes, bytes]


class WorkQueue:
    """What is in the stream is not published yet: there is no other state, so its length is the lag.

    No consumer group, which would deal one channel's entries out to many readers and lose their order: whoever holds
    the worker's lease reads from the beginning, and removes what is done.

    Keys, in one slot of a cluster: `<prefix>ingest`, `{<prefix>ingest}:dead`, `{<prefix>ingest}:lease`.
    Methods raise redis-py's errors (`client.OUTAGES`).

    Args:
        name: what stands in the keys; there is another stream of this kind (`hooks.stream`).
    """

    def __init__(self, client: Client, *, prefix: str, name: str = "ingest") -> None:
        keys = ChannelKeys(prefix)
        self.key = keys.topic(name)
        self.dead_key = keys.key(name, "dead")
        self.lease_key = keys.key(name, "lease")
        self._client = client
        self._bury = read_script("roomcast.redis_access", "bury")

    async def read(self, *, count: int, within_s: float) -> list[Entry]:
        """Return the oldest entries, `count` at most; if there are none, wait for one."""
        try:
            # Any: redis-py's type for every protocol and decoding at once
            streams: Any = await self._client.xread({self.key: "0"}, count=count, block=max(1, int(within_s * 1000)))
        except ResponseError as exc:
            raise ResponseError(f"{self.key}: {exc}") from exc
        return [Entry(entry_id, fields) for _, entries in streams for entry_id, fields in entries]

    async def ack(self, published: Iterable[bytes], dead: Mapping[bytes, str]) -> None:
        """Remove entries that were published, and move those that cannot be, with the reason, to the dead letters."""
        commands: list[Command] = [
            self._bury.call([self.key, self.dead_key], [entry_id, reason, _MAX_DEAD_LETTERS, _MAX_DEAD_FIELDS])
            for entry_id, reason in dead.items()
        ]
        ids = list(published)
        if ids:
            commands.append(("XDEL", self.key, *ids))
        await run_all(self._client, commands, [self._bury])

    async def counts(self) -> StreamCounts:
        """Return how many entries wait to be published, and how many dead letters there are."""
        return StreamCounts(*await run_all(self._client, [("XLEN", self.key), ("XLEN", self.dead_key)], ()))


class StreamCounts(NamedTuple):
    """What is in a stream that a worker empties.

    lag: entries that are not done yet. dead: entries that cannot be, and were moved away.
    """

    lag: int
    dead: int
