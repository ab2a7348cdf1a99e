"""The webhook worker reports each change of occupancy once, also when Redis has lost keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from roomcast.hooks.webhook_stream import WebhookStream
from roomcast_workers import occupancy
from tests.nodes.test_webhook_worker import changes_of, until_posted, working
from tests.support.http_backend import Backend
from tests.support.processes import Cluster, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


async def test_a_channel_whose_node_has_lost_its_list_is_not_reported_as_vacated(
    redis_url: str, client: Redis, prefix: str, backend: Backend
) -> None:
    with Cluster(redis_url, prefix) as cluster:
        node = cluster.start_node()
        key = f"{prefix}node:{node.log[0]['node']}.1:channels"
        async with AsyncExitStack() as rooms:
            for count in (1, 2, 3):
                await rooms.enter_async_context(node.connect(f"/ws/rooms/{count}"))
                async with working(client, prefix, backend.url):  # a new one compares all channels

                    async def is_told(count: int = count) -> bool:
                        return ("occupied", f"room:{count}") in changes_of(backend)

                    await eventually(is_told)
                    await until_posted(client, prefix)
                await client.delete(key)
                if count == 2:
                    await client.set(key, "no set")
    assert changes_of(backend) == [("occupied", f"room:{number}") for number in (1, 2, 3)]


async def test_the_reported_channels_are_written_again_when_redis_has_lost_them(
    redis_url: str, client: Redis, prefix: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "_NODES_HEAL_S", 0.5)
    key = WebhookStream(client, prefix=prefix).occupied_key
    with Cluster(redis_url, prefix) as cluster:
        node = cluster.start_node()
        async with working(client, prefix, backend.url), node.connect("/ws/rooms/stays"):
            async with node.connect("/ws/rooms/goes"):

                async def are_told(count: int) -> bool:
                    return len(changes_of(backend)) >= count

                await eventually(lambda: are_told(2))
                assert await client.delete(key)
            async with node.connect("/ws/rooms/comes"):
                await eventually(lambda: are_told(4))
                assert await client.smembers(key) == {b"", b"room:stays", b"room:comes"}

    assert sorted(changes_of(backend)[:2]) == [("occupied", "room:goes"), ("occupied", "room:stays")]
    assert sorted(changes_of(backend)[2:]) == [("occupied", "room:comes"), ("vacated", "room:goes")]
