"""The clients' endpoints: which protocol is spoken in which channel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from service.channels import LOBBY, SYSTEM_METRICS, check_name, room_channel
from service.protocols import room
from service.serving import ClientServer, EventStreamResponse

router = APIRouter()


# async, although it waits for nothing: FastAPI runs others in a thread, two hops for each connection.
async def _server(connection: HTTPConnection) -> ClientServer:
    server: ClientServer = connection.app.state.clients
    return server


ServerDependency = Annotated[ClientServer, Depends(_server)]


@router.websocket("/ws")
async def echo(socket: WebSocket, server: ServerDependency) -> None:
    """Answer each text `x` with `Message received: x`; no room, no Redis."""
    await server.serve(socket, room.Echo())


@router.websocket("/ws/{client_id}")
async def chat(socket: WebSocket, client_id: str, server: ServerDependency) -> None:
    """The classic chat, in the room `lobby`: what one says is answered to the sender and told to everyone.

    Delivery: at most once, in one order for all. Everyone hears that a client left, unless its node was killed.
    """
    await server.serve(socket, room.Chat(server.node, LOBBY, check_name(client_id, "client id")), LOBBY)


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str, server: ServerDependency) -> None:
    """A plain room: every frame reaches every client of the room, the sender too, as it was.

    Delivery: at most once, in one order for all; from the moment the handshake is answered.
    """
    channel = room_channel(name)
    await server.serve(socket, room.Room(server.node, channel), channel)


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket, server: ServerDependency) -> None:
    """The system's figures: the newest at once, then each as it comes. What the client sends is ignored."""
    await server.serve(socket, room.Feed(), SYSTEM_METRICS, with_latest=True)


@router.get("/sse/rooms/{name}", response_class=Response)
async def plain_room_events(name: str, server: ServerDependency) -> Response:
    """The plain room as server-sent events; binary frames come as base64 in events named `binary`."""
    return EventStreamResponse(server, room_channel(name))


@router.get("/sse/dashboard-feed", response_class=Response)
async def dashboard_feed_events(server: ServerDependency) -> Response:
    """The system's figures as server-sent events: the newest at once, then each as it comes."""
    return EventStreamResponse(server, SYSTEM_METRICS, with_latest=True)
