"""The nodes that are alive and their numbers of clients: a key per node with a TTL, and a set of their leases."""

from __future__ import annotations

import itertools
import math
from typing import Any

import structlog
from redis.exceptions import ResponseError
from typing_extensions import override

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence.interface import LeaseState, Registry
from roomcast.redis_access.client import OUTAGES, Client, outage_reason, outages_reported
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.scripts import Command, read_script
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue

log = structlog.get_logger(__name__)

# The report of a lease that has ended. It is kept for a day: a node that was suspended for longer takes it for lost.
ENDED = b"ended"
_ENDED_TTL_MS = 86_400_000


class NodeKeys:
    """The keys of nodes in Redis. A node is identified by its lease: its id and a number."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.leases = f"{prefix}nodes"  # a set: of nodes alive, and of dead ones until they are swept

    def of(self, lease: str) -> str:
        """Return the key of a node's last report: its connection count and the report's number, or `ENDED`."""
        return f"{self._prefix}node:{lease}"

    def channels(self, lease: str) -> str:
        """Return the key of the set of channels in which a lease has, or had, members."""
        return f"{self._prefix}node:{lease}:channels"


class NodeRegistry(Registry):
    """The reports of nodes in Redis, each with a number: one that does not change is that of a dead node.

    So a node's death does not depend on Redis' clock, which may be set back while the report has a TTL.
    """

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._keys = NodeKeys(prefix)
        self._ingest = WorkQueue(client, prefix=prefix)
        self._numbers = itertools.count(1)
        self._report = read_script("roomcast.presence", "report")
        self._end = read_script("roomcast.presence", "end")

    @override
    async def report(self, lease: str, connection_count: int, *, ttl_s: float) -> LeaseState:
        report = f"{connection_count} {next(self._numbers)}"
        _, state = await self._run(
            # Also when the lease has ended: later writes under it are then found and swept.
            ("SADD", self._keys.leases, lease),
            self._report.call([self._keys.of(lease)], [report, math.ceil(ttl_s * 1000), ENDED]),
        )
        return LeaseState(state)

    @override
    async def end(self, lease: str, last_report: bytes) -> bool:
        key = self._keys.of(lease)
        (has_ended,) = await self._run(self._end.call([key], [last_report, ENDED, _ENDED_TTL_MS]))
        return bool(has_ended)

    @override
    async def retire(self, lease: str) -> None:
        await self._run(("DEL", self._keys.of(lease)))

    @override
    async def connection_counts(self) -> dict[str, int]:
        counts = {lease: report.partition(b" ")[0] for lease, report in (await self.reports()).items()}
        # A longer number is not a node's, and int() refuses one of 5,000 digits.
        return {lease: int(count) for lease, count in counts.items() if len(count) < 16 and count.isdigit()}

    @override
    async def reports(self) -> dict[str, bytes]:
        (found,) = await self._run(("SMEMBERS", self._keys.leases))
        if found is None:
            raise BrokerUnavailable("the set of nodes was replaced by another program")
        leases = [str(member, "utf-8", "replace") for member in found]
        # A key of another type was written by another program. A node that lives replaces it with its next report.
        reports = await self._run(*[("GET", self._keys.of(lease)) for lease in leases])
        return {lease: report or b"" for lease, report in zip(leases, reports, strict=True)}

    async def _run(self, *commands: Command) -> list[Any]:  # Any: redis-py's replies
        """Return the replies, None for a key of another type. Raises: BrokerUnavailable."""
        with outages_reported():
            replies = await run_pipeline(self._client, commands, [self._report, self._end])
        for number, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                log.debug("node.foreign_key", key=commands[number][1])
                replies[number] = None
            elif isinstance(reply, OUTAGES):
                raise BrokerUnavailable(outage_reason(reply)) from reply
        return replies

    @override
    async def ingest_counts(self) -> StreamCounts:
        with outages_reported():
            return await self._ingest.counts()
