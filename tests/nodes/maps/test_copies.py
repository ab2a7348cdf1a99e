"""A property: whatever happens while clients load a map and return to it, each of them has Redis' map in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.nodes.maps import batch, put
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
    channel, chance = f"{namespace}:{name}", random.Random(seed)
    readers = [
        asyncio.create_task(_read(cluster.nodes, channel, params, random.Random(chance.random()))) for _ in range(8)
    ]
    await asyncio.gather(
        *(_write_by_api(node, channel, random.Random(chance.random())) for node in cluster.nodes),
        *(_write_as_client(node, channel, random.Random(chance.random())) for node in cluster.nodes),
    )
    await put(cluster.nodes[0], channel, "marker", 1, tags=TEAM)
    found = await call_api(cluster.nodes[1], "map_read_state", channel=channel, limit=-1)
    expected = {
        entry["key"]: entry["data"] for entry in found["entries"] if "tf" not in params or entry.get("tags", {}) == TEAM
    }

    for copy in await asyncio.gather(*readers):
        assert copy == expected


async def _write_by_api(node: NodeProcess, channel: str, chance: random.Random) -> None:
    """Write in batches, which are of several sizes."""
    commands = [_command(channel, chance) for _ in range(WRITES)]
    while commands:
        count = chance.choice((1, 2, 7))
        await batch(node, commands[:count])
        del commands[:count]


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
