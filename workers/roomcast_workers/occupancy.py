"""Hearing which channels are occupied and vacated, and telling each change once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import orjson
import structlog
from redis.asyncio.cluster import RedisCluster

from roomcast.model.publications import Publication
from roomcast.presence.occupancy import EVENTS, occupied_channels
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import read_script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roomcast.hooks.webhook_stream import WebhookStream
    from roomcast.model.publications import BrokerEvent
    from roomcast.redis_access.client import Client
    from roomcast_workers.lease import Lease

log = structlog.get_logger(__name__)

_MAX_HEARD = 10_000
_CHANGES_AT_ONCE = 500
# All that is occupied is looked up again no more often than this: while the stream is full, and in a Redis Cluster,
# where the broker does not hear what presence publishes (docs/presence.md).
_LOOK_INTERVAL_S = 2.0


class Occupancy:
    """Puts changes of occupancy into the webhook stream. Implements `roomcast.brokers.Sink`.

    What was told stands in Redis beside the stream, so that after anything that may have been missed (another worker
    takes over, Redis was away) the difference to what is occupied now is told.
    Delivery: into the stream, once, in order for each channel. What changed and changed back while nobody heard is not
        told.

    Args:
        events: of "occupied" and "vacated", those that are told.
    """

    def __init__(
        self, client: Client, stream: WebhookStream, lease: Lease, events: frozenset[str], *, prefix: str
    ) -> None:
        self._client = client
        self._stream = stream
        self._lease = lease
        self._events = events
        self._prefix = prefix
        self._script = read_script("roomcast_workers", "occupancy")
        self._heard: deque[tuple[str, bool]] = deque()
        self._hears = not isinstance(client, RedisCluster)
        self._has_changed = asyncio.Event()
        self._is_unsure = True
        self._look_at_s = 0.0

    async def changed(self, *, within_s: float) -> None:
        """Wait until something new was heard, `within_s` at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._has_changed.wait()
        except TimeoutError:
            return

    def on_event(self, event: BrokerEvent) -> None:
        """Take note of what the channel `events` tells."""
        if not isinstance(event, Publication) or event.channel != EVENTS:
            return
        try:
            change = orjson.loads(event.data)
            channel, is_occupied = str(change["channel"]), {"occupied": True, "vacated": False}[change["event"]]
        except (ValueError, LookupError, TypeError):
            return  # of somebody else, who may publish there as well
        if len(self._heard) >= _MAX_HEARD:
            self._is_unsure = True
        else:
            self._heard.append((channel, is_occupied))
        self._has_changed.set()

    def on_malformed(self, channel: str, reason: str) -> None:
        """Ignore what somebody else put into the channel."""

    def on_disconnected(self) -> None:
        """See `on_connected`."""

    def on_connected(self, *, is_again: bool) -> None:
        """Take note that changes may have been missed."""
        self._is_unsure = self._is_unsure or is_again

    def rest(self) -> None:
        """Forget what was heard: another worker tells it."""
        self._heard.clear()
        self._is_unsure = True

    async def tell(self) -> None:
        """Tell what has changed; `events` must be heard by now. Raises: redis.RedisError."""
        self._has_changed.clear()
        if (self._is_unsure or not self._hears) and time.monotonic() >= self._look_at_s:
            # First, so that what is missed from here on is seen.
            self._is_unsure = False
            self._look_at_s = time.monotonic() + _LOOK_INTERVAL_S
            try:
                await self._offer(await self._difference())
            except BaseException:
                self._is_unsure, self._look_at_s = True, 0.0
                raise
        while self._heard:
            changes = list(islice(self._heard, _CHANGES_AT_ONCE))
            await self._offer(changes)
            for _ in changes:
                self._heard.popleft()

    async def _difference(self) -> list[tuple[str, bool]]:
        told = {str(member, "utf-8", "replace") async for member in self._client.sscan_iter(self._stream.occupied_key)}
        occupied = await occupied_channels(self._client, prefix=self._prefix)
        return [*((channel, False) for channel in told - occupied), *((channel, True) for channel in occupied - told)]

    async def _offer(self, changes: list[tuple[str, bool]]) -> None:
        for start in range(0, len(changes), _CHANGES_AT_ONCE):
            args = [*self._arguments(changes[start : start + _CHANGES_AT_ONCE])]
            keys = [self._stream.entries.key, self._stream.occupied_key, self._stream.entries.lease_key]
            command = self._script.call(keys, [self._stream.max_length, self._lease.owner, *args])
            (untold_count,) = await run_all(self._client, [command], [self._script])
            if untold_count:
                self._is_unsure = True
                reason = "no lease" if untold_count < 0 else "the stream is full"
                log.warning("webhooks.occupancy_untold", reason=reason)

    def _arguments(self, changes: Iterable[tuple[str, bool]]) -> Iterable[str | bytes]:
        time_ms = time.time_ns() // 1_000_000
        for channel, is_occupied in changes:
            event = "occupied" if is_occupied else "vacated"
            document = {"id": uuid.uuid4().hex, "event": event, "time_ms": time_ms, "channel": channel}
            told = orjson.dumps(document) if event in self._events else b""
            yield from (channel, "SADD" if is_occupied else "SREM", told)
