"""Invalid frames and floods of commands: the node answers, and other clients are served."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.nodes.bad_commands.cluster import MAX_MESSAGE_BYTES
from tests.support.processes import NodeProcess, receive
from tests.support.protobuf_frames import protobuf_connect
from tests.support.speaker import Json, connected, on
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def end_of(node: NodeProcess, frame: str | bytes, *, is_in: bool = True, protobuf: bool = False) -> int:
    """Return the code with which the node ends a connection on which it was sent one frame."""
    subprotocols = [Subprotocol("centrifuge-protobuf")] if protobuf else None
    url = node.ws("/connection/websocket")
    async with connect(url, subprotocols=subprotocols, compression=None, ping_interval=None, proxy=None) as socket:
        if is_in:
            await socket.send(protobuf_connect() if protobuf else json.dumps({"id": 1, "connect": {"token": token()}}))
            await receive(socket)
        await socket.send(frame)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await receive(socket)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


# Frames.


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "\n\n",
        " ",
        "hello",
        "[]",
        "null",
        "1",
        '"connect"',
        "{",
        '{"id":2,"ping":{}}}',
        '{"id":NaN,"ping":{}}',
        '{"id":1.5,"ping":{}}',
        '{"id":true,"ping":{}}',
        '{"id":-1,"ping":{}}',
        '{"id":4294967296,"ping":{}}',
        '{"id":18446744073709551616,"ping":{}}',
        '{"id":0,"ping":{}}',
        '{"ping":{}}',
        '{"id":2,"send":{}}',
        '{"id":2,"ping":[]}',
        '{"id":2,"subscribe":"room:a"}',
        '{"id":2,"subscribe":{"channel":1}}',
        '{"id":2,"subscribe":{"channel":["room:a"]}}',
        '{"id":2,"subscribe":{"channel":"room:a","recover":1}}',
        '{"id":2,"subscribe":{"channel":"room:a","offset":-1}}',
        '{"id":2,"subscribe":{"channel":"room:a","offset":18446744073709551616}}',
        '{"id":2,"subscribe":{"channel":"room:a","tf":[]}}',
        '{"id":2,"history":{"channel":"room:a","limit":2147483648}}',
        '{"id":2,"history":{"channel":"room:a","since":7}}',
        '{"id":2,"history":{"channel":"room:a","since":{"offset":"1"}}}',
        '{"id":2,"connect":{"subs":{"room:a":7}}}',
        '{"id":2,"connect":{"headers":{"a":1}}}',
        '{"id":2,"publish":{"channel":"room:\\ud800","data":1}}',
        "{}",
        '{"id":2,"connect":{}}',
    ],
)
async def test_what_is_no_command_or_none_that_may_come_now_ends_its_connection(node: NodeProcess, frame: str) -> None:
    assert await end_of(node, frame) == 3501


@pytest.mark.parametrize("frame", ['{"id":1,"subscribe":{"channel":"room:a"}}', '{"id":1,"fly":{}}', "{}", "x"])
async def test_before_connect_nothing_else_is_taken(node: NodeProcess, frame: str) -> None:
    assert await end_of(node, frame, is_in=False) == 3501


@pytest.mark.parametrize(("frame", "is_protobuf"), [(b"{}", False), ('{"id":2,"ping":{}}', True)])
async def test_a_frame_of_the_other_kind_ends_its_connection(
    node: NodeProcess, frame: str | bytes, is_protobuf: bool
) -> None:
    assert await end_of(node, frame, protobuf=is_protobuf) == 3501


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\xff" * 10,
        b"\x7f",
        b"\x02\x08",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x04\x08\x02\x22\xff",
        b"\x05\x08\x02\x2a\x01\xff",
    ],
)
async def test_garbage_for_protobuf_ends_its_connection(node: NodeProcess, frame: bytes) -> None:
    assert await end_of(node, frame, protobuf=True) == 3501


async def test_text_that_is_not_utf8_ends_its_connection_with_1007(node: NodeProcess) -> None:
    async with node.connect("/connection/websocket") as socket:
        await socket.send(b'{"id":1,"connect":{"token":"\xff"}}', text=True)
        assert (await on(socket).end())[0] == 1007


async def test_a_frame_past_the_limit_ends_its_connection_with_1009(node: NodeProcess) -> None:
    assert await end_of(node, " " * (MAX_MESSAGE_BYTES + 1)) == 1009


async def test_a_line_of_a_megabyte_is_taken_where_it_may_be_so_long(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.ask("subscribe", channel="room:large")
        data = "x" * 1000 * 1000

        assert await client.ask("publish", channel="room:large", data=data) == {}
        assert (await client.push("pub"))["pub"]["data"] == data


async def test_an_unknown_command_is_refused_and_the_next_one_done(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        assert (await client.ask("fly", height=3))["error"]["code"] == 104
        assert await client.ask("ping") == {}


@pytest.mark.parametrize("number", [1, 2**31, 2**32 - 1])
async def test_an_id_may_be_any_number_of_32_bits(node: NodeProcess, number: int) -> None:
    async with connected(node, token()) as client:
        await client.send({"id": number, "ping": {}})
        assert await client.reply(number, "ping") == {}


async def test_data_may_be_as_deep_as_it_can_be_written_again(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.ask("subscribe", channel="room:deep")
        deep = json.loads("[" * 200 + "]" * 200)

        await client.ask("publish", channel="room:deep", data=deep)
        assert (await client.push("pub"))["pub"]["data"] == deep


# Floods.


async def latency_of_another(node: NodeProcess, flood: asyncio.Task[Any]) -> float:
    """Return the longest time in seconds that another client has waited for a reply while a task ran."""
    worst_s = 0.0
    async with connected(node, token("bob")) as other:
        while not flood.done():
            started_s = time.monotonic()
            await other.ask("publish", channel="feed:latency", data=1)
            worst_s = max(worst_s, time.monotonic() - started_s)
    return worst_s


@pytest.mark.parametrize(
    ("method", "params", "count"),
    [
        ("ping", {}, 10_000),
        ("publish", {"channel": "feed:flood", "data": 1}, 10_000),
        ("history", {"channel": "room:a", "limit": 1}, 2000),  # each waits for Redis
    ],
)
async def test_thousands_of_commands_in_one_frame_are_done_in_order_and_others_served_meanwhile(
    node: NodeProcess, method: str, params: Json, count: int
) -> None:
    async def flood() -> list[int]:
        async with connected(node, token()) as client:
            await client.send(*[{"id": number, method: params} for number in range(100, 100 + count)])
            return [(await client.line())["id"] for _ in range(count)]

    flooding = asyncio.create_task(flood())
    worst_s = await latency_of_another(node, flooding)

    assert await flooding == list(range(100, 100 + count))
    print(f"{count} {method}: another client waited {worst_s * 1000:.0f} ms at most")
    assert worst_s < 5  # 0.4 s on an idle machine


async def test_past_the_limit_subscriptions_are_refused_and_the_connection_lives_on(node: NodeProcess) -> None:
    async with connected(node, token()) as client:
        await client.send(*[{"id": 100 + n, "subscribe": {"channel": f"feed:{n}"}} for n in range(200)])
        replies = [await client.line() for _ in range(200)]

        assert [reply["id"] for reply in replies] == list(range(100, 300))
        assert ["subscribe" in reply for reply in replies] == [n < 127 for n in range(200)], "128, with its own"
        assert {reply["error"]["code"] for reply in replies[127:]} == {106}
        assert await client.ask("ping") == {}
