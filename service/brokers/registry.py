"""Which nodes live and how many clients they hold: a key per node with a TTL, and a set of their leases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from service.brokers.client import OUTAGES, outage_reason
from service.errors import BrokerUnavailable

if TYPE_CHECKING:
    import redis.asyncio


class NodeKeys:
    """The names of nodes in Redis. A node is known by its lease: its id, and which lease of it this is."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.leases = f"{prefix}nodes"  # a set: of the living, and of the dead until they are swept

    def of(self, lease: str) -> str:
        """Return the key that is there while a lease lives: the node's connection count."""
        return f"{self._prefix}node:{lease}"

    def channels(self, lease: str) -> str:
        """Return the key of the set of channels in which a lease has, or had, somebody."""
        return f"{self._prefix}node:{lease}:channels"


class NodeRegistry:
    """The nodes' own reports in Redis. A node that was killed is dead when its key's TTL has passed."""

    def __init__(self, client: redis.asyncio.Redis, *, prefix: str) -> None:
        self._client = client
        self._keys = NodeKeys(prefix)

    async def report(self, lease: str, connection_count: int, *, ttl_s: float, is_new: bool) -> bool:
        """See `Registry.report`."""
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                # Also when it is too late: what was still written under the lease is then found, and swept again.
                pipeline.sadd(self._keys.leases, lease)
                pipeline.set(self._keys.of(lease), connection_count, px=math.ceil(ttl_s * 1000), xx=not is_new)
                _, was_set = await pipeline.execute()
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        return bool(was_set)

    async def retire(self, lease: str) -> None:
        """See `Registry.retire`."""
        try:
            await self._client.delete(self._keys.of(lease))
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc

    async def connection_counts(self) -> dict[str, int]:
        """See `Registry.connection_counts`."""
        counts = await self._read()
        return {lease: int(count) for lease, count in counts.items() if count is not None and count.isdigit()}

    async def dead(self) -> set[str]:
        """See `Registry.dead`."""
        return {lease for lease, count in (await self._read()).items() if count is None}

    async def _read(self) -> dict[str, bytes | None]:
        """Return what is kept of each lease, None of a dead one. Raises: BrokerUnavailable."""
        try:
            leases = [_text(member) for member in await self._client.smembers(self._keys.leases)]
            async with self._client.pipeline(transaction=False) as pipeline:
                for lease in leases:
                    pipeline.get(self._keys.of(lease))
                counts = await pipeline.execute(raise_on_error=False)
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        # An error is the answer about a key that no node has written.
        return {
            lease: b"" if isinstance(count, Exception) else count for lease, count in zip(leases, counts, strict=True)
        }


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode(errors="replace")
