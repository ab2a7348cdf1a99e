"""Maps for plain clients: the whole map and then each change, over a WebSocket or as server-sent events."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from roomcast.model.channels import check_channel
from roomcast.rooms.admission import Admission
from roomcast.rooms.entry import since_of
from roomcast.rooms.event_streams import stream_entry
from roomcast.rooms.expiry import Expiries
from roomcast.rooms.map_encodings import EPHEMERAL_SSE, MAP_SSE, websocket_encoding
from roomcast.rooms.map_entry import MapEntry
from roomcast.rooms.websockets import serve_entry
from roomcast.web.client_server import ClientServer
from roomcast.web.state import find

router = APIRouter()


@router.websocket("/ws/maps/{channel:path}")
async def map_socket(socket: WebSocket, channel: str) -> None:
    """A map: `{"reset":true}`, `{"key":"k","offset":7,"data":...}` for each key, and `{"synced":true,"offset":9,...}`.

    Each change follows as an entry, a removal as `{"key":"k","offset":10,"removed":true}`. A client reconnects with
    `?since=10&epoch=...`: it receives the changes that it missed, and `synced`; or the whole map, from `reset` on, if
    they are not kept. It writes with `{"key":"k","data":...}` and `{"key":"k","removed":true}`, if it may.
    Authentication is that of `/ws/rooms/{name}`. Delivery: see docs/guarantees.md. A client that lost changes is closed
    (3010), and reconnects.
    """
    name = check_channel(channel)
    await serve_entry(
        socket, _entry(socket, name), partial(websocket_encoding, tells_positions=_tells_positions(socket, name))
    )


@router.get("/sse/maps/{channel:path}", response_class=Response, tags=["maps"], summary="Follow a map.")
async def map_events(request: Request, channel: str) -> Response:
    """The whole map and then each change, as the messages of `/ws/maps/{channel}`, in server-sent events.

    The id of an event is its position, from which a browser continues by itself when it reconnects. The client is
    identified as at `/sse/rooms/{name}`.
    """
    name = check_channel(channel)
    encoding = MAP_SSE if _tells_positions(request, name) else EPHEMERAL_SSE
    return await stream_entry(request, _entry(request, name), encoding)


def _entry(connection: HTTPConnection, channel: str) -> MapEntry:
    server, admission, expiries = (
        find(connection, ClientServer),
        find(connection, Admission),
        find(connection, Expiries),
    )
    return MapEntry(server.node, admission, expiries, admission.headers(connection), channel, since_of(connection))


def _tells_positions(connection: HTTPConnection, channel: str) -> bool:
    """Return whether clients of a map receive positions. Raises: ClientError 102, and 107 for another channel."""
    return find(connection, ClientServer).node.namespaces.of_map(channel).tells_positions
