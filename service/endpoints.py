"""The clients' endpoints: which transport carries which protocol in which channel."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.channels import LOBBY, SYSTEM_METRICS, check_name, room_channel
from service.config import Settings
from service.connection import Connection, Encoding
from service.errors import SLOW, UNSUPPORTED_DATA, BrokerUnavailable
from service.messages import Publication
from service.node import Node
from service.protocols import room
from service.tasks import run_together
from service.transports import sse, websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

router = APIRouter()

PLAIN_WEBSOCKET = Encoding("plain websocket", lambda publication: websocket.frame(publication.kind, publication.data))
PLAIN_SSE = Encoding("plain sse", lambda publication: sse.event(publication.kind, publication.data))

# A stream whose client takes nothing for this long is given up.
_WRITE_TIMEOUT_S = 10.0


# async, although they wait for nothing: FastAPI runs others in a thread, two hops for each connection.
async def _node(connection: HTTPConnection) -> Node:
    node: Node = connection.app.state.node
    return node


async def _settings(connection: HTTPConnection) -> Settings:
    settings: Settings = connection.app.state.settings
    return settings


NodeDependency = Annotated[Node, Depends(_node)]
SettingsDependency = Annotated[Settings, Depends(_settings)]


@router.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    """Answer each text `x` with `Message received: x`; no room, no Redis."""
    await socket.accept()
    async for message in _frames(socket):
        if not isinstance(message, str):
            await socket.close(UNSUPPORTED_DATA.code, UNSUPPORTED_DATA.reason)
            return
        await socket.send_text(f"Message received: {message}")


@router.websocket("/ws/{client_id}")
async def chat(socket: WebSocket, client_id: str, node: NodeDependency, settings: SettingsDependency) -> None:
    """The classic chat, in the room `lobby`: what one says is answered to the sender and told to everyone.

    Delivery: at most once, in one order for all. Everyone hears that a client left, unless its node was killed.
    """
    check_name(client_id, "client id")
    async with _subscribed(socket, node, settings, LOBBY) as connection:
        try:
            async for message in _frames(socket):
                if not isinstance(message, str):
                    connection.close(UNSUPPORTED_DATA)
                    return
                connection.send(connection.encoding.encode(Publication(LOBBY, f"You: {message}".encode())))
                await _publish(node, room.said(LOBBY, client_id, message))
        finally:
            node.unsubscribe(connection, LOBBY)
            await _publish(node, room.left(LOBBY, client_id))


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str, node: NodeDependency, settings: SettingsDependency) -> None:
    """A plain room: every frame reaches every client of the room, the sender too, as it was.

    Delivery: at most once, in one order for all; from the moment the handshake is answered.
    """
    channel = room_channel(name)
    async with _subscribed(socket, node, settings, channel):
        async for message in _frames(socket):
            await _publish(node, room.frame(channel, message))


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket, node: NodeDependency, settings: SettingsDependency) -> None:
    """The system's figures: the newest at once, then each as it comes. What the client sends is ignored."""
    async with _subscribed(socket, node, settings, SYSTEM_METRICS, with_latest=True):
        async for _ in _frames(socket):
            pass


@router.get("/sse/rooms/{name}", response_class=Response)
async def plain_room_events(name: str, node: NodeDependency, settings: SettingsDependency) -> Response:
    """The plain room as server-sent events; binary frames come as base64 in events named `binary`."""
    return _EventStreamResponse(node, settings, room_channel(name))


@router.get("/sse/dashboard-feed", response_class=Response)
async def dashboard_feed_events(node: NodeDependency, settings: SettingsDependency) -> Response:
    """The system's figures as server-sent events: the newest at once, then each as it comes."""
    return _EventStreamResponse(node, settings, SYSTEM_METRICS, with_latest=True)


@asynccontextmanager
async def _subscribed(
    socket: WebSocket, node: Node, settings: Settings, channel: str, *, with_latest: bool = False
) -> AsyncIterator[Connection]:
    """Subscribe, then answer the handshake: whoever sees the connection open misses nothing from there on.

    Raises, before the handshake is answered: ClientError, BrokerUnavailable.
    """
    transport = websocket.transport_of(socket.scope)
    connection = Connection(_new_id(), transport, PLAIN_WEBSOCKET, max_unsent_bytes=settings.max_unsent_bytes)
    async with node.connected(connection):
        if with_latest:
            await _send_latest(node, connection, channel)
        await node.subscribe(connection, channel)
        await socket.accept()
        connection.open()
        yield connection


async def _send_latest(node: Node, connection: Connection, channel: str) -> None:
    """Send the newest publication kept, before subscribing: a newer one then cannot arrive first."""
    latest = await node.broker.latest(channel)
    if latest is not None:
        connection.send(connection.encoding.encode(latest))


async def _frames(socket: WebSocket) -> AsyncIterator[str | bytes]:
    """Yield what the client sends until it is gone, however it goes."""
    while True:
        try:
            message = await socket.receive()
        except WebSocketDisconnect:
            return
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        yield text if text is not None else message["bytes"]


async def _publish(node: Node, publication: Publication) -> None:
    """Publish what a client of a plain endpoint sent.

    Delivery: at most once; while Redis is away the publication is lost, and counted (the node's publish_failures),
    and the connection lives on: plain frames have no way to say it.
    """
    try:
        await node.publish(publication)
    except BrokerUnavailable:
        return


def _new_id() -> str:
    return uuid.uuid4().hex


class _EventStreamResponse(Response):
    """Subscribes, streams until the client is gone, unsubscribes: all in one call of the server's task.

    A generator in a StreamingResponse would not do: one that never starts never runs its `finally`.
    """

    media_type = "text/event-stream"

    def __init__(self, node: Node, settings: Settings, channel: str, *, with_latest: bool = False) -> None:
        # X-Accel-Buffering: nginx would hold events back to fill its buffer.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._node = node
        self._settings = settings
        self._channel = channel
        self._with_latest = with_latest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI)
        """Serve one client. Raises, before the response starts: BrokerUnavailable."""
        stream = sse.EventStream(ping_interval_s=self._settings.ping_interval_s)
        connection = Connection(_new_id(), stream, PLAIN_SSE, max_unsent_bytes=self._settings.max_unsent_bytes)
        async with self._node.connected(connection):
            if self._with_latest:
                await _send_latest(self._node, connection, self._channel)
            await self._node.subscribe(connection, self._channel)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            connection.open()
            await run_together(
                gone=_until_gone(receive),
                pump=self._pump(connection, stream, send),
            )

    async def _pump(self, connection: Connection, stream: sse.EventStream, send: Send) -> None:
        try:
            while chunk := await stream.read():
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # The server logs that the response is incomplete, and closes the connection.
            connection.close(SLOW)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
