"""The clients' endpoints: which protocol is spoken in which channel."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from service.channels import LOBBY, SYSTEM_METRICS, check_name, room_channel
from service.protocols import room
from service.serving import ClientServer, EventStreamResponse

router = APIRouter()


def server_of(connection: HTTPConnection) -> ClientServer:
    """Return what serves the clients of this app."""
    # A plain call: as a FastAPI dependency it would be a twentieth of what a connection costs.
    server: ClientServer = connection.app.state.clients
    return server


@router.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    """Answer each text `x` with `Message received: x`; no room, no Redis."""
    await server_of(socket).serve(socket, room.Echo())


@router.websocket("/ws/{client_id}")
async def chat(socket: WebSocket, client_id: str) -> None:
    """The classic chat, in the room `lobby`: what one says is answered to the sender and told to everyone.

    Delivery: at most once, in one order for all. Everyone hears that a client left, unless its node was killed.
    """
    server = server_of(socket)
    await server.serve(socket, room.Chat(server.node, LOBBY, check_name(client_id, "client id")), LOBBY)


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str) -> None:
    """A plain room: every frame reaches every client of the room, the sender too, as it was.

    Delivery: at most once, in one order for all; from the moment the handshake is answered.
    """
    server = server_of(socket)
    channel = room_channel(name)
    await server.serve(socket, room.Room(server.node, channel), channel)


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket) -> None:
    """The system's figures: the newest at once, then each as it comes. What the client sends is ignored."""
    await server_of(socket).serve(socket, room.Feed(), SYSTEM_METRICS, with_latest=True)


@router.get("/sse/rooms/{name}", response_class=Response)
async def plain_room_events(request: Request, name: str) -> Response:
    """The plain room as server-sent events; binary frames come as base64 in events named `binary`."""
    return EventStreamResponse(server_of(request), room_channel(name))


@router.get("/sse/dashboard-feed", response_class=Response)
async def dashboard_feed_events(request: Request) -> Response:
    """The system's figures as server-sent events: the newest at once, then each as it comes."""
    return EventStreamResponse(server_of(request), SYSTEM_METRICS, with_latest=True)
