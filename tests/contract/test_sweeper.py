"""Which leases are swept, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from roomcast.presence.node_registry import ENDED, NodeKeys, NodeRegistry
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.presence.sweeper import Sweeper
from roomcast.redis_access.keys import ChannelKeys
from tests.support.presence import NAMESPACES

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def make_sweeper(client: Redis, prefix: str, clock: Callable[[], float]) -> Sweeper:
    registry = NodeRegistry(client, prefix=prefix)
    commands = PresenceCommands(ChannelKeys(prefix), NAMESPACES, publish_command="PUBLISH")
    return Sweeper(client, registry, commands, NodeKeys(prefix), own_lease=lambda: "own.1", clock=clock)


async def test_a_lease_that_was_not_seen_dead_for_a_while_is_left_alone(client: Redis, prefix: str) -> None:
    now_s = 0.0
    registry, keys = NodeRegistry(client, prefix=prefix), NodeKeys(prefix)
    sweeper = make_sweeper(client, prefix, lambda: now_s)
    await client.sadd(keys.leases, "own.1", "late.1", "dead.1")

    assert await sweeper.look() == {}
    now_s = 1.9
    await registry.report("late.1", 0, ttl_s=60)
    assert await sweeper.look() == {}
    now_s = 2.0
    await client.delete(keys.of("late.1"))
    assert await sweeper.look() == {"dead.1": b""}


async def test_a_lease_whose_report_stays_the_same_is_dead_whatever_its_ttl_is(client: Redis, prefix: str) -> None:
    """Redis' clock was set back, or another program has removed the TTL."""
    now_s = 0.0
    registry, keys = NodeRegistry(client, prefix=prefix), NodeKeys(prefix)
    sweeper = make_sweeper(client, prefix, lambda: now_s)
    await registry.report("killed.1", 0, ttl_s=400)
    await registry.report("alive.1", 0, ttl_s=400)
    await client.persist(keys.of("killed.1"))
    assert await sweeper.look() == {}
    now_s = 5.0
    await registry.report("alive.1", 0, ttl_s=400)

    await sweeper.step()

    assert await registry.reports() == {"alive.1": b"0 3"}
    assert await client.get(keys.of("killed.1")) == ENDED
