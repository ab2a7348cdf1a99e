from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.channels import SYSTEM_METRICS
from roomcast.model.namespaces import Namespaces
from roomcast.presence.node_registry import NodeRegistry
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.tasks import end
from roomcast_workers.metrics import MetricsWorker
from roomcast_workers.runner import Health
from tests.support.processes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@asynccontextmanager
async def working(client: Redis, prefix: str, *, interval_s: float = 0.1) -> AsyncIterator[None]:
    broker = RedisBroker(client, prefix=prefix, node_id="w", max_message_bytes=10_000)
    registry = NodeRegistry(client, prefix=prefix)
    worker = MetricsWorker(client, broker, registry, Namespaces(), prefix=prefix, name="w", interval_s=interval_s)
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        await end(task)
        await worker.finish()


async def history(client: Redis, prefix: str) -> list[dict[str, object]]:
    """Return the figures that are kept, the oldest first."""
    entries: Any = await client.xrange(ChannelKeys(prefix).key(SYSTEM_METRICS, "stream"))  # redis-py's reply
    return [orjson.loads(fields[b"d"]) for _, fields in entries]


@asynccontextmanager
async def watching(client: Redis, prefix: str) -> AsyncIterator[None]:
    """Be a node with a subscriber."""
    commands = PresenceCommands(ChannelKeys(prefix), Namespaces(), publish_command="PUBLISH")
    await run_pipeline(client, [commands.occupy(SYSTEM_METRICS, "n1.1")], commands.scripts)
    try:
        yield
    finally:
        await run_pipeline(client, [commands.sweep(SYSTEM_METRICS, "n1.1")], commands.scripts)


async def until_idle(client: Redis, prefix: str) -> None:
    """Return once the worker lives and does not publish."""
    health = Health(client, prefix=prefix, worker="metrics", name="w")

    async def has_ticked() -> bool:
        before = await health.read()
        await asyncio.sleep(0.15)  # more than its interval
        after = await health.read()
        return bool(before and after and before != after and _samples(before) == _samples(after))

    await eventually(has_ticked)


def _samples(facts: str) -> int:
    return int(orjson.loads(facts)["samples"])


async def test_it_publishes_only_while_a_node_has_a_subscriber_and_the_newest_is_kept(
    client: Redis, prefix: str
) -> None:
    async with working(client, prefix):
        await until_idle(client, prefix)
        assert await history(client, prefix) == []

        async with watching(client, prefix):

            async def is_published() -> bool:
                return len(await history(client, prefix)) >= 3

            await eventually(is_published)
        await until_idle(client, prefix)

    newest = (await history(client, prefix))[-1]
    assert set(newest) >= {"cpu_usage", "memory_usage", "active_users", "response_time", "time"}


async def test_somebody_who_listens_without_a_node_watches_too(client: Redis, prefix: str) -> None:
    async with working(client, prefix), client.pubsub() as unseen, client.pubsub() as watcher:
        await unseen.psubscribe(f"{prefix}metrics:*")  # a pattern does not count as a watcher
        assert (await unseen.get_message(timeout=1.0) or {})["type"] == "psubscribe"
        await until_idle(client, prefix)
        assert await unseen.get_message(timeout=0.0) is None

        await watcher.subscribe(f"{prefix}metrics:system")

        async def is_published() -> bool:
            message = await unseen.get_message(timeout=1.0)
            return message is not None and message["type"] == "pmessage"

        await eventually(is_published)


async def test_it_publishes_although_other_programs_have_replaced_keys(client: Redis, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    for name in ("lease", "nodes"):
        await client.set(keys.key(SYSTEM_METRICS, name), "x")
    async with working(client, prefix):

        async def is_published() -> bool:
            return len(await history(client, prefix)) >= 2

        await eventually(is_published)


async def test_it_begins_at_once_when_somebody_begins_to_watch(client: Redis, prefix: str) -> None:
    async with working(client, prefix, interval_s=60.0):  # its next tick is 15 s away
        health = Health(client, prefix=prefix, worker="metrics", name="w")
        await eventually(health.read)

        async with watching(client, prefix):

            async def is_published() -> bool:
                return len(await history(client, prefix)) == 1

            await eventually(is_published, within_s=2.0)


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
    lease = ChannelKeys(prefix).key(SYSTEM_METRICS, "lease")
    async with working(client, prefix):

        async def is_held() -> bool:
            return bool(await client.exists(lease))

        await eventually(is_held)

    assert not await client.exists(lease)


async def test_the_lease_is_checked_in_the_step_that_publishes(client: Redis, prefix: str) -> None:
    """Another worker acquires the lease between the worker's own check and its publication."""
    health = Health(client, prefix=prefix, worker="metrics", name="w")
    async with working(client, prefix), watching(client, prefix):

        async def has_sampled() -> bool:
            return bool(await history(client, prefix))

        await eventually(has_sampled)
        await client.set(ChannelKeys(prefix).key(SYSTEM_METRICS, "lease"), "somebody else", ex=60)
        kept = await history(client, prefix)

        async def knows() -> bool:
            return orjson.loads(await health.read() or "{}").get("holds_lease") is False

        await eventually(knows)
        assert await history(client, prefix) == kept
