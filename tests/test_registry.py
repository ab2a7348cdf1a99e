from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.brokers.client import connect
from service.brokers.registry import NodeRegistry
from service.errors import BrokerUnavailable
from tests.cluster import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_living_nodes_are_counted_with_their_clients(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)

    await registry.report("a", 3, ttl_s=60)
    await registry.report("b", 4, ttl_s=60)
    await registry.report("a", 5, ttl_s=60)

    assert await registry.connection_counts() == {"a": 5, "b": 4}


async def test_a_node_that_reports_no_more_is_forgotten(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    await registry.report("alive", 1, ttl_s=60)
    await registry.report("killed", 9, ttl_s=0.01)

    async def only_alive() -> bool:
        return await registry.connection_counts() == {"alive": 1}

    await eventually(only_alive)
    assert await client.smembers(f"{prefix}nodes") == {b"alive"}


async def test_a_node_that_ends_is_gone_at_once(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    await registry.report("a", 3, ttl_s=60)

    await registry.retire("a")

    assert await registry.connection_counts() == {}


async def test_a_redis_that_is_away_is_said(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        registry = NodeRegistry(nowhere, prefix=prefix)

        for call in (registry.connection_counts(), registry.report("a", 1, ttl_s=1), registry.retire("a")):
            with pytest.raises(BrokerUnavailable, match=r"^Redis is away \(ConnectionError\)$"):
                await call
