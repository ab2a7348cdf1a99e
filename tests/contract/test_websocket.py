"""The WebSocket transports on real sockets: one contract over ours and the portable one, and ASGI as others know it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from roomcast.connections.connection import State
from roomcast.model.publications import Publication
from roomcast.transports.websocket.uvicorn_protocol import WebSocketProtocol
from tests.support.fakes import FakeBroker
from tests.support.processes import eventually, receive
from tests.support.websocket_frames import masked
from tests.support.websocket_server import LIMIT, Server, closed_with, handshake, open_socket, serving, until_empty

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[WebSocketProtocol, "websockets-sansio"], ids=["ours", "portable"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """One contract: our protocol, and the portable transport on uvicorn's own."""
    async with serving(request.param) as server:
        yield server


# The contract of the hub's transports.


async def test_messages_go_both_ways(server: Server) -> None:
    async with open_socket(server, "/echo") as client:
        for text in ("", "x", "größe 🙂", "x" * LIMIT):
            await client.send(text)
            assert await receive(client) == f"Message received: {text}"


async def test_broadcasts_arrive_in_order_and_coalesced(server: Server) -> None:
    async with open_socket(server, "/feed/room:a") as client:
        for number in range(100):
            server.hub.broadcast(Publication("room:a", str(number).encode()))

        assert [await receive(client) for _ in range(100)] == [str(number) for number in range(100)]


async def test_pings_are_answered_and_messages_in_fragments_are_one(server: Server) -> None:
    async with open_socket(server, "/echo") as client:
        await asyncio.wait_for(await client.ping(b"payload"), 5)
        await client.send(["a", "b", "c"])

        assert await receive(client) == "Message received: abc"


async def test_closing_from_here_says_code_and_reason(server: Server) -> None:
    async with open_socket(server, "/echo") as client:
        await client.send(b"binary is not for this endpoint")

        assert await closed_with(client) == (1003, "this endpoint takes text frames only")


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_closing_from_there_leaves_nothing_behind(server: Server, code: int) -> None:
    client = await open_socket(server, "/feed/room:a")
    await client.close(code, "bye")

    await until_empty(server)
    assert server.node.close_codes == {code: 1}


async def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    client = await open_socket(server, "/feed/room:a")
    client.transport.abort()

    await until_empty(server)
    assert sum(server.node.close_codes.values()) == 1


async def test_a_message_over_the_limit_closes_with_1009(server: Server) -> None:
    async with open_socket(server, "/echo") as client:
        await client.send("x" * (LIMIT + 1))

        assert (await closed_with(client))[0] == 1009


async def test_a_client_that_answers_our_close_inside_a_message_is_gone_at_once(server: Server) -> None:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/echo"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(masked(0x01, b"half a message") + masked(0x89, b"p"))
        assert await reader.readexactly(3) == b"\x8a\x01p"
        server.node.drain()
        assert (await reader.readexactly(4))[2:] == (3001).to_bytes(2, "big")
        writer.write(masked(0x88, b"\x0b\xb9"))
        await reader.read()
        writer.close()
    await until_empty(server)


# Ordinary endpoints on our protocol.


