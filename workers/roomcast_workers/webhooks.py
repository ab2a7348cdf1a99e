"""The webhook worker: posts what has happened to the application, and loses none of it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import orjson
import structlog

from roomcast.hooks.webhook_receiver import NotDelivered
from roomcast.hooks.webhook_stream import WebhookStream
from roomcast.presence.occupancy import EVENTS
from roomcast.tasks import run_together
from roomcast_workers.lease import Lease
from roomcast_workers.occupancy import Occupancy
from roomcast_workers.runner import Health, work_through_outages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roomcast.brokers import Broker
    from roomcast.hooks.webhook_receiver import WebhookReceiver
    from roomcast.redis_access.client import Client
    from roomcast.redis_access.work_queue import Entry

log = structlog.get_logger(__name__)

NAME = "webhooks"

# Another worker goes on 2.5 s after one was killed, at the latest.
_LEASE_TTL_S = 2.0
_TICK_S = 0.5
_HEALTH_TTL_S = 3 * _LEASE_TTL_S
_BATCH_LENGTH = 100
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
# An event is tried until it is so old, once at least.
_MAX_AGE_S = 300.0


class WebhookWorker:
    """Posts the events of the webhook stream in their order, if it holds the lease; of several workers, one works.

    Nodes put into the stream who comes and goes; the worker itself, from what it hears in `events`, which channels are
    occupied and vacated: so that this is told by one and not by each node.
    Delivery: at least once, in order: an event is removed after the receiver has taken it. It comes twice, with its
        same id, if a worker ends in between. One that is not taken for 5 minutes is moved to the dead letters.
    Implements `roomcast_workers.runner.Worker`.

    Args:
        events: which are told, of connect, disconnect, occupied, vacated.
        timeout_s: the client's longest wait for an answer; a wait for entries must be shorter.
        clock, jitter: `time.time`, `random.random`.
    """

    def __init__(
        self,
        client: Client,
        broker: Broker,
        receiver: WebhookReceiver,
        events: frozenset[str],
        *,
        prefix: str,
        name: str,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._broker = broker
        self._receiver = receiver
        self._clock = clock
        self._jitter = jitter
        self._wait_s = min(_TICK_S, timeout_s / 2)
        self._stream = WebhookStream(client, prefix=prefix)
        self._lease = Lease(client, self._stream.entries.lease_key, ttl_s=_LEASE_TTL_S)
        self._occupancy = Occupancy(client, self._stream, self._lease, events, prefix=prefix)
        self._health = Health(client, prefix=prefix, worker=NAME, name=name)
        self._is_working = False
        self._failure_count = 0
        self._posted_count = 0
        self._dead_count = 0

    async def run(self) -> None:
        """See `Worker.run`."""
        await run_together(
            broker=self._broker.run(self._occupancy),
            hold=work_through_outages(self._hold, worker=NAME, pause_s=_TICK_S),
            watch=work_through_outages(self._watch, worker=NAME, pause_s=_TICK_S),
            post=work_through_outages(self._post, worker=NAME, pause_s=_TICK_S),
        )

    async def finish(self) -> None:
        """See `Worker.finish`."""
        await self._receiver.aclose()
        await self._lease.release()

    async def _hold(self) -> None:
        """Keep the lease, apart from the posting, which may take longer than it lasts."""
        holds_lease = await self._lease.acquire()
        if holds_lease and not self._is_working:
            log.info("webhooks.working")
        self._is_working = holds_lease
        facts: dict[str, object] = {
            "holds_lease": holds_lease,
            "posted": self._posted_count,
            "dead": self._dead_count,
            "failures": self._failure_count,
            "time": time.time_ns() // 1_000_000,
        }
        await self._health.record(facts, ttl_s=_HEALTH_TTL_S)
        await asyncio.sleep(_TICK_S)

    async def _watch(self) -> None:
        await self._broker.subscribe(EVENTS)
        if self._lease.is_held:
            await self._occupancy.tell()
            await self._occupancy.changed(within_s=_TICK_S)
        else:
            self._occupancy.rest()
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
            dead |= {entry.id: exc.reason for entry in posted if self._age_s(entry) > _MAX_AGE_S}
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
        """Wait longer from failure to failure, a random part of the time."""
        if refusal is None:
            if self._failure_count:
                log.info("webhooks.taken_again", failures=self._failure_count)
            self._failure_count = 0
            return
        if not self._failure_count:
            log.warning("webhooks.refused", reason=refusal.reason)
        self._failure_count += 1
        longest_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failure_count, 10))
        await asyncio.sleep(longest_s * self._jitter())

    def _age_s(self, entry: Entry) -> float:
        """Return how long an entry has been in the stream, by the clock of Redis and ours."""
        return self._clock() - int(entry.id.partition(b"-")[0]) / 1000


def _is_event(entry: Entry) -> bool:
    try:
        return isinstance(orjson.loads(entry.fields.get(b"event", b"")), dict)
    except orjson.JSONDecodeError:
        return False
