"""Ends the leases of dead nodes: their clients leave, and channels without subscribers are vacated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import ResponseError

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence.interface import LEASE_TTL_S, Registry
from roomcast.presence.node_registry import ENDED, NodeKeys
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
    Attributes:
        alive: the leases that had a report when it last looked.
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
        self._reports: dict[str, tuple[bytes, float]] = {}  # the last one of each lease, and when it was first seen
        self.alive: set[str] = set()

    async def run(self) -> None:
        """Sweep through every outage; end only when cancelled."""
        while True:
            # Jitter, so that not all nodes sweep the same at once.
            await asyncio.sleep(_INTERVAL_S * random.uniform(0.75, 1.25))  # noqa: S311
            await self.step()

    async def step(self) -> None:
        """Look for dead leases, and sweep them."""
        for lease, report in (await self.look()).items():
            try:
                if await self._registry.end(lease, report) and await self.sweep(lease):
                    log.info("presence.swept", lease=lease)
            except (BrokerUnavailable, *OUTAGES) as exc:
                log.debug("presence.sweep_failed", lease=lease, reason=outage_reason(exc))

    async def sweep(self, lease: str) -> bool:
        """Remove a lease, in steps that other nodes may take too; return whether all is gone. Raises: OUTAGES."""
        channels = self._keys.channels(lease)
        cursor = 0
        while True:
            try:
                cursor, batch = await self._client.sscan(channels, cursor, count=_CHANNELS_AT_ONCE)
            except ResponseError:  # a key of another type: the nodes find the lease in its channels
                await self._client.srem(self._keys.leases, lease)
                return False
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

    async def look(self) -> dict[str, bytes]:
        """Return the leases that are dead for longer than the grace period, with their last report.

        A lease is dead if it has no report, or the same one for longer than its TTL: then Redis' clock was set back.
        None while Redis is away: after an outage, all leases have a new grace period.
        """
        try:
            reports = await self._registry.reports()
        except BrokerUnavailable:
            reports = {}
        now_s = self._clock()
        before, self._reports = self._reports, {}
        dead: dict[str, bytes] = {}
        for lease, report in reports.items():
            last, since_s = before.get(lease, (report, now_s))
            if last != report:
                since_s = now_s
            self._reports[lease] = report, since_s
            ttl_s = 0.0 if report in {b"", ENDED} else LEASE_TTL_S
            if now_s - since_s >= ttl_s + _GRACE_S and lease != self._own_lease():
                dead[lease] = report
        self.alive = {lease for lease, report in reports.items() if report not in {b"", ENDED} and lease not in dead}
        return dead
