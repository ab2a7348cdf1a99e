from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from roomcast.model.errors import BrokerUnavailable
from roomcast.presence.interface import LeaseState
from roomcast.presence.node_registry import NodeRegistry
from roomcast.redis_access.client import connect
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue
from tests.support.processes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_living_nodes_are_counted_with_their_clients(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)

    await registry.report("a", 3, ttl_s=60)
    await registry.report("b", 4, ttl_s=60)
    await registry.report("a", 5, ttl_s=60)

    assert await registry.connection_counts() == {"a": 5, "b": 4}


async def test_a_node_that_reports_no_more_is_dead_and_does_not_count(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    await registry.report("alive", 1, ttl_s=60)
    await registry.report("killed", 9, ttl_s=0.01)

    async def only_alive() -> bool:
        return await registry.connection_counts() == {"alive": 1}

    await eventually(only_alive)
    assert (await registry.reports())["killed"] == b""


async def test_a_lease_that_has_ended_does_not_begin_again(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    assert await registry.report("a", 1, ttl_s=60) is LeaseState.STARTED
    assert await registry.report("a", 1, ttl_s=60) is LeaseState.ALIVE
    seen = (await registry.reports())["a"]
    assert await registry.report("a", 1, ttl_s=60) is LeaseState.ALIVE

    assert not await registry.end("a", seen), "it has reported since"
    assert await registry.end("a", (await registry.reports())["a"])

    assert await registry.report("a", 1, ttl_s=60) is LeaseState.ENDED
    assert await registry.reports() == {"a": b"ended"}, "what was written under it is to be swept"
    assert await registry.connection_counts() == {}


async def test_a_lease_whose_report_redis_has_lost_goes_on_unless_it_was_ended(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    for lost in (("DEL", f"{prefix}node:a"), ("HSET", f"{prefix}node:a", "x", "y"), ("SET", f"{prefix}nodes", "x")):
        await registry.report("a", 1, ttl_s=60)
        await client.delete(f"{prefix}node:a", f"{prefix}nodes")
        await run_all(client, [lost], ())
        assert await registry.report("a", 1, ttl_s=60) is LeaseState.STARTED

    await client.delete(f"{prefix}node:a", f"{prefix}nodes")
    assert await registry.end("a", b"")
    assert await registry.report("a", 1, ttl_s=60) is LeaseState.ENDED


async def test_what_no_node_has_written_has_no_count(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    await client.sadd(f"{prefix}nodes", "hash", "text")
    await client.hset(f"{prefix}node:hash", "a", "1")
    await client.set(f"{prefix}node:text", "x")

    assert await registry.connection_counts() == {}
    assert await registry.reports() == {"hash": b"", "text": b"x"}

    await client.set(f"{prefix}nodes", "x")
    with pytest.raises(BrokerUnavailable, match="replaced by another program"):
        await registry.connection_counts()


async def test_a_node_that_ends_is_gone_at_once(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    await registry.report("a", 3, ttl_s=60)

    await registry.retire("a")

    assert await registry.connection_counts() == {}
    assert await registry.reports() == {"a": b""}


async def test_what_waits_to_be_ingested_and_what_cannot_be_is_counted(client: Redis, prefix: str) -> None:
    registry = NodeRegistry(client, prefix=prefix)
    assert await registry.ingest_counts() == StreamCounts(lag=0, dead=0)

    ids: list[Any] = [await client.xadd(f"{prefix}ingest", {"data": number}) for number in range(3)]
    await WorkQueue(client, prefix=prefix).ack([], {ids[0]: "no channel"})
    assert await registry.ingest_counts() == StreamCounts(lag=2, dead=1)

    await client.set(f"{prefix}ingest", "no stream")
    with pytest.raises(BrokerUnavailable, match=r"^Redis refuses a command \(WRONGTYPE\)$"):
        await registry.ingest_counts()


async def test_a_redis_that_is_away_is_said(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        registry = NodeRegistry(nowhere, prefix=prefix)

        counts = (registry.connection_counts(), registry.ingest_counts())
        for call in (*counts, registry.report("a", 1, ttl_s=1), registry.retire("a")):
            with pytest.raises(BrokerUnavailable, match=r"^Redis is away \(ConnectionError\)$"):
                await call
