"""The WebSocket endpoints of plain clients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from roomcast.connections.connection import Receiver
from roomcast.connections.encoding import Encoding
from roomcast.model.channels import LOBBY, SYSTEM_METRICS, check_channel, check_name, room_channel
from roomcast.model.errors import ClientError, ErrorCode, Refused
from roomcast.model.positions import Position
from roomcast.rooms import receivers
from roomcast.rooms.admission import Admission
from roomcast.rooms.authentication import SUBPROTOCOL
from roomcast.rooms.encodings import DEFLATED_ENVELOPE, DEFLATED_WEBSOCKET, ENVELOPE_WEBSOCKET, PLAIN_WEBSOCKET
from roomcast.rooms.entry import Entry, FirstMessageAuth, RoomEntry, since_of
from roomcast.rooms.expiry import Expiries
from roomcast.rooms.map_entry import check_no_map
from roomcast.rooms.receivers import Publisher
from roomcast.web.client_server import ClientServer, websocket_of
from roomcast.web.state import find

router = APIRouter()

# How long a client may take to send its token.
_FIRST_MESSAGE_TIMEOUT_S = 10.0


@router.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    """Answer each text `x` with `Message received: x`, without a room, Redis or authentication."""
    server = find(socket, ClientServer)
    transport, is_compressed = websocket_of(socket)
    encoding = _encoding_of(is_compressed, in_envelope=False)
    await server.serve(socket, server.connection(transport, encoding, receivers.Echo()))


@router.websocket("/ws/{client_id}")
async def chat(socket: WebSocket, client_id: str) -> None:
    """The classic chat, in the room `lobby`: each message is confirmed to its sender, and published.

    Delivery: at most once, in one order for all. That a client left is published too, unless its node was killed.
    """
    name = check_name(client_id, "client id")

    def receiver_of(publisher: Publisher, may_publish: bool) -> receivers.Chat:
        return receivers.Chat(publisher, LOBBY, name, may_publish=may_publish)

    await _serve(socket, LOBBY, receiver_of, name=name)


@router.websocket("/ws/rooms/{name}")
async def plain_room(socket: WebSocket, name: str) -> None:
    """A plain room: every frame is sent unchanged to every client of the room, the sender included.

    With `?envelope=1` a client gets JSON with the position of each publication, and reconnects with
    `?envelope=1&since=<offset>&epoch=<epoch>` to recover. Its token identifies it (docs/auth.md). In insecure mode
    `?user=ada&info={"color":"red"}` does: user has at most 128 bytes, info is JSON of at most 1 KiB.
    Delivery: in one order for all, as soon as the handshake is accepted; see docs/guarantees.md.
    """
    await _plain(socket, room_channel(name))


@router.websocket("/ws/channels/{channel:path}")
async def plain_channel(socket: WebSocket, channel: str) -> None:
    """As `/ws/rooms/{name}`, for a channel of any namespace."""
    await _plain(socket, check_channel(channel))


async def _plain(socket: WebSocket, channel: str) -> None:
    in_envelope, since = _envelope_of(socket), since_of(socket)
    if since is not None and not in_envelope:
        raise ClientError(ErrorCode.BAD_REQUEST, "since needs envelope=1: plain frames tell no positions")

    def receiver_of(publisher: Publisher, may_publish: bool) -> receivers.Room:
        return receivers.Room(publisher, channel, may_publish=may_publish)

    await _serve(socket, channel, receiver_of, in_envelope=in_envelope, since=since)


@router.websocket("/dashboard-feed")
async def dashboard_feed(socket: WebSocket) -> None:
    """The system's figures: the newest first, then each new one. Messages of the client are ignored."""
    await _serve(socket, SYSTEM_METRICS, lambda *_: receivers.Feed())


async def _serve(
    socket: WebSocket,
    channel: str,
    receiver_of: Callable[[Publisher, bool], Receiver],
    *,
    in_envelope: bool = False,
    since: Position | None = None,
    name: str = "",
) -> None:
    """Serve a client of one channel that is not a map.

    Args:
        receiver_of: makes the receiver; its arguments are the publisher, and whether the client may publish.
        name: the user in insecure mode.
    """
    server, admission, expiries = find(socket, ClientServer), find(socket, Admission), find(socket, Expiries)
    check_no_map(server.node.namespaces, channel)
    entry = RoomEntry(server.node, admission, expiries, admission.headers(socket), channel, since, receiver_of)
    await serve_entry(socket, entry, partial(_encoding_of, in_envelope=in_envelope), name=name)


async def serve_entry(
    socket: WebSocket, entry: Entry, encoding_of: Callable[[bool], Encoding], *, name: str = ""
) -> None:
    """Serve a client, authenticated by its request or else by its first message.

    Args:
        encoding_of: returns the encoding; its argument is whether messages are compressed.
        name: the user in insecure mode.
    """
    server, admission, expiries = find(socket, ClientServer), find(socket, Admission), find(socket, Expiries)
    transport, is_compressed = websocket_of(socket)
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None
    identity = await admission.authenticator.authenticate(socket)
    first_message = FirstMessageAuth(expiries.tasks.spawn, entry.enter_by_token)
    connection = server.connection(transport, encoding_of(is_compressed), first_message)
    if identity is None:
        first_message.connection = connection
        expiries.deadlines.add_in(_FIRST_MESSAGE_TIMEOUT_S, first_message)
    else:
        connection.user = identity.client.user or (name if identity.client.is_trusted else "")
        connection.info = identity.info
    with server.node.connected(connection) as connected:
        server.check_origin(socket)
        disconnect = None
        if identity is not None:
            try:
                await entry.enter(connection, identity)
            except Refused as exc:
                disconnect = exc.disconnect
        await server.accept(socket, connected, subprotocol=subprotocol, disconnect=disconnect)


def _encoding_of(is_compressed: bool, *, in_envelope: bool) -> Encoding:
    if in_envelope:
        return DEFLATED_ENVELOPE if is_compressed else ENVELOPE_WEBSOCKET
    return DEFLATED_WEBSOCKET if is_compressed else PLAIN_WEBSOCKET


def _envelope_of(connection: HTTPConnection) -> bool:
    wanted = connection.query_params.get("envelope", "0")
    if wanted not in {"0", "1"}:
        raise ClientError(ErrorCode.BAD_REQUEST, "envelope is 0 or 1")
    return wanted == "1"
