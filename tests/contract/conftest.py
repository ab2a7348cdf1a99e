"""Clients of one server, without the other shapes of Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from roomcast.redis_access.client import connect


@pytest.fixture(params=["fake", pytest.param("valkey", marks=pytest.mark.redis)])
async def single_server(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    if request.param == "fake":
        async with FakeAsyncRedis(server=FakeServer()) as client:
            yield client
        return
    async with connect(request.getfixturevalue("redis_url"), timeout_s=5.0, client_name="test") as client:
        assert isinstance(client, Redis)
        yield client


@pytest.fixture
def valkey(client: Redis) -> Redis:
    """A real server, for behaviour that the fake does not have."""
    return client
