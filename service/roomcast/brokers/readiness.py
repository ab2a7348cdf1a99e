"""Whether Redis takes publications: asked when it has refused anything, and until it takes them again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import SlotNotCoveredError

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, Client, outage_reason
from roomcast.redis_access.refusals import Refusals, kind_of
from roomcast.redis_access.topology import primaries

log = structlog.get_logger(__name__)

_INTERVAL_S = 1.0
# Enough to find one on each of a hundred shards.
_MAX_NAMES = 1000
# Between two probes at least: a publisher may be refused a thousand times a second.
_PAUSE_S = 0.1


def names_on_shards(client: Client, name: str, topic_of: Callable[[str], str]) -> list[str]:
    """Return a channel's name; of a cluster, one such name on each shard that has slots now."""
    if not isinstance(client, RedisCluster):
        return [name]
    shard_count = len(primaries(client))
    found: dict[str, str] = {}
    for number in range(_MAX_NAMES):
        if len(found) == shard_count:
            break
        with suppress(SlotNotCoveredError):
            if (node := client.get_node_from_key(topic_of(f"{name}.{number}"))) is not None:
                found.setdefault(node.name, f"{name}.{number}")
    return list(found.values())


class Readiness:
    """Probes when a command was refused. A single channel may be forbidden: only a refused probe concerns the node.

    Every node notices, also one that publishes nothing: its report writes each second.

    Args:
        refusals: of the client.
        probe: publishes on a channel of its own; returns the replies, exceptions included.
        on_failover: called when a demoted server was met, and the address leads to a primary again.
    """

    def __init__(
        self,
        refusals: Refusals,
        probe: Callable[[], Awaitable[Iterable[Any]]],  # Any: redis-py's replies
        on_failover: Callable[[], None],
    ) -> None:
        self._refusals = refusals
        self._probe = probe
        self._on_failover = on_failover
        self._reason: str | None = None

    def reason_not_ready(self) -> str | None:
        """Return why publishing is refused now, or None."""
        return self._reason

    async def run(self) -> None:
        """Watch until cancelled."""
        generation = self._refusals.generation
        while True:
            await self._refusals.suspected.wait()
            self._refusals.suspected.clear()
            refused = await self._refused()
            if refused is None:
                self._accepted()
                if generation != self._refusals.generation:
                    generation = self._refusals.generation
                    self._on_failover()
                await asyncio.sleep(_PAUSE_S)
                continue
            self._not_accepted(refused)
            self._refusals.suspected.set()
            connected = self._refusals.connected
            await asyncio.sleep(_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S - _PAUSE_S):
                    await connected.wait()

    async def check(self) -> None:
        """Publish as clients do, once. Raises: BrokerUnavailable."""
        refused = await self._refused()
        if refused is not None:
            raise BrokerUnavailable(outage_reason(refused))

    async def _refused(self) -> BaseException | None:
        """Return the reason why publishing fails now."""
        try:
            replies = await self._probe()
        except OUTAGES as exc:
            return exc
        failures = [reply for reply in replies if isinstance(reply, BaseException)]
        # A shard that refuses is named rather than one that is away.
        return max(failures, key=lambda failure: kind_of(failure) is not None, default=None)

    def _accepted(self) -> None:
        if self._reason is not None:
            self._reason = None
            log.info("broker.accepted")

    def _not_accepted(self, refused: BaseException) -> None:
        kind = kind_of(refused)
        # While Redis is away the listener says so.
        if kind is not None and self._reason != outage_reason(refused):
            self._reason = outage_reason(refused)
            log.warning("broker.refused", kind=kind)
