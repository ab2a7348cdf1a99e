"""Waiting until everything published so far was received: one contract for every shape of Redis."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.publications import Publication
from roomcast.redis_access.client import Client, connect
from tests.chaos.proxy import Proxy
from tests.support.brokers import publish, running
from tests.support.processes import DEADLINE_S, eventually

pytestmark = pytest.mark.anyio

# Of a cluster they are on different shards.
CHANNELS = {f"room:{number}" for number in range(20)}


async def until_connected(broker: RedisBroker, channels: set[str]) -> None:
    async def is_connected() -> bool:
        return await broker.sync(channels) == channels

    await eventually(is_connected)


async def test_everything_published_before_a_sync_is_received_when_it_returns(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        for channel in CHANNELS:
            await broker.subscribe(channel)
        await until_connected(broker, CHANNELS)
        for count in range(1, 6):
            await asyncio.gather(*[publish(broker, Publication(channel, b"1")) for channel in CHANNELS])

            assert await broker.sync(CHANNELS) == CHANNELS
            assert len(sink.publications) == count * len(CHANNELS)
        assert await broker.sync(set()) == set()


async def test_nothing_is_synced_before_the_broker_is_connected(server: Client, prefix: str) -> None:
    broker = RedisBroker(server, prefix=prefix, node_id="n1", max_message_bytes=1000)

    assert await broker.sync(CHANNELS) == set()


@pytest.mark.redis
async def test_a_sync_fails_when_the_connection_is_lost(redis_url: str, prefix: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    async with (
        Proxy(port) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=60.0, client_name="test") as client,
        running(client, prefix, timeout_s=60.0) as (broker, _),
    ):
        await broker.subscribe("room:a")
        await until_connected(broker, {"room:a"})
        proxy.cut()
        syncing = asyncio.create_task(broker.sync({"room:a"}))
        await asyncio.sleep(0)
        proxy.reset()
        async with asyncio.timeout(DEADLINE_S):
            assert await syncing == set()
