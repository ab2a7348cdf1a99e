"""The metrics worker: publishes the figures of the live dashboard in the channel `metrics:system`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import orjson
import psutil
import structlog
from redis.asyncio.cluster import RedisCluster
from typing_extensions import override

from roomcast.brokers.interface import Broker, Once, Sink
from roomcast.model.channels import SYSTEM_METRICS
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.publications import BrokerEvent, Kind, Publication
from roomcast.presence.interface import Registry
from roomcast.presence.occupancy import EVENTS, occupied
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from roomcast.tasks import run_together
from roomcast_workers.lease import Lease
from roomcast_workers.runner import Health, Worker, work_through_outages

log = structlog.get_logger(__name__)

NAME = "metrics"

# The lease expires one interval after its holder was killed, the others try to acquire it four times per interval, and
# the next holder samples at once: another worker continues at most 1.25 intervals after the last sample.
_TICKS_PER_INTERVAL = 4
_LEASE_INTERVALS = 1.0
_HEALTH_INTERVALS = 3.0


class MetricsWorker(Worker, Sink):
    """Publishes a sample of the system once per interval, while it holds the lease and the channel has subscribers.

    A sample: cpu_usage and memory_usage (percent, of this worker's machine), active_users (clients connected to all
    nodes), response_time (ms, round trip of a publication through Redis), time (ms since 1970), worker (its name).
    The first sample is published at once when the channel gets a subscriber.
    Delivery: at most once, in order, by one worker at a time. The newest is kept for later subscribers.
    """

    def __init__(
        self,
        client: Client,
        broker: Broker,
        registry: Registry,
        namespaces: Namespaces,
        *,
        prefix: str,
        name: str,
        interval_s: float,
    ) -> None:
        self._client = client
        self._broker = broker
        self._registry = registry
        self._name = name
        self._interval_s = interval_s
        self._namespace = namespaces.of(SYSTEM_METRICS)
        self._keys = ChannelKeys(prefix)
        self._lease = Lease(client, self._keys.key(SYSTEM_METRICS, "lease"), ttl_s=_LEASE_INTERVALS * interval_s)
        self._health = Health(client, prefix=prefix, worker=NAME, name=name)
        self._probe_channel = f"probe:{self._lease.owner}"
        self._probe_returned = asyncio.Event()
        self._probe = b""
        self._occupied = asyncio.Event()
        self._sample_at_s = 0.0
        self._sample_count = 0

    @override
    async def run(self) -> None:
        psutil.cpu_percent(None)  # the first call only starts the measurement
        work = work_through_outages(self._step, worker=NAME, pause_s=self._interval_s / _TICKS_PER_INTERVAL)
        await run_together(broker=self._broker.run(self), work=work)

    @override
    async def finish(self) -> None:
        await self._lease.release()

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if not isinstance(event, Publication):
            return
        if event.channel == EVENTS and event.data == occupied(SYSTEM_METRICS):
            self._occupied.set()
        elif event.data == self._probe:
            self._probe_returned.set()

    @override
    def on_malformed(self, channel: str, reason: str) -> None:
        """Ignore messages of other publishers."""

    # Nothing to repair after a disconnect: a lost probe is repeated, and subscribers are looked up on each tick.

    @override
    def on_disconnected(self) -> None: ...

    @override
    def on_connected(self, *, is_again: bool) -> None: ...

    async def _step(self) -> None:
        self._occupied.clear()
        await self._broker.subscribe(EVENTS)
        holds_lease = await self._lease.acquire()
        if not holds_lease:
            self._sample_at_s = 0.0
        elif time.monotonic() >= self._sample_at_s and await self._is_watched():
            self._sample_at_s = time.monotonic() + self._interval_s
            await self._publish(await self._sample())
        facts = {"holds_lease": holds_lease, "samples": self._sample_count}
        await self._health.record(facts, ttl_s=_HEALTH_INTERVALS * self._interval_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s / _TICKS_PER_INTERVAL):
                await self._occupied.wait()

    async def _is_watched(self) -> bool:
        """Return whether a node or another process subscribes to the channel. Raises: redis.RedisError."""
        if await self._client.exists(self._keys.key(SYSTEM_METRICS, "nodes")):
            return True
        if isinstance(self._client, RedisCluster):
            return False  # other processes are known to one shard only
        ((_, listener_count),) = await self._client.pubsub_numsub(self._keys.topic(SYSTEM_METRICS))
        return bool(listener_count)

    async def _sample(self) -> bytes:
        counts = await self._registry.connection_counts()
        return orjson.dumps(
            {
                "cpu_usage": psutil.cpu_percent(None),
                "memory_usage": psutil.virtual_memory().percent,
                "active_users": sum(counts.values()),
                "nodes": len(counts),
                "response_time": await self._measure_response_time_ms(),
                "time": time.time_ns() // 1_000_000,
                "worker": self._name,
            }
        )

    async def _measure_response_time_ms(self) -> float:
        """Publish a probe and wait until it is received. Raises: BrokerUnavailable, TimeoutError after an interval."""
        await self._broker.subscribe(self._probe_channel)
        self._probe_returned.clear()
        started_s = time.perf_counter()
        self._probe = str(time.monotonic_ns()).encode()
        async with asyncio.timeout(self._interval_s):
            await self._broker.publish(Publication(self._probe_channel, self._probe, Kind.JSON), Namespace())
            await self._probe_returned.wait()
        return round((time.perf_counter() - started_s) * 1000, 3)

    async def _publish(self, sample: bytes) -> None:
        # A worker that was stopped past its lease cannot publish, because Redis checks the lease in the same step.
        once = Once(lease_owner=self._lease.owner)
        published = await self._broker.publish(
            Publication(SYSTEM_METRICS, sample, Kind.JSON), self._namespace, once=once
        )
        if published.receiver_count >= 0:
            self._sample_count += 1
            log.debug("metrics.sampled", receivers=published.receiver_count)
