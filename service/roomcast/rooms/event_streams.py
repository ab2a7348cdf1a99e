"""Plain rooms as server-sent events."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from roomcast.auth.tickets import STREAM_TTL_S
from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.model.channels import SYSTEM_METRICS, check_channel, room_channel
from roomcast.model.errors import SERVER_ERROR, Refused
from roomcast.rooms.admission import Admission
from roomcast.rooms.authentication import Identity
from roomcast.rooms.encodings import PLAIN_SSE
from roomcast.rooms.entry import Entry, RoomEntry, since_of
from roomcast.rooms.expiry import Expiries
from roomcast.rooms.map_entry import check_no_map
from roomcast.rooms.receivers import Feed
from roomcast.transports.event_stream import NO_POSITION, EventStream, retry
from roomcast.web.client_server import ClientServer, address_of
from roomcast.web.event_ids import last_event_id
from roomcast.web.failures import FAILURES, is_retried
from roomcast.web.state import find
from roomcast.web.streaming import STREAM_HEADERS, pump

router = APIRouter()


class EventStreamResponse(Response):
    """Subscribes, streams until the client has left, unsubscribes: all in one call of the server's task.

    Not a generator in a StreamingResponse: one that never starts never runs its `finally`.
    """

    media_type = "text/event-stream"

    def __init__(self, request: Request, entry: Entry, identity: Identity, encoding: Encoding) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._request = request
        self._entry = entry
        self._identity = identity
        self._encoding = encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client. Raises, before the response starts: ApplicationError, ClientError, BrokerUnavailable."""
        server, key = find(self._request, ClientServer), self._identity.stream_key
        stream = EventStream(ping_interval_s=server.settings.ping_interval_s, key=key)
        stream.write(retry())
        if key and not self._entry.is_placed:
            stream.write(NO_POSITION)
        user, info = self._identity.client.user, self._identity.info
        connection = server.connection(stream, self._encoding, Feed(), user=user, info=info)
        stream.connection = connection
        connection.address = address_of(self._request)
        with server.node.connected(connection):
            try:
                await self._enter(connection)
            except Refused as exc:
                connection.close(exc.disconnect)
            except FAILURES as exc:
                if not is_retried(self._request, exc):
                    raise
                connection.close(SERVER_ERROR)  # not by an exception: the client would not get its key
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            connection.open()
            await pump(connection, stream.read, scope, receive, send)

    async def _enter(self, connection: Connection) -> None:
        await self._entry.enter(connection, self._identity)
        if self._identity.stream_key:  # it returns before its key is forgotten
            find(self._request, Expiries).close_in(STREAM_TTL_S / 2, connection)


@router.get("/sse/rooms/{name}", response_class=Response, tags=["rooms"], summary="Follow a room.")
async def plain_room_events(request: Request, name: str) -> Response:
    """The plain room as server-sent events; binary frames are sent as base64 in events named `binary`.

    The id of an event is its position, which a browser sends when it reconnects, to recover. The client is identified
    by a token in the header, or by a `?ticket=` of `POST /api/ticket` (docs/auth.md). After a disconnect for good the
    reconnect is answered 204. A temporary failure is answered 200 and ends at once, so that an `EventSource` retries.
    """
    return await _events(request, room_channel(name))


@router.get("/sse/channels/{channel:path}", response_class=Response, tags=["rooms"], summary="Follow a channel.")
async def plain_channel_events(request: Request, channel: str) -> Response:
    """As `/sse/rooms/{name}`, for a channel of any namespace."""
    return await _events(request, check_channel(channel))


@router.get("/sse/dashboard-feed", response_class=Response, tags=["rooms"], summary="Follow the system's figures.")
async def dashboard_feed_events(request: Request) -> Response:
    """The system's figures as server-sent events: the newest first, then each new one."""
    return await _events(request, SYSTEM_METRICS)


async def _events(request: Request, channel: str) -> Response:
    check_no_map(find(request, ClientServer).node.namespaces, channel)
    return await stream_entry(request, feed_entry(request, channel), PLAIN_SSE)


def feed_entry(request: Request, channel: str) -> RoomEntry:
    """Return the entry of a client that sends nothing. Raises: ClientError 107 for an invalid position."""
    server, admission, expiries = find(request, ClientServer), find(request, Admission), find(request, Expiries)
    headers, since = admission.headers(request), since_of(request)
    return RoomEntry(server.node, admission, expiries, headers, channel, since, lambda *_: Feed())


async def stream_entry(request: Request, entry: Entry, encoding: Encoding) -> Response:
    """Return the event stream of a client that has authenticated itself. Raises: as `Authenticator.required`."""
    if last_event_id(request).is_end:
        return Response(status_code=204)
    admission = find(request, Admission)
    admission.check_origin(request)
    identity = await admission.authenticator.required(request, is_stream=True)
    return EventStreamResponse(request, entry, identity, encoding)
