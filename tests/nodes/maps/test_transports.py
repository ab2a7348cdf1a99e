"""Maps over each transport and encoding, and a herd of clients that load one at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.nodes.maps import batch, map_in_redis, put, put_all, remove
from tests.support.maps import Follower
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, http_client
from tests.support.protobuf_frames import framed, protobuf_connect, replies_of
from tests.support.speaker import Speaker, connected, streaming

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ENTRIES = {f"k{number:02}": {"n": number} for number in range(7)}


@asynccontextmanager
async def sse(node: NodeProcess, *, by: NodeProcess) -> AsyncIterator[Speaker]:
    """Give a client of the event stream, whose commands go to another node."""
    connect = json.dumps({"id": 0xFFFF, "connect": {}})
    async with (
        http_client(timeout=DEADLINE_S) as http,
        http.stream("GET", node.http("/connection/sse"), params={"cf_connect": connect}) as response,
    ):
        lines = response.aiter_lines()

        async def receive() -> str:
            line = await anext(lines)
            return line.removeprefix("data: ") if line.startswith("data: ") else ""

        async def send(text: str) -> None:
            place = {name: client.welcome[name] for name in ("node", "session")}
            await http.post(by.http("/emulation"), json={**place, "data": text})

        client = Speaker(receive, send)
        client.welcome = await client.reply(0xFFFF, "connect")
        yield client


@pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
@pytest.mark.parametrize("namespace", ["kept", "fleeting"])
async def test_a_map_over_each_transport(cluster: Cluster, name: str, transport: str, namespace: str) -> None:
    node, other = cluster.nodes
    channel = f"{namespace}:{name}"
    await put_all(node, channel, ENTRIES)
    clients = {
        "websocket": lambda: connected(node),
        "http_stream": lambda: streaming(node, by=other),
        "sse": lambda: sse(node, by=other),
    }
    async with clients[transport]() as speaker:
        follower = Follower(speaker, channel, limit=3)
        await follower.step()
        await put(other, channel, "k00", "changed")
        await remove(other, channel, "k01")
        while not follower.is_live:
            assert "error" not in await follower.step()
        assert await speaker.ask("publish", channel=channel, type=1, key="own", data=1) == {}
        await put(other, channel, "last", 1)
        await follower.follow(lambda entries: "last" in entries)

        assert follower.entries == await map_in_redis(node, channel)
        assert await speaker.ask("unsubscribe", channel=channel) == {}


async def test_a_map_over_streaming_in_protobuf(node: NodeProcess, name: str) -> None:
    channel = f"kept:{name}"
    await put_all(node, channel, ENTRIES)
    subscribe = client_pb2.SubscribeRequest(channel=channel, type=1, phase=2)
    frames = protobuf_connect() + framed(client_pb2.Command(id=2, subscribe=subscribe))
    url, headers = node.http("/connection/http_stream"), {"Content-Type": "application/octet-stream"}
    async with (
        http_client(timeout=DEADLINE_S) as http,
        http.stream("POST", url, content=frames, headers=headers) as response,
    ):
        data = b""
        async for piece in response.aiter_bytes():
            data += piece
            replies = _whole_replies(data)
            if len(replies) == 2:
                break

    live = replies[1].subscribe
    assert (live.recoverable, live.type, live.phase) == (True, 1, 0)
    assert {each.key: json.loads(each.data) for each in live.state} == ENTRIES


def _whole_replies(data: bytes) -> list[client_pb2.Reply]:
    try:
        return replies_of(data)
    except (EOFError, ValueError):
        return []


async def test_a_herd_loads_a_map_that_changes_meanwhile(cluster: Cluster, name: str) -> None:
    node, other = cluster.nodes
    channel = f"kept:{name}"
    for start in (0, 300, 600):
        sets = [{"channel": channel, "key": f"k{n:03}", "data": "x" * 200} for n in range(start, start + 300)]
        await batch(node, [{"map_publish": each} for each in sets])

    async def load() -> Follower:
        async with connected(node) as speaker:
            follower = Follower(speaker, channel, limit=1000)
            await follower.load()
            await follower.follow(lambda entries: "last" in entries)
            return follower

    herd = [asyncio.create_task(load()) for _ in range(20)]
    for number in range(30):
        await put(other, channel, f"k{number * 7:03}", number)
    await put(other, channel, "last", 1)
    expected = await map_in_redis(node, channel)

    for follower in await asyncio.gather(*herd):
        assert follower.entries == expected


async def test_protobuf_clients_write(node: NodeProcess, name: str) -> None:
    channel = f"kept:{name}"
    socket_of = connect(node.ws("/connection/websocket"), subprotocols=[Subprotocol("centrifuge-protobuf")], proxy=None)
    async with socket_of as socket, asyncio.timeout(DEADLINE_S):
        await socket.send(protobuf_connect())
        assert replies_of(await socket.recv())[0].connect.client
        changes: list[dict[str, Any]] = [
            {"key": "json", "data": b'{"v":1}'},
            {"key": "bytes", "data": b"\xff\x00"},
            {"key": "empty"},
            {"key": "gone", "data": b"1"},
            {"key": "gone", "removed": True},
        ]
        await socket.send(
            framed(
                *(
                    client_pb2.Command(id=number, publish=client_pb2.PublishRequest(channel=channel, type=1, **change))
                    for number, change in enumerate(changes, 2)
                )
            )
        )
        replies: list[client_pb2.Reply] = []
        while len(replies) < len(changes):
            replies += replies_of(await socket.recv())

    assert [(reply.id, reply.HasField("publish")) for reply in replies] == [(n, True) for n in range(2, 7)]
    assert await map_in_redis(node, channel) == {"json": {"v": 1}, "bytes": None, "empty": None}
