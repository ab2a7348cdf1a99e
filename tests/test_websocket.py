"""The WebSocket transports on real sockets: one contract over ours and the portable one, and ASGI as others know it."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.config import Settings
from service.connection import State
from service.hub import Hub
from service.messages import Publication
from service.protocols.room import Echo, Feed
from service.serving import ClientServer, EventStreamResponse
from service.tasks import end
from service.transports.heartbeat import Heartbeat
from service.transports.http import HttpProtocol
from service.transports.websocket import WebSocketProtocol
from tests.cluster import eventually, receive
from tests.fakes import FakeBroker
from tests.fakes import node as fake_node
from tests.test_frames import masked

pytestmark = pytest.mark.anyio

LIMIT = 1000


class Server:
    """A uvicorn server in this loop, with a node on a broker in memory behind it."""

    def __init__(self, ws: Any, *, compression: bool) -> None:  # Any: uvicorn's, a class or a name
        loop = asyncio.get_running_loop()
        self.now_s = 0.0
        self.hub = Hub(loop.call_soon)
        self.node = fake_node(self.hub, FakeBroker())
        self.heartbeat = Heartbeat(ping_interval_s=50.0, ping_timeout_s=10.0, clock=lambda: self.now_s)
        self.clients = ClientServer(self.node, self.heartbeat, Settings(max_unsent_bytes=256 * 1024))
        self.app_events: list[object] = []
        app = Starlette(
            routes=[
                WebSocketRoute("/echo", self._echo),
                WebSocketRoute("/feed/{channel}", self._feed),
                WebSocketRoute("/asgi", self._asgi),
                WebSocketRoute("/refused", self._refused),
                WebSocketRoute("/denied", self._denied),
                WebSocketRoute("/broken", self._broken),
                WebSocketRoute("/pump", self._pump),
                Route("/http", self._http),
                Route("/slow", self._slow),
                Route("/sse/{channel}", self._events),
            ]
        )
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                port=0,
                http=HttpProtocol,
                ws=ws,
                ws_max_size=LIMIT,
                ws_per_message_deflate=compression,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=2,
            )
        )
        self.port = 0

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    async def _echo(self, ws: WebSocket) -> None:
        await self.clients.serve(ws, Echo())

    async def _feed(self, ws: WebSocket) -> None:
        await self.clients.serve(ws, Feed(), ws.path_params["channel"])

    async def _asgi(self, ws: WebSocket) -> None:
        """An ordinary endpoint, as anybody's FastAPI app has it."""
        await ws.accept(subprotocol="chat" if "chat" in ws.scope["subprotocols"] else None, headers=[(b"x-app", b"1")])
        try:
            while True:
                message = await ws.receive()
                if message["type"] == "websocket.disconnect":
                    self.app_events.append((message["code"], message.get("reason")))
                    return
                if message.get("text") == "close":
                    await ws.close(4001, "as asked")
                elif message.get("text") == "fail":
                    raise RuntimeError("as asked")
                elif message.get("text") == "return":
                    return
                elif message.get("text") is not None:
                    await ws.send_text(f"{ws.url.path}?{ws.url.query} {message['text']}")
                else:
                    await ws.send_bytes(message["bytes"])
        except WebSocketDisconnect as exc:
            self.app_events.append(exc.code)

    async def _pump(self, ws: WebSocket) -> None:
        """An endpoint that only sends, for ever."""
        await ws.accept()
        while True:
            await ws.send_bytes(b"x" * 10_000)

    async def _slow(self, request: Any) -> JSONResponse:  # Any: starlette's Request
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return JSONResponse({})

    async def _events(self, request: Any) -> EventStreamResponse:  # Any: starlette's Request
        return EventStreamResponse(self.clients, request.path_params["channel"])

    async def _refused(self, ws: WebSocket) -> None:
        await ws.close(4000)

    async def _denied(self, ws: WebSocket) -> None:
        await ws.send_denial_response(JSONResponse({"why": "because"}, 418, headers={"x-app": "1"}))

    async def _broken(self, ws: WebSocket) -> None:
        raise RuntimeError("as asked")

    async def _http(self, request: Any) -> JSONResponse:  # Any: starlette's Request
        return JSONResponse({"path": request.url.path})


