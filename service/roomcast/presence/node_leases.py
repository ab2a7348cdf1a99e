"""Which nodes live and how many clients they hold: a key per node with a TTL, and a set of their leases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, outage_reason
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.work_queue import WorkQueue

if TYPE_CHECKING:
    from roomcast.redis_access.client import Client
    from roomcast.redis_access.scripts import Command
    from roomcast.redis_access.work_queue import StreamCounts


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

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._keys = NodeKeys(prefix)
        self._ingest = WorkQueue(client, prefix=prefix)

    async def report(self, lease: str, connection_count: int, *, ttl_s: float, is_new: bool) -> bool:
        """See `Registry.report`."""
        _, was_set = await self._run(
            # Also when it is too late: what was still written under the lease is then found, and swept again.
            ("SADD", self._keys.leases, lease),
            (
                "SET",
                self._keys.of(lease),
                connection_count,
                "PX",
                math.ceil(ttl_s * 1000),
                *([] if is_new else ["XX"]),
            ),
        )
        return bool(was_set)

    async def retire(self, lease: str) -> None:
        """See `Registry.retire`."""
        await self._run(("DEL", self._keys.of(lease)))

    async def connection_counts(self) -> dict[str, int]:
        """See `Registry.connection_counts`."""
        counts = await self._read()
        return {lease: int(count) for lease, count in counts.items() if count is not None and count.isdigit()}

    async def dead(self) -> set[str]:
        """See `Registry.dead`."""
        return {lease for lease, count in (await self._read()).items() if count is None}

    async def _read(self) -> dict[str, bytes | None]:
        """Return what is kept of each lease, None of a dead one. Raises: BrokerUnavailable."""
        (found,) = await self._run(("SMEMBERS", self._keys.leases))
        leases = [_text(member) for member in found]
        # A key that is no string is none that a node has written: neither living nor dead.
        counts = await self._run(*[("GET", self._keys.of(lease)) for lease in leases], instead_of_wrong_type=b"")
        return dict(zip(leases, counts, strict=True))

    async def _run(self, *commands: Command, instead_of_wrong_type: Any = None) -> list[Any]:  # Any: redis-py's replies
        """Return the replies. Raises: BrokerUnavailable."""
        try:
            replies = await run_pipeline(self._client, commands, ())
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        for number, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                replies[number] = instead_of_wrong_type
            elif isinstance(reply, OUTAGES):
                raise BrokerUnavailable(outage_reason(reply)) from reply
        return replies

    async def ingest_counts(self) -> StreamCounts:
        """See `Registry.ingest_counts`."""
        try:
            return await self._ingest.counts()
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode(errors="replace")
