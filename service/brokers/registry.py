"""Which nodes live and how many clients they hold: a key per node with a TTL, and a set of their names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from service.brokers.client import OUTAGES, outage_reason
from service.brokers.ingest import IngestStream
from service.errors import BrokerUnavailable

if TYPE_CHECKING:
    import redis.asyncio

    from service.brokers import IngestCounts


class NodeRegistry:
    """The nodes' own reports in Redis. A node that was killed is gone when its key's TTL has passed.

    Keys: `<prefix>nodes` (set of node ids), `<prefix>node:<id>` (connection count, TTL).
    """

    def __init__(self, client: redis.asyncio.Redis, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._ingest = IngestStream(client, prefix=prefix)

    async def report(self, node_id: str, connection_count: int, *, ttl_s: float) -> None:
        """Say that a node lives and how many clients it holds. Raises: BrokerUnavailable."""
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.sadd(f"{self._prefix}nodes", node_id)
                pipeline.set(self._key(node_id), connection_count, px=math.ceil(ttl_s * 1000))
                await pipeline.execute()
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    async def retire(self, node_id: str) -> None:
        """Say that a node ends. Raises: BrokerUnavailable."""
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.srem(f"{self._prefix}nodes", node_id)
                pipeline.delete(self._key(node_id))
                await pipeline.execute()
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    async def connection_counts(self) -> dict[str, int]:
        """Return the connection count of every living node, by node id. Raises: BrokerUnavailable."""
        try:
            members = list(await self._client.smembers(f"{self._prefix}nodes"))
            async with self._client.pipeline(transaction=False) as pipeline:
                for member in members:
                    pipeline.get(self._key(_text(member)))
                counts = await pipeline.execute(raise_on_error=False)
            living: dict[str, int] = {}
            for member, count in zip(members, counts, strict=True):
                if isinstance(count, bytes) and count.isdigit():
                    living[_text(member)] = int(count)
                else:  # dead, or nothing that a node wrote
                    await self._client.srem(f"{self._prefix}nodes", member)
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        return living

    async def ingest_counts(self) -> IngestCounts:
        """See `Registry.ingest_counts`."""
        try:
            return await self._ingest.counts()
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    def _key(self, node_id: str) -> str:
        return f"{self._prefix}node:{node_id}"


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode(errors="replace")
