"""The webhook stream: what has happened, oldest first, until the webhook worker has posted it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import read_script
from roomcast.redis_access.work_queue import IngestStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roomcast.redis_access.client import Client
    from roomcast.redis_access.work_queue import StreamCounts

# A few minutes of many clients: 30 MB of Redis's memory.
_MAX_LENGTH = 100_000


class WebhookStream:
    """What is in the stream is not posted yet, as with the ingest stream, whose keys and ways it has.

    An entry has one field, `event`: a JSON object. Methods raise redis-py's errors (`client.OUTAGES`).
    Keys, in one slot of a cluster: `<prefix>webhooks`, `{<prefix>webhooks}:dead`, `:lease`, `:occupied`.
    """

    def __init__(self, client: Client, *, prefix: str, max_length: int = _MAX_LENGTH) -> None:
        self.entries = IngestStream(client, prefix=prefix, name="webhooks")
        self.occupied_key = ChannelKeys(prefix).key("webhooks", "occupied")
        self.max_length = max_length
        self._client = client
        self._offer = read_script("roomcast.hooks", "offer")

    async def offer(self, events: Sequence[bytes]) -> int:
        """Add events; return how many of them, from the first on, found room."""
        command = self._offer.call([self.entries.key], [self.max_length, *events])
        (count,) = await run_all(self._client, [command], [self._offer])
        return int(count)

    async def counts(self) -> StreamCounts:
        """Return how many events wait to be posted, and how many were given up."""
        return await self.entries.counts()
