from __future__ import annotations

import pytest
from redis.asyncio import Redis

from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.pipeline import run_all
from roomcast_workers.lease import Lease
from tests.support.processes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.mark.parametrize("server", ["valkey", "sentinel", "cluster"], indirect=True)
async def test_it_works_on_every_shape_of_redis_and_after_the_scripts_are_flushed(server: Client, prefix: str) -> None:
    one, two = (Lease(server, f"{prefix}lease:x", ttl_s=60) for _ in range(2))
    assert await one.acquire()

    await server.script_flush()  # on every primary of a cluster
    assert await one.acquire()
    assert not await two.acquire()
    await server.script_flush()
    await one.release()

    assert await two.acquire()


async def test_one_holds_it_and_keeps_it(client: Redis, prefix: str) -> None:
    one, two = (Lease(client, f"{prefix}lease:x", ttl_s=60) for _ in range(2))

    assert not one.is_held
    assert await one.acquire()
    assert not await two.acquire()
    assert await one.acquire()
    assert (one.is_held, two.is_held) == (True, False)


async def test_without_redis_giving_it_back_is_given_up(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        await Lease(nowhere, f"{prefix}lease:x", ttl_s=60).release()


async def test_taking_it_again_extends_it(client: Redis, prefix: str) -> None:
    lease = Lease(client, f"{prefix}lease:x", ttl_s=60)
    await lease.acquire()
    await client.pexpire(lease.key, 1000)

    await lease.acquire()

    assert await client.pttl(lease.key) > 50_000


async def test_it_ends_by_itself_when_its_holder_is_gone(client: Redis, prefix: str) -> None:
    one = Lease(client, f"{prefix}lease:x", ttl_s=0.05)
    two = Lease(client, f"{prefix}lease:x", ttl_s=60)
    assert await one.acquire()

    await eventually(two.acquire)

    assert not one.is_held
    assert not await one.acquire()


async def test_only_its_holder_gives_it_back(client: Redis, prefix: str) -> None:
    one, two = (Lease(client, f"{prefix}lease:x", ttl_s=60) for _ in range(2))
    await one.acquire()

    await two.release()
    assert not await two.acquire()
    await one.release()
    assert await two.acquire()


@pytest.mark.parametrize(
    "foreign",
    [
        [("HSET", "a", "1")],
        [("SET", "other")],
        [("SET", "other"), ("PEXPIRE", 402_000)],
    ],
    ids=["another type", "no TTL", "Redis' clock was set back by 400 s"],
)
async def test_a_lease_that_no_living_worker_can_hold_is_free(
    client: Redis, prefix: str, foreign: list[tuple[str | int, ...]]
) -> None:
    one, two = (Lease(client, f"{prefix}lease:x", ttl_s=2) for _ in range(2))
    await run_all(client, [(name, one.key, *args) for name, *args in foreign], ())

    assert await one.acquire()
    assert not await two.acquire()
    assert 0 < await client.pttl(one.key) <= 2000
