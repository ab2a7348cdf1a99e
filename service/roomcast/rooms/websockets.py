"""The plain clients' endpoints: which protocol is spoken in which channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from roomcast.deadlines import Deadlines
from roomcast.model.channels import LOBBY, SYSTEM_METRICS, check_name, room_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.publications import Position
from roomcast.rooms import receivers
from roomcast.rooms.authentication import SUBPROTOCOL, Authenticator
from roomcast.rooms.encodings import DEFLATED_ENVELOPE, DEFLATED_WEBSOCKET, ENVELOPE_WEBSOCKET, PLAIN_WEBSOCKET
from roomcast.rooms.entry import FirstMessageAuth, RoomEntry, since_of
from roomcast.tasks import TaskSet
from roomcast.web.sockets import ClientServer, websocket_of
from roomcast.web.state import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomcast.connections.connection import Receiver
    from roomcast.connections.encoding import Encoding

router = APIRouter()

# How long a client may take to say who it is.
_FIRST_MESSAGE_TIMEOUT_S = 10.0


@router.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    """Answer each text `x` with `Message received: x`; no room, no Redis, so nobody is asked who it is."""
    server = find(socket, ClientServer)
    transport, is_compressed = websocket_of(socket)
    encoding = DEFLATED_WEBSOCKET if is_compressed else PLAIN_WEBSOCKET
    await server.serve(socket, server.connection(transport, encoding, receivers.Echo()))


@router.websocket("/ws/{client_id}")
async def chat(socket: WebSocket, client_id: str) -> None:
    """The classic chat, in the room `lobby`: what one says is answered to the sender and told to everyone.

    Delivery: at most once, in one order for all. Everyone hears that a client left, unless its node was killed.
    """
    name = check_name(client_id, "client id")
    publisher = find(socket, ClientServer).node.client_publisher
    await _serve(
        socket, LOBBY, lambda may_publish: receivers.Chat(publisher, LOBBY, name, may_publish=may_publish), name=name
    )


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str) -> None:
    """A plain room: every frame reaches every client of the room, the sender too, as it was.

    With `?envelope=1` a client gets JSON that tells where each publication stands, and comes back with
    `?envelope=1&since=<offset>&epoch=<epoch>` to what it missed. Who it is its token says (docs/auth.md); where nobody
    is checked, `?user=ada&info={"color":"red"}` does: user is at most 128 bytes, info JSON of at most 1 KiB.
    Delivery: in one order for all, from the moment the handshake is answered; see docs/guarantees.md.
    """
    publisher, channel = find(socket, ClientServer).node.client_publisher, room_channel(name)
    in_envelope, since = _envelope_of(socket), since_of(socket)
    if since is not None and not in_envelope:
        raise ClientError(ErrorCode.BAD_REQUEST, "since needs envelope=1: plain frames tell no positions")

    def receiver_of(may_publish: bool) -> receivers.Room:
        return receivers.Room(publisher, channel, may_publish=may_publish)

    await _serve(socket, channel, receiver_of, in_envelope=in_envelope, since=since)


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket) -> None:
    """The system's figures: the newest at once, then each as it comes. What the client sends is ignored."""
    await _serve(socket, SYSTEM_METRICS, lambda _: receivers.Feed())


async def _serve(
    socket: WebSocket,
    channel: str,
    receiver_of: Callable[[bool], Receiver],
    *,
    in_envelope: bool = False,
    since: Position | None = None,
    name: str = "",
) -> None:
    """Serve a client of one channel; who it is its request says, or else its first message.

    Args:
        receiver_of: makes the receiver of a client that may publish, or may not.
        name: who it is where nobody is checked.
    """
    server, admission, deadlines = find(socket, ClientServer), find(socket, Authenticator), find(socket, Deadlines)
    transport, is_compressed = websocket_of(socket)
    encoding = _encoding_of(in_envelope=in_envelope, is_compressed=is_compressed)
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None
    visitor = await admission.authenticate(socket)
    entry = RoomEntry(server.node, admission, deadlines, channel=channel, receiver_of=receiver_of, since=since)
    first_message = FirstMessageAuth(find(socket, TaskSet).spawn, entry.enter_by_token)
    connection = server.connection(transport, encoding, first_message)
    if visitor is None:
        first_message.connection = connection
        deadlines.add_in(_FIRST_MESSAGE_TIMEOUT_S, first_message)
    else:
        connection.user = visitor.client.user or (name if visitor.client.is_trusted else "")
        connection.info = visitor.info
    with server.node.connected(connection) as connected:
        server.check_origin(socket)
        if visitor is not None:
            await entry.enter(connection, visitor)
        await server.accept(socket, connected, subprotocol=subprotocol)


def _encoding_of(*, in_envelope: bool, is_compressed: bool) -> Encoding:
    if in_envelope:
        return DEFLATED_ENVELOPE if is_compressed else ENVELOPE_WEBSOCKET
    return DEFLATED_WEBSOCKET if is_compressed else PLAIN_WEBSOCKET


def _envelope_of(connection: HTTPConnection) -> bool:
    wanted = connection.query_params.get("envelope", "0")
    if wanted not in {"0", "1"}:
        raise ClientError(ErrorCode.BAD_REQUEST, "envelope is 0 or 1")
    return wanted == "1"