async def test_an_ordinary_endpoint_works_as_asgi_says() -> None:
    async with serving() as server:
        async with connect(server.url("/asgi?a=1"), subprotocols=["other", "chat"], proxy=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "chat"
            assert client.response is not None
            assert client.response.headers["x-app"] == "1"
            assert "date" in client.response.headers
            await client.send("hi")
            assert await receive(client) == "/asgi?a=1 hi"
            await client.send(b"\x00\xff")
            assert await receive(client) == b"\x00\xff"
            for number in range(300):  # more than is read at once: nothing is lost, the app takes one after the other
                await client.send(str(number))
            assert [await receive(client) for _ in range(300)] == [f"/asgi?a=1 {number}" for number in range(300)]
            await client.close(3333, "bye")
        await until_empty(server)
    assert server.app_events == [(3333, "bye")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("close", (4001, "as asked")), ("fail", (1011, "internal server error")), ("return", (1000, ""))],
)
async def test_an_ordinary_endpoint_ends_as_it_ends(
    text: str, expected: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with serving() as server, open_socket(server, "/asgi") as client:
        await client.send(text)

        assert await closed_with(client) == expected


@pytest.mark.parametrize(("path", "status"), [("/refused", 403), ("/broken", 500), ("/nowhere", 403)])
async def test_a_handshake_may_be_refused(path: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with serving() as server:
        with pytest.raises(InvalidStatus) as caught:
            await open_socket(server, path)

        assert caught.value.response.status_code == status
        await until_empty(server)


async def test_a_refusal_may_be_any_http_answer() -> None:
    async with serving() as server:
        with pytest.raises(InvalidStatus) as caught:
            await open_socket(server, "/denied")

    assert caught.value.response.status_code == 418
    assert caught.value.response.headers["x-app"] == "1"
    assert caught.value.response.body == b'{"why":"because"}'


# Slow clients.


async def stalled_client(server: Server, path: str) -> socket.socket:
    """Return a connected client that has read the handshake's answer and reads nothing more."""
    stalled = socket.create_connection(("127.0.0.1", server.port))
    stalled.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(stalled, handshake(path))
    assert b" 101 " in await loop.sock_recv(stalled, 1000)
    return stalled


async def flood(server: Server, channel: str, until: Callable[[], bool]) -> int:
    """Broadcast numbered messages of 10 KB until something is so; return how many."""
    count = 0
    async with asyncio.timeout(20):
        while not until():
            server.hub.broadcast(Publication(channel, b"%09d" % count + b"x" * 10_000))
            count += 1
            await asyncio.sleep(0)
    return count


async def read_all(stalled: socket.socket) -> bytes:
    """Read the waiting messages of a stalled client, until none arrives for a while."""
    loop = asyncio.get_running_loop()
    data = b""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(1.0):
                chunk = await loop.sock_recv(stalled, 1 << 20)
            if not chunk:
                break
            data += chunk
    return data


def numbers(data: bytes) -> list[int]:
    """Return the numbers of the messages in a stream of the server's frames of 10,009 bytes, and -n for `missed` n."""
    found = []
    position = 0
    while position + 4 <= len(data):
        length = data[position + 1]
        if length == 126:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            position += 4
        else:
            position += 2
        payload = data[position : position + length]
        if len(payload) == length:
            found.append(-int(payload[10:-1]) if payload.startswith(b'{"missed"') else int(payload[:9]))
        position += length
    return found


async def test_disconnect_a_stalled_client_is_closed_with_3008_past_its_bound(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomcast.transports.websocket.portable._WRITE_TIMEOUT_S", 0.2)
    with await stalled_client(server, "/feed/room:a"):
        (connection,) = server.hub.connections

        await flood(server, "room:a", lambda: connection.state is not State.OPEN)

        assert connection.transport.close_code() == 3008
        assert connection.transport.unsent_bytes() < 256 * 1024 + 20_000

        async def is_gone() -> bool:  # the client never answers the close frame
            server.now_s += 1
            server.heartbeat.tick()
            return server.node.close_codes == {3008: 1}

        await eventually(is_gone)


async def test_drop_oldest_a_slow_client_misses_the_oldest_is_told_and_stays(server: Server) -> None:
    with await stalled_client(server, "/feed/draw:a") as stalled:
        count = await flood(server, "draw:a", lambda: server.hub.dropped_count > 20)

        seen = numbers(await read_all(stalled))

    missed = [-number for number in seen if number < 0]
    got = [number for number in seen if number >= 0]
    assert got == sorted(set(got))
    assert got[-1] == count - 1
    assert sum(missed) == server.hub.dropped_count
    assert len(got) + sum(missed) == count


async def test_latest_a_slow_client_gets_the_newest_when_it_can(server: Server) -> None:
    with await stalled_client(server, "/feed/metrics:a") as stalled:
        count = await flood(server, "metrics:a", lambda: server.hub.dropped_count > 20)

        got = numbers(await read_all(stalled))

    assert got[-1] == count - 1
    assert got == sorted(set(got))
    assert len(got) == count - server.hub.dropped_count


async def test_a_client_that_takes_nothing_at_all_is_ended_by_the_write_deadline() -> None:
    async with serving() as server:
        with await stalled_client(server, "/feed/metrics:a"):
            await flood(server, "metrics:a", lambda: server.hub.dropped_count > 20)

            async def is_ended() -> bool:
                server.now_s += 1
                server.heartbeat.tick()
                return server.node.close_codes == {3008: 1}

            await eventually(is_ended)


# Backpressure on clients that publish faster than Redis takes it.


async def test_a_client_that_publishes_too_fast_is_read_no_further() -> None:
    async with serving() as server, open_socket(server, "/feed/room:a") as client:
        (connection,) = server.hub.connections
        assert isinstance(server.node.broker, FakeBroker)
        server.node.broker.is_slow = True
        paused = []
        transport = connection.transport
        for _ in range(200):
            server.node.client_publisher.publish_for(connection, Publication("room:a", os.urandom(1000)))
        paused.append(not transport._transport.is_reading())  # type: ignore[attr-defined]
        server.node.broker.take()
        paused.append(not transport._transport.is_reading())  # type: ignore[attr-defined]
        await client.send("x")

    assert paused == [True, False]
    assert connection.unpublished_bytes == 0
