"""The nodes that are alive and their numbers of clients: a key per node with a TTL, and a set of their leases."""

from __future__ import annotations

import math
from typing import Any

from redis.exceptions import ResponseError
from typing_extensions import override

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence.interface import Registry
from roomcast.redis_access.client import OUTAGES, Client, outage_reason, outages_reported
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.scripts import Command
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue


class NodeKeys:
    """The keys of nodes in Redis. A node is identified by its lease: its id and a number."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.leases = f"{prefix}nodes"  # a set: of nodes alive, and of dead ones until they are swept

    def of(self, lease: str) -> str:
        """Return the key that exists while a lease is alive: the node's connection count."""
        return f"{self._prefix}node:{lease}"

    def channels(self, lease: str) -> str:
        """Return the key of the set of channels in which a lease has, or had, members."""
        return f"{self._prefix}node:{lease}:channels"


class NodeRegistry(Registry):
    """The reports of nodes in Redis. A killed node counts as dead after the TTL of its key."""

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._keys = NodeKeys(prefix)
        self._ingest = WorkQueue(client, prefix=prefix)

    @override
    async def report(self, lease: str, connection_count: int, *, ttl_s: float, is_new: bool) -> bool:
        condition = () if is_new else ("XX",)
        _, was_set = await self._run(
            # Also when the lease has ended: later writes under it are then found and swept.
            ("SADD", self._keys.leases, lease),
            ("SET", self._keys.of(lease), connection_count, "PX", math.ceil(ttl_s * 1000), *condition),
        )
        return bool(was_set)

    @override
    async def retire(self, lease: str) -> None:
        await self._run(("DEL", self._keys.of(lease)))

    @override
    async def connection_counts(self) -> dict[str, int]:
        counts = await self._read()
        # A longer number is not a node's, and int() refuses one of 5,000 digits.
        return {lease: int(count) for lease, count in counts.items() if count and len(count) < 16 and count.isdigit()}

    @override
    async def dead(self) -> set[str]:
        return {lease for lease, count in (await self._read()).items() if count is None}

    async def _read(self) -> dict[str, bytes | None]:
        """Return the connection count of each lease, None for a dead one. Raises: BrokerUnavailable."""
        (found,) = await self._run(("SMEMBERS", self._keys.leases))
        leases = [_text(member) for member in found]
        # A key of another type was written by another program: the node counts neither as alive nor as dead.
        counts = await self._run(*[("GET", self._keys.of(lease)) for lease in leases], instead_of_wrong_type=b"")
        return dict(zip(leases, counts, strict=True))

    async def _run(self, *commands: Command, instead_of_wrong_type: Any = None) -> list[Any]:  # Any: redis-py's replies
        """Return the replies. Raises: BrokerUnavailable."""
        with outages_reported():
            replies = await run_pipeline(self._client, commands, ())
        for number, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                replies[number] = instead_of_wrong_type
            elif isinstance(reply, OUTAGES):
                raise BrokerUnavailable(outage_reason(reply)) from reply
        return replies

    @override
    async def ingest_counts(self) -> StreamCounts:
        with outages_reported():
            return await self._ingest.counts()


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode(errors="replace")
