from __future__ import annotations

import pytest
from redis.asyncio import Redis

from roomcast.redis_access.client import connect
from roomcast_workers.lease import Lease
from tests.support.processes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_one_holds_it_and_keeps_it(client: Redis, prefix: str) -> None:
    one, two = (Lease(client, f"{prefix}lease:x", ttl_s=60) for _ in range(2))

    assert not one.is_held
    assert await one.take()
    assert not await two.take()
    assert await one.take()
    assert (one.is_held, two.is_held) == (True, False)


async def test_without_redis_giving_it_back_is_given_up(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        await Lease(nowhere, f"{prefix}lease:x", ttl_s=60).release()


async def test_taking_it_again_extends_it(client: Redis, prefix: str) -> None:
    lease = Lease(client, f"{prefix}lease:x", ttl_s=60)
    await lease.take()
    await client.pexpire(lease.key, 1000)

    await lease.take()

    assert await client.pttl(lease.key) > 50_000


async def test_it_ends_by_itself_when_its_holder_is_gone(client: Redis, prefix: str) -> None:
    one = Lease(client, f"{prefix}lease:x", ttl_s=0.05)
    two = Lease(client, f"{prefix}lease:x", ttl_s=60)
    assert await one.take()

    await eventually(two.take)

    assert not one.is_held
    assert not await one.take()


async def test_only_its_holder_gives_it_back(client: Redis, prefix: str) -> None:
    one, two = (Lease(client, f"{prefix}lease:x", ttl_s=60) for _ in range(2))
    await one.take()

    await two.release()
    assert not await two.take()
    await one.release()
    assert await two.take()
