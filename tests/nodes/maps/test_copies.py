"""A property: whatever happens while clients load a map and return to it, each of them has Redis' map in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.nodes.maps import batch, map_in_redis, put
from tests.support.maps import Follower
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import connected

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = [f"k{number:02}" for number in range(12)]
WRITES = 120


@pytest.mark.parametrize("namespace", ["fleeting", "kept", "tracked"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_copy_becomes_the_map_of_redis(cluster: Cluster, name: str, namespace: str, seed: int) -> None:
    channel, chance = f"{namespace}:{name}", random.Random(seed)
    readers = [
        asyncio.create_task(_read(cluster.nodes, channel, random.Random(chance.random()))) for number in range(8)
    ]
    await asyncio.gather(
        *(_write_by_api(node, channel, random.Random(chance.random())) for node in cluster.nodes),
        *(_write_as_client(node, channel, random.Random(chance.random())) for node in cluster.nodes),
    )
    await put(cluster.nodes[0], channel, "marker", 1)
    expected = await map_in_redis(cluster.nodes[1], channel)

    for copy in await asyncio.gather(*readers):
        assert copy == expected


async def _write_by_api(node: NodeProcess, channel: str, chance: random.Random) -> None:
    """Write in batches, which are of several sizes."""
    writes = [_write(chance) for _ in range(WRITES)]
    while writes:
        count = chance.choice((1, 2, 7))
        await batch(
            node,
            [
                {"map_remove": {"channel": channel, "key": key}}
                if data is None
                else {"map_publish": {"channel": channel, "key": key, "data": data}}
                for key, data in writes[:count]
            ],
        )
        del writes[:count]


async def _write_as_client(node: NodeProcess, channel: str, chance: random.Random) -> None:
    async with connected(node) as speaker:
        for _ in range(WRITES):
            key, data = _write(chance)
            change = {"removed": True} if data is None else {"data": data}
            assert await speaker.ask("publish", channel=channel, type=1, key=key, **change) == {}


def _write(chance: random.Random) -> tuple[str, Any]:
    """Return a key and what it becomes; None: it is removed."""
    return chance.choice(KEYS), None if chance.random() < 0.3 else chance.randrange(10_000)


async def _read(nodes: list[NodeProcess], channel: str, chance: random.Random) -> dict[str, Any]:
    """Load the map, follow it, lose the connection while doing so, and return; until the marker is there."""
    follower: Follower | None = None
    while True:
        async with connected(chance.choice(nodes)) as speaker:
            limit = chance.randint(1, 4)
            if chance.random() < 0.3:
                await _lose_connection(Follower(speaker, channel, limit=limit), chance, follower)
                continue
            if follower is None:
                follower = Follower(speaker, channel)
            follower.params["limit"] = limit
            await follower.resume(speaker)
            await follower.follow(_until_marker(chance.randint(1, 60)))
            if "marker" in follower.entries:
                return follower.entries


async def _lose_connection(attempt: Follower, chance: random.Random, before: Follower | None) -> None:
    """Ask for some pages, or some of the missed changes, and no more."""
    if before is not None and before.position is not None and chance.random() < 0.5:
        attempt.position = before.position
        attempt.begin_recovery()
    for _ in range(chance.randint(1, 5)):
        if "error" in await attempt.step() or attempt.is_live:
            return


def _until_marker(count: int) -> Callable[[dict[str, Any]], bool]:
    """Return a condition that the marker satisfies, and any entries when it is asked the last time."""
    left = iter(range(count))
    return lambda entries: "marker" in entries or next(left, None) is None
