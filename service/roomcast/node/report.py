"""The node's report to its cluster: it lives, and has this many clients."""

from __future__ import annotations

import asyncio

import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.node.hub import Hub
from roomcast.presence.interface import LEASE_TTL_S, LeaseState, Presence, Registry
from roomcast.redis_access.work_queue import StreamCounts

log = structlog.get_logger(__name__)

_INTERVAL_S = 1.0
_RETIRE_TIMEOUT_S = 1.0


class NodeReport:
    """Reports every second under the lease of the node's presence, and reads the ingest stream's counts.

    ingest: the counts of the last second; None while they are unknown.
    """

    def __init__(self, hub: Hub, presence: Presence, registry: Registry) -> None:
        self._hub = hub
        self._presence = presence
        self._registry = registry
        self.ingest: StreamCounts | None = None

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                lease, count = self._presence.lease, len(self._hub.connections)
                state = await self._registry.report(lease, count, ttl_s=LEASE_TTL_S)
                self._presence.reported(state)
                if state is LeaseState.ENDED:
                    continue
                self.ingest = await self._registry.ingest_counts()
            except BrokerUnavailable as exc:
                self.ingest = None
                log.debug("node.report_failed", reason=exc.reason)  # the broker logs the outage once
            await asyncio.sleep(_INTERVAL_S)

    async def retire(self) -> None:
        """End the lease, after `run` has ended; without Redis it expires by itself."""
        try:
            async with asyncio.timeout(_RETIRE_TIMEOUT_S):
                # First, so that other nodes sweep the lease if the rest takes too long.
                await self._registry.retire(self._presence.lease)
                await self._presence.retire()
        except (BrokerUnavailable, TimeoutError):
            log.debug("node.retire_failed")
