"""A property: whatever happens while clients load a map and return to it, each of them has Redis' map in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.nodes.maps import batch, put, put_all
from tests.support.maps import Follower
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import Json, call_api, connected

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = [f"k{number:02}" for number in range(12)]
WRITES = 60
TEAM = {"team": "eng"}
FILTER = {"key": "team", "cmp": "eq", "val": "eng"}


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize(
    ("namespace", "params"),
    [
        ("fleeting", {}),
        ("kept", {}),
        ("tracked", {}),
        ("guests", {"tf": FILTER}),
        ("teams", {"tf": FILTER}),
        ("blinking", {"delta": "fossil"}),
        ("differing", {"delta": "fossil"}),
    ],
)
async def test_every_copy_becomes_the_map_of_redis(
    cluster: Cluster, name: str, namespace: str, params: dict[str, Any], seed: int
) -> None:
    """Those of clients that filter become the part that matches."""
    await _check(cluster.nodes, f"{namespace}:{name}", params, random.Random(seed))


@pytest.mark.parametrize(("namespace", "params"), [("fleeting", {}), ("tracked", {}), ("teams", {"tf": FILTER})])
async def test_so_it_does_while_nodes_lose_their_connections_to_redis(
    cluster: Cluster, client: Redis, name: str, namespace: str, params: dict[str, Any]
) -> None:
    """Every change that is published meanwhile is lost to them."""
    assert await _check(cluster.nodes, f"{namespace}:{name}", params, random.Random(1), client) > 0


async def _check(
    nodes: list[NodeProcess], channel: str, params: dict[str, Any], chance: random.Random, client: Redis | None = None
) -> int:
    """Write, read and compare. Return how many of the nodes' connections were killed, by `client`."""
    readers = [asyncio.create_task(_read(nodes, channel, params, random.Random(chance.random()))) for _ in range(8)]
    killed, _ = await asyncio.gather(
        asyncio.gather(*(_write_by_api(node, channel, random.Random(chance.random()), client) for node in nodes)),
        asyncio.gather(*(_write_as_client(node, channel, random.Random(chance.random())) for node in nodes)),
    )
    await put(nodes[0], channel, "marker", 1, tags=TEAM)
    found = await call_api(nodes[1], "map_read_state", channel=channel, limit=-1)
    expected = {
        entry["key"]: entry["data"] for entry in found["entries"] if "tf" not in params or entry.get("tags", {}) == TEAM
    }
    for copy in await asyncio.gather(*readers):
        assert copy == expected
    return sum(killed)


@pytest.mark.parametrize("namespace", ["fading", "flagging"])
async def test_keys_that_expire_while_a_map_is_loaded_leave_every_copy(
    cluster: Cluster, name: str, namespace: str
) -> None:
    channel, (one, two) = f"{namespace}:{name}", cluster.nodes
    await put_all(one, channel, dict.fromkeys(KEYS, 1))
    async with AsyncExitStack() as stack:
        speakers = [await stack.enter_async_context(connected(node)) for node in (one, two) * 3]
        followers = [Follower(speaker, channel, limit=number) for number, speaker in enumerate(speakers, 1)]
        await followers[-1].load()
        for key in KEYS[::2]:  # the others expire before
            await put(two, channel, key, 2)
            for follower in followers:
                if not follower.is_live:
                    await follower.step()
        for follower in followers:
            while not follower.is_live:
                assert "error" not in await follower.step()
            await follower.follow(lambda entries: not entries)


async def _write_by_api(node: NodeProcess, channel: str, chance: random.Random, client: Redis | None = None) -> int:
    """Write in batches, which are of several sizes; return how many connections were killed after some of them."""
    commands, killed = [_command(channel, chance) for _ in range(WRITES)], 0
    while commands:
        count = chance.choice((1, 2, 7))
        await batch(node, commands[:count])
        del commands[:count]
        if client is not None and chance.random() < 0.2:
            killed += int(await client.client_kill_filter(_type="pubsub"))
    return killed


def _command(channel: str, chance: random.Random) -> Json:
    entry = {"channel": channel, "key": chance.choice(KEYS)}
    if chance.random() < 0.3:
        return {"map_remove": entry}
    tags = chance.choice((TEAM, {"team": "sales"}, {}))
    return {"map_publish": {**entry, "data": _data(chance), "tags": tags}}


def _data(chance: random.Random) -> str:
    """Return a value that is like others in parts."""
    return "".join(chance.choice(("one part of it, ", "another part, ", "the rest: ")) * 3 for _ in range(4))


async def _write_as_client(node: NodeProcess, channel: str, chance: random.Random) -> None:
    async with connected(node) as speaker:
        for _ in range(WRITES):
            change: Json = {"removed": True} if chance.random() < 0.3 else {"data": _data(chance)}
            assert await speaker.ask("publish", channel=channel, type=1, key=chance.choice(KEYS), **change) == {}


async def _read(
    nodes: list[NodeProcess], channel: str, params: dict[str, Any], chance: random.Random
) -> dict[str, Any]:
    """Load the map, follow it, lose the connection while doing so, and return; until the marker is there."""
    follower: Follower | None = None
    while True:
        async with connected(chance.choice(nodes)) as speaker:
            limit = chance.randint(1, 4)
            if chance.random() < 0.3:
                await _lose_connection(Follower(speaker, channel, limit=limit, **params), chance, follower)
                continue
            if follower is None:
                follower = Follower(speaker, channel, **params)
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
