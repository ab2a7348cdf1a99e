"""A uvicorn server in a test's own loop, with a node behind it, and clients that speak bytes."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from roomcast.auth.permissions import Client
from roomcast.config import Settings
from roomcast.connections.connection import Connection, Receiver
from roomcast.deadlines import Deadlines
from roomcast.node.hub import Hub
from roomcast.rooms.admission import Admission
from roomcast.rooms.authentication import Authenticator, Identity
from roomcast.rooms.encodings import DEFLATED_WEBSOCKET, PLAIN_SSE, PLAIN_WEBSOCKET
from roomcast.rooms.entry import send_start
from roomcast.rooms.event_streams import EventStreamResponse, feed_entry
from roomcast.rooms.expiry import Expiries
from roomcast.rooms.receivers import Echo, Feed
from roomcast.tasks import TaskSet, end
from roomcast.transports.heartbeat import Heartbeat
from roomcast.transports.http_protocol import HttpProtocol
from roomcast.transports.websocket.uvicorn_protocol import WebSocketProtocol
from roomcast.web.client_server import ClientServer, websocket_of
from roomcast.web.state import offer
from tests.support.fakes import FakeBroker
from tests.support.fakes import node as fake_node
from tests.support.processes import eventually, receive
from tests.support.sessions import FakeApplication
from tests.support.websocket_frames import masked

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
        tasks = TaskSet("client")
        nobody = cast(Authenticator, None)
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
        offer(
            app,
            self.clients,
            Admission(nobody, self.clients, FakeApplication(), tasks),
            Expiries(Deadlines(lambda: 0.0, grace_s=0.0), tasks),
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
        await self.clients.serve(ws, self._connection(ws, Echo()))

    async def _feed(self, ws: WebSocket) -> None:
        connection, channel = self._connection(ws, Feed()), ws.path_params["channel"]
        with self.node.connected(connection) as connected:
            async with self.node.subscribing(connection, channel) as start:
                send_start(connection, start, channel, None)
            await self.clients.accept(ws, connected)

    def _connection(self, ws: WebSocket, receiver: Receiver) -> Connection:
        transport, is_compressed = websocket_of(ws)
        encoding = DEFLATED_WEBSOCKET if is_compressed else PLAIN_WEBSOCKET
        return self.clients.connection(transport, encoding, receiver)

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
        entry = feed_entry(request, request.path_params["channel"])
        return EventStreamResponse(request, entry, Identity(Client()), PLAIN_SSE)

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


def open_socket(server: Server, path: str) -> connect:
    return connect(server.url(path), compression=None, ping_interval=None, proxy=None, close_timeout=2.0)


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await receive(client)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def until_empty(server: Server) -> None:
    async def is_empty() -> bool:
        return (
            not server.hub.connections
            and not len(server.hub.channels())
            and not server.uvicorn.server_state.connections
        )

    await eventually(is_empty)


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

    A WebSocket's close frame is answered, as a client must; it is the end of the result.
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
