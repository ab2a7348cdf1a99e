"""The webhook worker: posts events to the application."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import orjson
import structlog
from redis.exceptions import ResponseError
from typing_extensions import override

from roomcast.brokers.interface import Broker
from roomcast.hooks.webhook_sender import NotDelivered, WebhookSender
from roomcast.hooks.webhook_stream import WebhookStream
from roomcast.presence.occupancy import EVENTS
from roomcast.redis_access.client import Client, ask
from roomcast.redis_access.work_queue import Entry
from roomcast.tasks import run_together
from roomcast_workers.lease import Lease
from roomcast_workers.occupancy import Occupancy
from roomcast_workers.runner import Health, Worker, work_through_outages

log = structlog.get_logger(__name__)

NAME = "webhooks"

# Another worker continues at most 2.5 s after one was killed.
_LEASE_TTL_S = 2.0
_TICK_S = 0.5
_HEALTH_TTL_S = 3 * _LEASE_TTL_S
_BATCH_LENGTH = 100
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
# An event is retried until it has this age, and posted at least once.
_MAX_AGE_S = 300.0


class WebhookWorker(Worker):
    """Posts the events of the webhook stream in their order while it holds the lease.

    Nodes add connects and disconnects to the stream. The worker adds which channels are occupied and vacated, because
    every node would report the same change.
    Delivery: at least once, in order: an event is removed after the receiver has confirmed it. It is posted twice, with
        the same id, if a worker ends in between. An event without confirmation for 5 minutes becomes a dead letter.

    Args:
        events: the reported ones of connect, disconnect, occupied, vacated.
        timeout_s: the client's timeout for a reply; waits for entries are shorter.
        jitter, steady: `random.random`, `time.monotonic`.
    """

    def __init__(
        self,
        client: Client,
        broker: Broker,
        receiver: WebhookSender,
        events: frozenset[str],
        *,
        prefix: str,
        name: str,
        timeout_s: float,
        jitter: Callable[[], float] = random.random,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._receiver = receiver
        self._client = client
        self._jitter = jitter
        self._steady = steady
        self._failing_since: tuple[int, float] | None = None  # by Redis' clock, ms, and by the steady one
        self._wait_s = min(_TICK_S, timeout_s / 2)
        self._stream = WebhookStream(client, prefix=prefix)
        self._lease = Lease(client, self._stream.entries.lease_key, ttl_s=_LEASE_TTL_S)
        self._occupancy = Occupancy(client, self._stream, self._lease, events, prefix=prefix)
        self._health = Health(client, prefix=prefix, worker=NAME, name=name)
        self._is_working = False
        self._failure_count = 0
        self._posted_count = 0
        self._dead_count = 0

    @override
    async def run(self) -> None:
        await run_together(
            broker=self._broker.run(self._occupancy),
            hold=work_through_outages(self._hold, worker=NAME, pause_s=_TICK_S),
            watch=work_through_outages(self._watch, worker=NAME, pause_s=_TICK_S),
            post=work_through_outages(self._post, worker=NAME, pause_s=_TICK_S),
        )

    @override
    async def finish(self) -> None:
        await self._receiver.aclose()
        await self._lease.release()

    async def _hold(self) -> None:
        """Keep the lease, apart from the posting, which may take longer than it lasts."""
        holds_lease = await self._lease.acquire()
        if holds_lease and not self._is_working:
            log.info("webhooks.working")
        self._is_working = holds_lease
        facts = {
            "holds_lease": holds_lease,
            "posted": self._posted_count,
            "dead": self._dead_count,
            "failures": self._failure_count,
        }
        await self._health.record(facts, ttl_s=_HEALTH_TTL_S)
        await asyncio.sleep(_TICK_S)

    async def _watch(self) -> None:
        await self._broker.subscribe(EVENTS)
        if self._lease.is_held:
            await self._occupancy.report()
            await self._occupancy.changed(within_s=_TICK_S)
        else:
            self._occupancy.clear()
            await asyncio.sleep(_TICK_S)

    async def _post(self) -> None:
        if not self._lease.is_held:
            await asyncio.sleep(_TICK_S)
            return
        entries = await self._stream.entries.read(count=_BATCH_LENGTH, within_s=self._wait_s)
        if not entries or not self._lease.is_held:
            return
        dead = {entry.id: "no event that is JSON" for entry in entries if not _is_event(entry)}
        posted = [entry for entry in entries if entry.id not in dead]
        refusal = None
        try:
            if posted:
                await self._receiver.post([entry.fields[b"event"] for entry in posted])
        except NotDelivered as exc:
            refusal = exc
            oldest_ms = await self._now_ms() - 1000 * _MAX_AGE_S
            dead |= {entry.id: exc.reason for entry in posted if _added_at_ms(entry) < oldest_ms}
            posted = []
        await self._ack(posted, dead)
        await self._pause_after(refusal)

    async def _ack(self, posted: Sequence[Entry], dead: dict[bytes, str]) -> None:
        await self._stream.entries.ack([entry.id for entry in posted], dead)
        self._posted_count += len(posted)
        self._dead_count += len(dead)
        if dead:
            log.warning("webhooks.dead", count=len(dead), reason=next(iter(dead.values())))

    async def _pause_after(self, refusal: NotDelivered | None) -> None:
        """Pause after a failure, longer after each one, for a random part of the time."""
        if refusal is None:
            if self._failure_count:
                log.info("webhooks.taken_again", failures=self._failure_count)
            self._failure_count = 0
            self._failing_since = None
            return
        if not self._failure_count:
            log.warning("webhooks.refused", reason=refusal.reason)
        self._failure_count += 1
        longest_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failure_count, 10))
        await asyncio.sleep(longest_s * self._jitter())

    async def _now_ms(self) -> int:
        """Return the time by Redis' clock, which is in the ids of the entries.

        It is read when the receiver begins to fail: a clock that is set meanwhile makes no event older.
        """
        if self._failing_since is None:
            self._failing_since = await self._redis_time_ms(), self._steady()
        redis_ms, steady_s = self._failing_since
        return redis_ms + int(1000 * (self._steady() - steady_s))

    async def _redis_time_ms(self) -> int:
        try:
            seconds, microseconds = await ask(self._client, "TIME")
        except ResponseError:  # the user may not ask for it
            return time.time_ns() // 1_000_000
        return int(seconds) * 1000 + int(microseconds) // 1000


def _added_at_ms(entry: Entry) -> int:
    return int(entry.id.partition(b"-")[0])


def _is_event(entry: Entry) -> bool:
    try:
        return isinstance(orjson.loads(entry.fields.get(b"event", b"")), dict)
    except orjson.JSONDecodeError:
        return False
