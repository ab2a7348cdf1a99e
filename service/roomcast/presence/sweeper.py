"""Ends the leases of dead nodes: their clients leave, and channels without subscribers are vacated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence.interface import Registry
from roomcast.presence.node_registry import NodeKeys
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.client import OUTAGES, Client, outage_reason
from roomcast.redis_access.pipeline import run_pipeline

log = structlog.get_logger(__name__)

_INTERVAL_S = 1.0
# The time from a lease's death to its sweep: after an outage of Redis all leases are dead, and their nodes report again
# within a second or two. With a lease of 3 s a killed node's clients leave after 5 to 7.5 s.
_GRACE_S = 2.0
_CHANNELS_AT_ONCE = 100


class Sweeper:
    """Looks for dead leases each second, on every node; the first one to sweep a client publishes its leave.

    Args:
        own_lease: returns the lease of this node, which it does not sweep.
        clock: `time.monotonic`, seconds.
    """

    def __init__(
        self,
        client: Client,
        registry: Registry,
        commands: PresenceCommands,
        keys: NodeKeys,
        *,
        own_lease: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._registry = registry
        self._commands = commands
        self._keys = keys
        self._own_lease = own_lease
        self._clock = clock
        self._dead_since_s: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep through every outage; end only when cancelled."""
        while True:
            # Jitter, so that not all nodes sweep the same at once.
            await asyncio.sleep(_INTERVAL_S * random.uniform(0.75, 1.25))  # noqa: S311
            for lease in await self.look():
                try:
                    if await self.sweep(lease):
                        log.info("presence.swept", lease=lease)
                except OUTAGES as exc:
                    log.debug("presence.sweep_failed", lease=lease, reason=outage_reason(exc))

    async def sweep(self, lease: str) -> bool:
        """Remove a lease, in steps that other nodes may take too; return whether all is gone. Raises: OUTAGES."""
        channels = self._keys.channels(lease)
        cursor = 0
        while True:
            cursor, batch = await self._client.sscan(channels, cursor, count=_CHANNELS_AT_ONCE)
            by_name = {str(member, "utf-8", "replace"): member for member in batch}  # type: ignore[arg-type]  # bytes
            swept = await self.sweep_channels(list(by_name), lease)
            if swept:
                await self._client.srem(channels, *[by_name[channel] for channel in swept])
            if not cursor:
                break
        await self._client.srem(self._keys.leases, lease)
        # A node that was only suspended may have written just now: first its channels, then its lease.
        if is_left := await self._client.exists(channels):
            await self._client.sadd(self._keys.leases, lease)
        return not is_left

    async def sweep_channels(self, channels: Sequence[str], lease: str) -> list[str]:
        """Remove the members of a lease from channels; return the channels where all are removed. Raises: OUTAGES."""
        swept: list[str] = []
        while channels:
            commands = [self._commands.sweep(channel, lease) for channel in channels]
            replies = await run_pipeline(self._client, commands, self._commands.scripts)
            for channel, rest in zip(channels, replies, strict=True):
                if isinstance(rest, Exception):
                    log.debug("presence.refused", channel=channel, reason=outage_reason(rest))
                elif rest == 0:
                    swept.append(channel)
            channels = [
                channel for channel, rest in zip(channels, replies, strict=True) if isinstance(rest, int) and rest
            ]
        return swept

    async def look(self) -> list[str]:
        """Return the leases that have been dead longer than the grace period; none while Redis is away."""
        try:
            dead = await self._registry.dead() - {self._own_lease()}
        except BrokerUnavailable:
            dead = set()  # after an outage, all leases have a new grace period
        now_s = self._clock()
        self._dead_since_s = {lease: self._dead_since_s.get(lease, now_s) for lease in dead}
        return [lease for lease, since_s in self._dead_since_s.items() if now_s - since_s >= _GRACE_S]