@asynccontextmanager
async def serving(ws: Any = WebSocketProtocol, *, compression: bool = False) -> AsyncIterator[Server]:
    server = Server(ws, compression=compression)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        server.port = listener.getsockname()[1]
        task = asyncio.create_task(server.uvicorn._serve(sockets=[listener]))
        server.node.tracker.connected()
        tracking = asyncio.create_task(server.node.tracker.run())

        async def has_started() -> bool:
            return server.uvicorn.started

        await eventually(has_started)
        try:
            yield server
        finally:
            server.uvicorn.should_exit = True
            await task
            await end(tracking)


@pytest.fixture(params=[WebSocketProtocol, "websockets-sansio"], ids=["ours", "portable"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """One contract: our protocol, and the portable transport on uvicorn's own."""
    async with serving(request.param) as server:
        yield server


def open_socket(server: Server, path: str) -> connect:
    return connect(server.url(path), compression=None, ping_interval=None, proxy=None, close_timeout=2.0)


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await receive(client)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


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


async def until_empty(server: Server) -> None:
    async def is_empty() -> bool:
        return (
            not server.hub.connections
            and not server.hub.channel_count()
            and not server.uvicorn.server_state.connections
        )

    await eventually(is_empty)


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


# Raw bytes against a real node's protocol: each ends that connection alone.


def handshake(path: str, **changes: str | None) -> bytes:
    headers = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


async def converse(server: Server, data: bytes) -> bytes:
    """Send bytes on a socket of their own, and return all that comes until the server closes it.

    A WebSocket's close frame is answered, as a client must; it is the last of what is returned.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        request, separator, frames = data.partition(b"\r\n\r\n")
        writer.write(request + separator)
        async with asyncio.timeout(5):
            if not data.startswith(b"GET") or b"websocket" not in data or not separator:
                return await reader.read()
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head:
                return head + await reader.read()
            writer.write(frames)
            first = b""
            while first != b"\x88":
                first = await reader.readexactly(1)
                (length,) = await reader.readexactly(1)
                payload = await reader.readexactly(length)
            writer.write(masked(0x88, payload[:2]))
            assert await reader.read() == b"", "nothing comes behind a close frame"
            return head + first + bytes((length,)) + payload
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


VIOLATIONS = {
    "reserved bit": (masked(0xC1, b"hi"), 1002),
    "unknown opcode": (masked(0x83), 1002),
    "unknown control opcode": (masked(0x8B), 1002),
    "not masked": (b"\x81\x02hi", 1002),
    "control frame over 125 bytes": (masked(0x89, b"x" * 126), 1002),
    "fragmented control frame": (masked(0x09), 1002),
    "continuation of nothing": (masked(0x80), 1002),
    "interleaved messages": (masked(0x01, b"a") + masked(0x81, b"b"), 1002),
    "not UTF-8": (masked(0x81, b"\xff"), 1007),
    "not UTF-8 in the last fragment": (masked(0x01, b"\xc3") + masked(0x80, b"x"), 1007),
    "length of 2^64 - 1": (masked(0x82, length=2**64 - 1), 1009),
    "over the limit in fragments": (masked(0x02, b"x" * LIMIT) + masked(0x80, b"x"), 1009),
    "close code 1005": (masked(0x88, b"\x03\xed"), 1002),
    "close frame of one byte": (masked(0x88, b"\x03"), 1002),
    "close reason not UTF-8": (masked(0x88, b"\x03\xe8\xff"), 1007),
    "garbage": (b"\xff" * 100, 1002),
    "http": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("path", ["/echo", "/asgi"], ids=["detached", "attached"])
@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_a_violation_ends_that_connection_alone_with_its_code(path: str, data: bytes, code: int) -> None:
    async with serving() as server, open_socket(server, "/echo") as bystander:
        answer = await converse(server, handshake(path) + data)

        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest[:1] == b"\x88"
        assert int.from_bytes(rest[2:4], "big") == code
        await bystander.send("still here")
        assert await receive(bystander) == "Message received: still here"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake("/echo", Sec_WebSocket_Key=None), 400),
        (handshake("/echo", Sec_WebSocket_Key="c2hvcnQ="), 400),
        (handshake("/echo", Sec_WebSocket_Key="not base64!"), 400),
        (handshake("/echo", Sec_WebSocket_Version="8"), 426),
        (handshake("/echo", Sec_WebSocket_Version=None), 426),
        (handshake("/echo").replace(b"GET", b"POST", 1), 405),
        (handshake("/echo", Upgrade="h2c"), 404),
        (handshake("/echo", Host=None), 400),
        (handshake("/echo", Content_Length="5") + b"hello", 400),
        (handshake("/echo", Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
        (handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0", 1), 404),
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
async def test_a_bad_handshake_is_answered_with_its_status(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with serving() as server:
        answer = await converse(server, data.replace(b"Host: x", b"Host: x\r\nConnection: close", 1))

        assert b" 101 " not in answer
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        await until_empty(server)


async def test_no_websocket_begins_before_an_earlier_request_is_answered() -> None:
    async with serving() as server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + handshake("/echo"))
        assert b" 101 " not in await reader.read()
        writer.close()
        await until_empty(server)


@pytest.mark.parametrize("target", [b"http://x/asgi", b"http://x:1/asgi?a=1"])
async def test_a_target_may_hold_the_host_and_upgrade_may_stand_in_a_list(target: bytes) -> None:
    async with serving() as server:
        request = (
            handshake("/asgi").replace(b"/asgi", target, 1).replace(b"Upgrade: websocket", b"Upgrade: foo, websocket")
        )
        request = request.replace(b"Connection: Upgrade", b"Connection: Upgrade\r\nConnection: keep-alive")

        answer = await converse(server, request + masked(0x81, b"close"))

        assert b" 101 " in answer
        assert answer.endswith(b"as asked")


@pytest.mark.parametrize("end", [masked(0x88, b"\x03\xe8"), None], ids=["close", "reset"])
async def test_an_endpoint_that_only_sends_ends_with_its_client(end: bytes | None) -> None:
    async with serving() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/pump"))
        await reader.readexactly(100_000)
        if end is None:
            writer.transport.abort()
        else:
            writer.write(end)
            await reader.read()
            writer.close()
        # The server lives in this loop: if the endpoint went on, nothing here would.
        async with open_socket(server, "/echo") as client:
            await client.send("x")
            assert await receive(client) == "Message received: x"
        await until_empty(server)


async def test_an_event_stream_that_nobody_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.serving._WRITE_TIMEOUT_S", 0.2)
    async with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /sse/room:a HTTP/1.1\r\nHost: x\r\n\r\n")

            async def is_subscribed() -> bool:
                return bool(server.hub.channel_count())

            await eventually(is_subscribed)
            while server.hub.channel_count():
                server.hub.broadcast(Publication("room:a", b"x" * 100_000))
                await asyncio.sleep(0.01)  # not faster than the bound on unsent bytes lets the stream live
            await until_empty(server)

    assert server.node.close_codes == {3008: 1}


async def test_trailers_without_end_are_refused() -> None:
    async with serving() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /http HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        await reader.readuntil(b"}")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"a: b\r\n" * 1000)
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await reader.read()
        writer.close()
        await until_empty(server)


@pytest.mark.parametrize("rest", [b"\r\n", b"x", b"GE"])
async def test_a_byte_behind_an_answered_request_holds_no_socket(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.transports.http._REQUEST_TIMEOUT_S", 0.2)
    async with serving() as server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        length = b"Content-Length: 10\r\n" if rest == b"x" else b""
        writer.write(b"GET /http HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n")
        await reader.readuntil(b"}")
        writer.write(rest)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_handshake_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.transports.http._REQUEST_TIMEOUT_S", 0.2)
    async with serving() as server:
        for half in (b"", b"G", handshake("/echo")[:-2], handshake("/echo")[:40]):
            answer = await converse(server, half)

            assert answer.startswith(b"HTTP/1.1 408 ")
        # A second request on the same connection is timed too, and a whole one is not.
        whole = b"GET /http HTTP/1.1\r\nHost: x\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(whole + b"GET /ht")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in answer
        async with open_socket(server, "/echo") as client:
            await asyncio.sleep(0.5)  # longer than the timeout, which is what is tested
            await client.send("x")
            assert await receive(client) == "Message received: x"


async def test_a_frame_sent_with_the_handshake_that_ends_the_connection_is_answered_once() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/echo") + masked(0x82, b"binary") + masked(0x81, b"later"))
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readexactly(4))[2:] == (1003).to_bytes(2, "big")
            writer.write(masked(0x89) + masked(0x88, b"\x03\xeb"))
            rest = await reader.read()
        writer.close()

        assert b"\x88" not in rest
        assert b"later" not in rest


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


async def test_thousands_of_frames_sent_with_the_handshake_keep_nobody_waiting() -> None:
    async with serving() as server, open_socket(server, "/feed/room:a") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/echo") + masked(0x81) * 8000)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            answers = await reader.readexactly(8000 * len(b"\x81\x12Message received: "))
        server.hub.broadcast(Publication("room:a", b"hi"))
        assert await receive(client) == "hi"
        assert answers.count(b"Message received: ") == 8000
        writer.close()


@pytest.mark.parametrize(
    ("path", "answer"), [("/echo", b"\x81\x17Message received: early"), ("/asgi", b"\x82\x05early")]
)
async def test_frames_sent_together_with_the_handshake_are_not_lost(path: str, answer: bytes) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(path) + masked(0x82 if path == "/asgi" else 0x81, b"early"))
        try:
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                assert (await reader.readexactly(len(answer))) == answer
        finally:
            writer.close()


# Compression.


async def test_where_both_sides_want_it_messages_are_deflated_once_for_all() -> None:
    async with serving(compression=True) as server:
        deflated = [await connect(server.url("/feed/room:a"), proxy=None) for _ in range(3)]
        plain = await open_socket(server, "/feed/room:a")
        text = "hello " * 100
        for client in deflated:
            assert "permessage-deflate" in str(client.response and client.response.headers["sec-websocket-extensions"])

        for _ in range(2):
            server.hub.broadcast(Publication("room:a", text.encode()))
            server.hub.broadcast(Publication("room:a", b"short"))

        for client in (*deflated, plain):
            assert [await receive(client) for _ in range(4)] == [text, "short"] * 2
            await client.close()


async def test_compressed_messages_of_clients_are_read() -> None:
    async with serving(compression=True) as server, connect(server.url("/echo"), proxy=None) as client:
        for text in ("x" * 900, "größe", ""):
            await client.send(text)
            assert await receive(client) == f"Message received: {text}"


def deflated_frame(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return masked(0xC1, (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4])


@pytest.mark.parametrize("path", ["/echo", "/asgi"], ids=["detached", "attached"])
@pytest.mark.parametrize(
    ("data", "code"),
    [(deflated_frame(bytes(100_000)), 1009), (masked(0xC1, b"\xff\xff"), 1007), (deflated_frame(b"\xff\xfe"), 1007)],
    ids=["bomb", "not deflated", "not UTF-8"],
)
async def test_a_bad_compressed_message_ends_its_connection_with_its_code(path: str, data: bytes, code: int) -> None:
    async with serving(compression=True) as server:
        offer = handshake(path, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
        _, _, rest = (await converse(server, offer + data)).partition(b"\r\n\r\n")

        assert (rest[:1], int.from_bytes(rest[2:4], "big")) == (b"\x88", code)


async def test_without_compression_here_none_is_negotiated() -> None:
    async with serving() as server, connect(server.url("/echo"), proxy=None) as client:
        assert client.response is not None
        assert "sec-websocket-extensions" not in client.response.headers


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
    """Read what a stalled client has coming, until nothing comes for a while."""
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
    monkeypatch.setattr("service.transports.portable._WRITE_TIMEOUT_S", 0.2)
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
            server.node.publish_for(connection, Publication("room:a", os.urandom(1000)))
        paused.append(not transport._transport.is_reading())  # type: ignore[attr-defined]
        server.node.broker.take()
        paused.append(not transport._transport.is_reading())  # type: ignore[attr-defined]
        await client.send("x")

    assert paused == [True, False]
    assert connection.unpublished_bytes == 0
