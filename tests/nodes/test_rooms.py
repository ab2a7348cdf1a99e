"""The clients' endpoints, as real clients see them: a real node, a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from roomcast.deadlines import Deadlines
from roomcast.rooms.expiry import ConnectionDeadline
from roomcast.tasks import TaskSet
from tests.support.fakes import connection
from tests.support.processes import API_KEY, DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def node(redis_server: object) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(url, "endpoints:", ping_interval_s="60", max_message_bytes="1000") as cluster:
        yield cluster.start_node()


async def connection_count(node: NodeProcess) -> int:
    async with http_client() as http:
        text = (await http.get(node.http("/metrics"))).text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("roomcast_connections{"))


async def close_code(node: NodeProcess, path: str, frame: str | bytes) -> tuple[int, str]:
    """Send one frame and return the code and reason with which the node closes."""
    async with node.connect(path) as client:
        await client.send(frame)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await receive(client)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def chat_line(client: ClientConnection, *names: int) -> str | bytes:
    """Return the next line of the lobby, without those about clients of the tests before, which may leave late."""
    while True:
        line = await receive(client)
        left = re.fullmatch(r"Client #(\d+) left the chat", str(line))
        if left is None or int(left[1]) in names:
            return line


async def test_echo_answers_each_text(node: NodeProcess) -> None:
    async with node.connect("/ws") as client:
        for text in ("x", "", "größe 🙂"):
            await client.send(text)
            assert await receive(client) == f"Message received: {text}"


async def test_the_classic_chat_answers_the_sender_and_tells_everyone(node: NodeProcess) -> None:
    async with node.connect("/ws/7") as seven, node.connect("/ws/8") as eight:
        await seven.send("hello")

        assert await chat_line(seven) == "You: hello"
        assert await chat_line(seven) == "Client #7 says: hello"
        assert await chat_line(eight) == "Client #7 says: hello"


async def test_the_classic_chat_is_the_room_lobby(node: NodeProcess) -> None:
    async with node.connect("/ws/9") as nine, node.connect("/ws/rooms/lobby") as plain:
        await plain.send('{"text":"hi"}')
        assert await chat_line(nine) == '{"text":"hi"}'

        await nine.send("hello")
        assert await chat_line(plain) == '{"text":"hi"}'
        assert await chat_line(plain) == "Client #9 says: hello"


async def test_the_chat_hears_who_left_after_a_close(node: NodeProcess) -> None:
    async with node.connect("/ws/10") as ten:
        async with node.connect("/ws/11"):
            pass

        assert await chat_line(ten, 11) == "Client #11 left the chat"


async def test_the_chat_hears_who_left_when_the_network_cuts_it_off(node: NodeProcess) -> None:
    async with node.connect("/ws/12") as twelve:
        thirteen = await node.connect("/ws/13")
        thirteen.transport.abort()

        assert await chat_line(twelve, 13) == "Client #13 left the chat"


@pytest.mark.parametrize(
    "frame", ["text", "", '{"json": [1, 2]}', b"", b"\x00\xff", "größe 🙂", "x" * 1000, b"y" * 1000]
)
async def test_every_frame_reaches_the_whole_room_as_it_was(node: NodeProcess, frame: str | bytes) -> None:
    async with node.connect("/ws/rooms/a") as ada, node.connect("/ws/rooms/a") as bob:
        await ada.send(frame)

        assert await receive(ada) == frame
        assert await receive(bob) == frame


async def test_fragmented_frames_arrive_whole(node: NodeProcess) -> None:
    async with node.connect("/ws/rooms/a") as ada:
        await ada.send(["one ", "two ", "three"])

        assert await receive(ada) == "one two three"


async def test_rooms_do_not_hear_each_other(node: NodeProcess) -> None:
    async with node.connect("/ws/rooms/a") as ada, node.connect("/ws/rooms/b%20%C3%BC") as bob:
        await ada.send("to a")
        await bob.send("to b")

        assert await receive(ada) == "to a"
        assert await receive(bob) == "to b"


async def test_whoever_sees_the_connection_open_misses_nothing(node: NodeProcess) -> None:
    async with node.connect("/ws/rooms/open") as ada:
        for number in range(50):
            async with node.connect("/ws/rooms/open") as bob:
                await ada.send(str(number))
                assert await receive(bob) == str(number)


@pytest.mark.parametrize("path", ["/ws/rooms/" + "x" * 129, "/ws/rooms/a%00b", "/ws/rooms/%ff", "/ws/a%0Ab"])
async def test_a_bad_name_is_refused_with_400_and_says_why(node: NodeProcess, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await node.connect(path)

    assert caught.value.response.status_code == 400
    error = json.loads(caught.value.response.body)["error"]
    assert error["code"] == 107
    assert error["message"] == "bad request"
    assert error["detail"]
    assert node.faults() == [], "a refusal is no error of ours"


async def test_a_frame_over_the_limit_closes_with_1009_and_nobody_else(node: NodeProcess) -> None:
    async with node.connect("/ws/rooms/a") as ada:
        assert (await close_code(node, "/ws/rooms/a", "x" * 1001))[0] == 1009
        assert (await close_code(node, "/ws/rooms/a", b"x" * 1001))[0] == 1009

        await ada.send("still here")
        assert await receive(ada) == "still here"


async def test_text_that_is_not_utf8_closes_with_1007_and_nobody_else(node: NodeProcess) -> None:
    async with node.connect("/ws/rooms/a") as ada:
        bad = await node.connect("/ws/rooms/a")
        await bad.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as caught:
            await receive(bad)

        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1007, "text is not UTF-8")
        await ada.send("still here")
        assert await receive(ada) == "still here"


@pytest.mark.parametrize("path", ["/ws", "/ws/7"])
async def test_binary_on_a_text_endpoint_closes_with_1003(node: NodeProcess, path: str) -> None:
    assert await close_code(node, path, b"x") == (1003, "this endpoint takes text frames only")


async def test_a_message_of_another_service_that_is_no_json_touches_nobody(node: NodeProcess, client: Redis) -> None:
    async with node.connect("/ws/rooms/a") as ada:
        await client.publish("endpoints:room:a", "not json")
        await client.publish("endpoints:room:a", '{"text":"hi"}')

        assert await receive(ada) == '{"text":"hi"}'
    async with http_client() as http:
        assert "roomcast_malformed_total 1.0" in (await http.get(node.http("/metrics"))).text


async def publish(node: NodeProcess, channel: str, data: object, **options: object) -> dict[str, Any]:
    """Publish by the server API; return the result."""
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(node.http("/api/publish"), json={"channel": channel, "data": data, **options})
    result: dict[str, Any] = response.json()["result"]
    return result


async def test_the_dashboard_gets_the_newest_figures_at_once_then_each(node: NodeProcess, client: Redis) -> None:
    await publish(node, "metrics:system", {"cpu_usage": 0})
    await publish(node, "metrics:system", {"cpu_usage": 1})

    async with node.connect("/dashboard-feed") as dashboard:
        assert await receive(dashboard) == '{"cpu_usage":1}'
        await dashboard.send("what a dashboard says is ignored")
        await client.publish("endpoints:metrics:system", '{"cpu_usage":2}')
        assert await receive(dashboard) == '{"cpu_usage":2}'


async def events(node: NodeProcess, path: str, count: int) -> list[str]:
    """Return the first events of a stream; once it is open, the room gets text, binary and two lines."""
    blocks: list[str] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        http_client() as http,
        http.stream("GET", node.http(path)) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async with node.connect("/ws/rooms/events") as ada:
            for frame in ("hi", b"\x00\xff", "two\nlines"):
                await ada.send(frame)
            text = ""
            async for chunk in response.aiter_text():
                text += chunk
                whole = text.split("\n\n")[:-1]
                blocks = [block for block in whole if not block.startswith(("event: join", "event: leave"))]
                if len(blocks) >= count:
                    break
    return blocks


async def test_a_room_streams_as_server_sent_events(node: NodeProcess) -> None:
    position, *blocks = await events(node, "/sse/rooms/events", 4)

    epoch = position.partition("id: ")[2].partition(":")[0]
    start = f'{{"offset":0,"epoch":"{epoch}"}}'
    assert position.partition("\n")[2] == f"id: {epoch}:0\nevent: position\ndata: {start}"
    assert blocks == [
        f"id: {epoch}:1\ndata: hi",
        f"id: {epoch}:2\nevent: binary\ndata: AP8=",
        f"id: {epoch}:3\ndata: two\ndata: lines",
    ]


async def test_the_dashboard_streams_as_server_sent_events(node: NodeProcess) -> None:
    newest = await publish(node, "metrics:system", {"cpu_usage": 1})

    _, event = await events(node, "/sse/dashboard-feed", 2)

    assert event == f'id: {newest["epoch"]}:{newest["offset"]}\ndata: {{"cpu_usage":1}}'


async def test_an_event_stream_of_a_bad_room_is_refused(node: NodeProcess) -> None:
    async with http_client() as http:
        response = await http.get(node.http("/sse/rooms/a%00"))

    assert response.status_code == 400
    assert response.json()["error"]["code"] == 107


async def test_nothing_is_left_of_clients_however_they_vanish(node: NodeProcess) -> None:
    async def is_empty() -> bool:
        return await connection_count(node) == 0

    await eventually(is_empty)
    clients = [await node.connect(f"/ws/rooms/{number % 3}") for number in range(30)]
    streams = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(10)]
    for stream in streams:
        stream.sendall(b"GET /sse/rooms/x HTTP/1.1\r\nHost: x\r\n\r\n")

    async def is_full() -> bool:
        return await connection_count(node) == 40

    await eventually(is_full)
    for client in clients[:10]:
        await client.close()
    for client in clients[10:]:
        client.transport.abort()
    for stream in streams:
        stream.close()

    await eventually(is_empty)
    async with http_client() as http:
        assert "roomcast_channels 0.0" in (await http.get(node.http("/metrics"))).text


async def test_a_connection_that_answers_no_ping_is_removed(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, ping_interval_s="0.2", ping_timeout_s="0.2") as cluster:
        node = cluster.start_node()
        with socket.create_connection(("127.0.0.1", node.port)) as mute:
            mute.sendall(
                b"GET /ws/rooms/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )

            closed = await asyncio.to_thread(node.wait_for, "connection.closed")

        assert closed["code"] == 3012
        assert await connection_count(node) == 0
        async with node.connect("/ws/rooms/a") as alive:  # websockets answers pings by itself
            await asyncio.sleep(1.0)  # several pings long: the subject of this test, not a wait for something
            await alive.send("still here")
            assert await receive(alive) == "still here"


async def test_a_client_that_takes_nothing_is_closed_as_slow_and_others_are_served(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix, max_unsent_bytes="131072", ping_interval_s="60") as cluster:
        node = cluster.start_node()
        async with node.connect("/ws/rooms/a") as ada:
            with socket.create_connection(("127.0.0.1", node.port)) as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.sendall(
                    b"GET /ws/rooms/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )

                async def both_are_in() -> bool:
                    return await connection_count(node) == 2

                await eventually(both_are_in)
                for number in range(300):  # 15 MB: more than the kernel keeps for a reader that never reads
                    frame = f"{number} " + "x" * 50_000
                    await ada.send(frame)
                    assert await receive(ada) == frame
                closed = await asyncio.to_thread(node.wait_for, "connection.closed")

        assert closed["code"] == 3008


async def test_a_node_that_ends_says_goodbye_with_3001(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix) as cluster:
        node = cluster.start_node()
        ada = await node.connect("/ws/rooms/a")
        async with http_client() as http, http.stream("GET", node.http("/sse/rooms/a")) as stream:
            ending = asyncio.create_task(asyncio.to_thread(node.end))

            with pytest.raises(ConnectionClosed) as caught:
                await receive(ada)
            last = "".join([text async for text in stream.aiter_text()])
            await ending

        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (3001, "shutdown")
        assert last.endswith('event: disconnect\ndata: {"code":3001,"reason":"shutdown"}\n\n')
        assert node.faults() == []


def test_nobody_waits_for_the_end_of_a_visitor_s_token_once_it_has_gone() -> None:
    deadlines = Deadlines(lambda: 1000.0, grace_s=0.0)
    visitor, _ = connection()
    stay = ConnectionDeadline(visitor, deadlines, TaskSet("client"))
    deadlines.add(2e9, stay)
    left = weakref.ref(stay)

    del stay
    assert left() is not None
    del visitor
    gc.collect()

    assert left() is None
