from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from redis.asyncio import Redis

from service.brokers.redis import RedisBroker
from service.brokers.registry import NodeRegistry
from service.namespaces import Namespaces
from service.tasks import end
from tests.cluster import eventually
from workers.metrics import MetricsWorker
from workers.runner import Health

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@asynccontextmanager
async def working(client: Redis, prefix: str) -> AsyncIterator[None]:
    broker = RedisBroker(client, prefix=prefix, node_id="w", max_message_bytes=10_000)
    registry = NodeRegistry(client, prefix=prefix)
    worker = MetricsWorker(client, broker, registry, Namespaces(), prefix=prefix, name="w", interval_s=0.1)
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        await end(task)
        await worker.finish()


async def test_it_publishes_only_while_somebody_watches_and_always_keeps_the_newest(client: Redis, prefix: str) -> None:
    async with working(client, prefix), client.pubsub() as unseen, client.pubsub() as watcher:
        await unseen.psubscribe(f"{prefix}metrics:*")  # a pattern does not count as a watcher
        health = Health(client, prefix=prefix, worker="metrics", name="w")

        async def has_sampled() -> bool:
            return bool(orjson.loads(await health.read() or "{}").get("samples", 0) >= 3)

        await eventually(has_sampled)
        assert (await unseen.get_message(timeout=1.0) or {})["type"] == "psubscribe"
        assert await unseen.get_message(timeout=0.0) is None
        newest = orjson.loads(await client.get(f"{prefix}latest:metrics:system") or b"")

        await watcher.subscribe(f"{prefix}metrics:system")

        async def is_published() -> bool:
            message = await unseen.get_message(timeout=1.0)
            return message is not None and message["type"] == "pmessage"

        await eventually(is_published)

    assert set(newest) >= {"cpu_usage", "memory_usage", "active_users", "response_time", "time"}


async def test_it_says_that_it_lives_and_for_how_long(client: Redis, prefix: str) -> None:
    health = Health(client, prefix=prefix, worker="metrics", name="w")
    assert await health.read() is None

    async def is_alive() -> str:
        return await health.read() or ""

    async with working(client, prefix):
        facts = orjson.loads(await eventually(is_alive))

    assert facts["holds_lease"] is True
    assert 0 < await client.pttl(f"{prefix}health:metrics:w") <= 300


async def test_a_worker_that_ends_gives_its_lease_back(client: Redis, prefix: str) -> None:
    async with working(client, prefix):

        async def is_held() -> bool:
            return bool(await client.exists(f"{prefix}lease:metrics"))

        await eventually(is_held)

    assert not await client.exists(f"{prefix}lease:metrics")


async def test_the_lease_is_checked_in_the_step_that_publishes(client: Redis, prefix: str) -> None:
    """Somebody else takes the lease between the worker's own check and its publication."""
    async with working(client, prefix):

        async def newest() -> bytes | None:
            return await client.get(f"{prefix}latest:metrics:system")  # type: ignore[return-value]  # bytes

        await eventually(newest)
        await client.set(f"{prefix}lease:metrics", "somebody else")
        await client.delete(f"{prefix}latest:metrics:system")
        health = Health(client, prefix=prefix, worker="metrics", name="w")

        async def knows() -> bool:
            return orjson.loads(await health.read() or "{}").get("holds_lease") is False

        await eventually(knows)
        assert await newest() is None
