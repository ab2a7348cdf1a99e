"""The webhook stream: events wait in Redis, oldest first, until the webhook worker has posted them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import orjson
import structlog

from roomcast.hooks.interface import ConnectedEvent, DisconnectEvent
from roomcast.redis_access.client import OUTAGES, Client, outage_reason
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.scripts import read_script
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

# A few minutes of many clients, in 30 MB of Redis's memory.
_MAX_LENGTH = 100_000
_MAX_WAITING = 10_000
_BATCH_LENGTH = 500
_RETRY_S = 1.0
_COUNT_INTERVAL_S = 1.0


class WebhookStream:
    """A work queue of events, with a maximum length and the set of channels that were reported as occupied.

    An entry has one field, `event`: a JSON object. Methods raise redis-py's errors (`client.OUTAGES`).
    Keys, in one slot of a cluster: `<prefix>webhooks`, `{<prefix>webhooks}:dead`, `:lease`, `:occupied`.
    """

    def __init__(self, client: Client, *, prefix: str, max_length: int = _MAX_LENGTH) -> None:
        self.entries = WorkQueue(client, prefix=prefix, name="webhooks")
        self.occupied_key = ChannelKeys(prefix).key("webhooks", "occupied")
        self.max_length = max_length
        self._client = client
        self._offer = read_script("roomcast.hooks", "offer")

    async def offer(self, events: Sequence[bytes]) -> int:
        """Add events until the stream is full; return how many were added."""
        command = self._offer.call([self.entries.key], [self.max_length, *events])
        (count,) = await run_all(self._client, [command], [self._offer])
        return int(count)


class WebhookOutbox:
    """The node's events until Redis has confirmed them.

    Delivery: at least once into the stream, in order. Events are sent at once, and lost if the node is killed before
        Redis has them; they are dropped and counted if 10,000 wait or the stream is full. An event that Redis did not
        confirm is added again, with the same id.

    Args:
        events: the reported ones of "connect" and "disconnect".
        clock: `time.time`, seconds since 1970.
    Attributes:
        dropped_count: events that were dropped.
        counts: of the stream, updated every second; None while unknown.
    """

    def __init__(self, stream: WebhookStream, events: frozenset[str], *, clock: Callable[[], float]) -> None:
        self.dropped_count = 0
        self.counts: StreamCounts | None = None
        self._stream = stream
        self._events = events
        self._clock = clock
        self._waiting: deque[bytes] = deque()
        self._has_events = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def run(self) -> None:
        """Send events to Redis, through every outage, until cancelled."""
        await run_together(send=self._send_forever(), count=self._count_forever())

    async def flush(self, *, within_s: float) -> None:
        """Wait at most `within_s` until Redis has all events; `run` must be running."""
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            log.warning("webhooks.untold", count=len(self._waiting))

    def connected(self, event: ConnectedEvent) -> None:
        """Report that a client has connected; does not block."""
        self._add("connect", event.caller.client, user=event.caller.user)

    def disconnected(self, event: DisconnectEvent) -> None:
        """Report that a client has disconnected; does not block."""
        self._add("disconnect", event.caller.client, user=event.caller.user, code=event.code, reason=event.reason)

    def _add(self, event: str, client: str, **fields: str | int) -> None:
        if event not in self._events:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self.dropped_count += 1
            return
        time_ms = int(self._clock() * 1000)
        # Each client connects and disconnects once.
        document = {"id": f"{client}:{event}", "event": event, "time_ms": time_ms, "client": client, **fields}
        self._waiting.append(orjson.dumps(document))
        self._is_empty.clear()
        self._has_events.set()

    async def _send_forever(self) -> None:
        while True:
            await self._has_events.wait()
            batch = list(islice(self._waiting, _BATCH_LENGTH))
            try:
                added_count = await self._stream.offer(batch)
            except OUTAGES as exc:
                log.debug("webhooks.tell_failed", reason=outage_reason(exc))  # the broker logs the outage
                await asyncio.sleep(_RETRY_S)
                continue
            self.dropped_count += len(batch) - added_count
            for _ in batch:
                self._waiting.popleft()
            if not self._waiting:
                self._has_events.clear()
                self._is_empty.set()

    async def _count_forever(self) -> None:
        while True:
            try:
                self.counts = await self._stream.entries.counts()
            except OUTAGES:
                self.counts = None
            await asyncio.sleep(_COUNT_INTERVAL_S)
