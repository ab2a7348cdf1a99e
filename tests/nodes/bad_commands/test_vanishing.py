"""Clients that disconnect at any moment: the nodes keep nothing of them."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import Random

import pytest

from tests.support.processes import Cluster, eventually
from tests.support.speaker import Json, call_api
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def nothing_is_left(cluster: Cluster) -> bool:
    nodes = (await call_api(cluster.nodes[0], "info"))["nodes"]
    return {(node["num_clients"], node["num_channels"]) for node in nodes} == {(0, 0)}


async def vanish(cluster: Cluster, number: int) -> None:
    """Send commands as clients do, and disconnect in the middle."""
    random, node = Random(number), cluster.nodes[number % 2]
    channel = f"feed:churn{number % 7}"
    socket = await node.connect("/connection/websocket")
    commands: list[Json] = [{"id": 1, "connect": {"token": token("churn", channels=[channel + "s"])}}]
    for n in range(2, 2 + random.randrange(6)):
        method = random.choice(["subscribe", "subscribe", "unsubscribe", "publish"])
        commands.append({"id": n, method: {"channel": channel, **({"data": n} if method == "publish" else {})}})
    for command in commands:
        await socket.send(json.dumps(command))
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.01)  # the test varies how far it gets
    if random.random() < 0.5:
        socket.transport.abort()
    else:
        await socket.close()


async def test_nothing_is_left_of_clients_that_go_in_the_middle_of_anything(cluster: Cluster) -> None:
    async def by_service() -> None:
        for number in range(20):
            for method in ("subscribe", "unsubscribe"):
                await call_api(cluster.nodes[0], method, user="churn", channel=f"feed:churn{number % 7}")

    await asyncio.gather(by_service(), *[vanish(cluster, number) for number in range(120)])

    await eventually(lambda: nothing_is_left(cluster))
    assert [node.faults() for node in cluster.nodes] == [[], [], []]


async def vanish_from_a_stream(cluster: Cluster, number: int) -> None:
    """Begin a stream, and be gone in the middle of it."""
    random, node = Random(number), cluster.nodes[number % 2]
    body = json.dumps(
        {"id": 1, "connect": {"token": token("stream", channels=["feed:churns", "room:churns"])}}
    ).encode()
    path = random.choice([b"http_stream", b"sse"])
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    request = b"POST /connection/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)
    writer.write(request[: random.choice([len(request), len(request), len(request) - 1])])
    if random.random() < 0.5:
        with suppress(TimeoutError):
            async with asyncio.timeout(random.random() * 0.02):  # the test varies how far it gets
                await reader.read()
    writer.transport.abort()


async def test_nothing_is_left_of_streams_that_break_anywhere(cluster: Cluster) -> None:
    await asyncio.gather(*[vanish_from_a_stream(cluster, number) for number in range(120)])

    await eventually(lambda: nothing_is_left(cluster))
    assert [node.faults() for node in cluster.nodes] == [[], [], []]
