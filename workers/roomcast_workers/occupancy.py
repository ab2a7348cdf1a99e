"""Reports each change of channels between occupied and vacated once, into the webhook stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

import orjson
import structlog
from redis.asyncio.cluster import RedisCluster
from typing_extensions import override

from roomcast.brokers.interface import Sink
from roomcast.hooks.webhook_stream import WebhookStream
from roomcast.model.publications import BrokerEvent, Publication
from roomcast.presence.occupancy import EVENTS, occupied_channels
from roomcast.redis_access.client import Client
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import read_script
from roomcast_workers.lease import Lease

log = structlog.get_logger(__name__)

_MAX_RECEIVED = 10_000
_CHANGES_AT_ONCE = 500
# Shortest interval between two reads of all occupied channels: they are read again while the stream is full, and in a
# Redis Cluster, where the broker does not receive the events of presence (docs/presence.md).
_READ_INTERVAL_S = 2.0
# The nodes write lost keys of presence again within this time (docs/presence.md).
_NODES_HEAL_S = 25.0


class Occupancy(Sink):
    """Adds changes of occupancy to the webhook stream.

    The reported state is in Redis beside the stream. When changes may have been missed (another worker takes over,
    Redis was unavailable), the difference to the current state is reported. If Redis loses the reported state, it is
    written again, without a report, after 25 s, because Redis may have lost presence too. Received changes wait for it.
    Delivery: into the stream, once, in order for each channel. A change that was reverted while no worker was connected
        is not reported.

    Args:
        events: the reported ones of "occupied" and "vacated".
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
        self._received: deque[tuple[str, bool]] = deque()
        self._receives = not isinstance(client, RedisCluster)
        self._has_changed = asyncio.Event()
        self._may_have_missed = True
        self._read_at_s = 0.0
        self._has_state = False  # this worker knows that the reported state was there
        self._is_lost = False

    async def changed(self, *, within_s: float) -> None:
        """Wait at most `within_s` for a change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._has_changed.wait()

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if not isinstance(event, Publication) or event.channel != EVENTS:
            return
        try:
            change = orjson.loads(event.data)
            channel, is_occupied = str(change["channel"]), {"occupied": True, "vacated": False}[change["event"]]
        except (ValueError, LookupError, TypeError):
            return  # from another publisher
        if len(self._received) >= _MAX_RECEIVED:
            self._may_have_missed = True
        else:
            self._received.append((channel, is_occupied))
        self._has_changed.set()

    @override
    def on_malformed(self, channel: str, reason: str) -> None:
        """Ignore messages of other publishers."""

    @override
    def on_disconnected(self) -> None: ...  # handled by `on_connected`

    @override
    def on_connected(self, *, is_again: bool) -> None:
        self._may_have_missed = self._may_have_missed or is_again

    def clear(self) -> None:
        """Forget the received changes, because another worker reports them."""
        self._received.clear()
        self._may_have_missed = True
        self._has_state = self._is_lost = False
        self._read_at_s = 0.0

    async def report(self) -> None:
        """Report all changes; the channel `events` must be subscribed to. Raises: redis.RedisError."""
        self._has_changed.clear()
        if (self._may_have_missed or not self._receives) and time.monotonic() >= self._read_at_s:
            # Reset before the read, so that a loss during the read is noticed.
            self._may_have_missed = False
            self._read_at_s = time.monotonic() + _READ_INTERVAL_S
            try:
                await self._compare()
            except BaseException:
                self._may_have_missed, self._read_at_s = True, 0.0
                raise
        while self._received and not self._is_lost:
            changes = list(islice(self._received, _CHANGES_AT_ONCE))
            if await self._offer(changes):
                for _ in changes:
                    self._received.popleft()

    async def _compare(self) -> None:
        """Report the difference between the reported state and the present one."""
        occupied_key = self._stream.occupied_key
        reported = {str(member, "utf-8", "replace") async for member in self._client.sscan_iter(occupied_key)}
        is_there = "" in reported
        reported.discard("")
        if not is_there and self._has_state and not self._is_lost:
            self._lose()
            return
        occupied = await occupied_channels(self._client, prefix=self._prefix, known=reported)
        if not is_there and self._has_state:
            await self._offer(self._state_before(occupied), creates=True, is_news=False)
        else:
            vacated, newly_occupied = reported - occupied, occupied - reported
            changes = [*((channel, False) for channel in vacated), *((channel, True) for channel in newly_occupied)]
            await self._offer(changes, creates=not is_there)
        self._has_state, self._is_lost = True, False

    def _lose(self) -> None:
        """Wait for the nodes before the reported state is written again."""
        log.warning("webhooks.occupancy_lost")
        self._is_lost = self._may_have_missed = True
        self._read_at_s = time.monotonic() + _NODES_HEAL_S

    def _state_before(self, occupied: set[str]) -> list[tuple[str, bool]]:
        """Return the channels that were occupied before the received changes."""
        before = dict.fromkeys(occupied, True)
        for channel, is_occupied in reversed(self._received):  # of each channel the first change counts
            before[channel] = not is_occupied
        return [(channel, True) for channel, was_occupied in before.items() if was_occupied]

    async def _offer(self, changes: list[tuple[str, bool]], *, creates: bool = False, is_news: bool = True) -> bool:
        """Report changes, or only record them; return false if the reported state is lost."""
        for start in range(0, len(changes) or 1, _CHANGES_AT_ONCE):
            keys = [self._stream.entries.key, self._stream.occupied_key, self._stream.entries.lease_key]
            args: list[str | bytes | int] = [self._stream.max_length, self._lease.owner, "1" if creates else ""]
            args += self._arguments(changes[start : start + _CHANGES_AT_ONCE], is_news=is_news)
            (rejected_count,) = await run_all(self._client, [self._script.call(keys, args)], [self._script])
            if rejected_count == -2:
                self._lose()
                return False
            if rejected_count:
                self._may_have_missed = True
                reason = "no lease" if rejected_count < 0 else "the stream is full"
                log.warning("webhooks.occupancy_untold", reason=reason)
        return True

    def _arguments(self, changes: Iterable[tuple[str, bool]], *, is_news: bool) -> Iterable[str | bytes]:
        time_ms = time.time_ns() // 1_000_000
        for channel, is_occupied in changes:
            event = "occupied" if is_occupied else "vacated"
            document = {"id": uuid.uuid4().hex, "event": event, "time_ms": time_ms, "channel": channel}
            reported = orjson.dumps(document) if is_news and event in self._events else b""
            yield from (channel, "SADD" if is_occupied else "SREM", reported)
