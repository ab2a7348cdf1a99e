"""The clients' endpoints: which protocol is spoken in which channel."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from service.channels import LOBBY, SYSTEM_METRICS, check_name, room_channel
from service.errors import ClientError, ErrorCode
from service.messages import Position
from service.namespaces import Who
from service.protocols import room
from service.protocols.info import check_info
from service.recovery import position_of
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
    user = check_name(client_id, "client id")
    await server.serve(socket, room.Chat(server.node, LOBBY, user), LOBBY, user=user)


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str) -> None:
    """A plain room: every frame reaches every client of the room, the sender too, as it was.

    With `?envelope=1` a client gets JSON that tells where each publication stands, and comes back with
    `?envelope=1&since=<offset>&epoch=<epoch>` to what it missed. `?user=ada&info={"color":"red"}` is what presence
    tells others of the client: user is at most 128 bytes, info JSON of at most 1 KiB. Nobody checks who it really is.
    Delivery: in one order for all, from the moment the handshake is answered; see docs/guarantees.md.
    """
    server = server_of(socket)
    channel = room_channel(name)
    in_envelope, since = _envelope_of(socket), _since_of(socket)
    if since is not None and not in_envelope:
        raise ClientError(ErrorCode.BAD_REQUEST, "since needs envelope=1: plain frames tell no positions")
    user, info = _client_of(socket)
    receiver = room.Room(
        server.node, channel, may_publish=server.node.namespaces.of(channel).may_publish is not Who.NOBODY
    )
    await server.serve(socket, receiver, channel, in_envelope=in_envelope, since=since, user=user, info=info)


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket) -> None:
    """The system's figures: the newest at once, then each as it comes. What the client sends is ignored."""
    await server_of(socket).serve(socket, room.Feed(), SYSTEM_METRICS)


@router.get("/sse/rooms/{name}", response_class=Response)
async def plain_room_events(request: Request, name: str) -> Response:
    """The plain room as server-sent events; binary frames come as base64 in events named `binary`.

    The id of an event is its position, which a browser sends when it comes back: it gets what it missed. `?user=` and
    `?info=` are those of the WebSocket.
    """
    user, info = _client_of(request)
    return EventStreamResponse(server_of(request), room_channel(name), since=_since_of(request), user=user, info=info)


@router.get("/sse/dashboard-feed", response_class=Response)
async def dashboard_feed_events(request: Request) -> Response:
    """The system's figures as server-sent events: the newest at once, then each as it comes."""
    return EventStreamResponse(server_of(request), SYSTEM_METRICS, since=_since_of(request))


def _envelope_of(connection: HTTPConnection) -> bool:
    wanted = connection.query_params.get("envelope", "0")
    if wanted not in {"0", "1"}:
        raise ClientError(ErrorCode.BAD_REQUEST, "envelope is 0 or 1")
    return wanted == "1"


def _client_of(connection: HTTPConnection) -> tuple[str, bytes]:
    """Return the user and the info that a client names. Raises: ClientError 107, or 106 for too much."""
    user, text = connection.query_params.get("user", ""), connection.query_params.get("info", "")
    if user:
        check_name(user, "user")
    return user, check_info(text) if text else b""


def _since_of(connection: HTTPConnection) -> Position | None:
    """Return the position from which a client goes on. Raises: ClientError 107 for one that is none."""
    epoch, colon, offset = connection.headers.get("last-event-id", "").rpartition(":")
    if not colon:
        epoch, offset = connection.query_params.get("epoch", ""), connection.query_params.get("since", "")
        if not epoch and not offset:
            return None
    return position_of(offset, epoch)
