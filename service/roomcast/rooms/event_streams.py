"""Plain rooms as server-sent events."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from roomcast.deadlines import Deadlines
from roomcast.model.channels import SYSTEM_METRICS, room_channel
from roomcast.model.positions import Position
from roomcast.rooms.authentication import Authenticator, Identity
from roomcast.rooms.encodings import PLAIN_SSE
from roomcast.rooms.entry import check_subscription, expire_with_token, send_start, since_of
from roomcast.rooms.receivers import Feed
from roomcast.transports.event_stream import EventStream
from roomcast.web.client_server import ClientServer, address_of
from roomcast.web.state import find
from roomcast.web.streaming import STREAM_HEADERS, pump

router = APIRouter()


class EventStreamResponse(Response):
    """Subscribes, streams until the client has left, unsubscribes: all in one call of the server's task.

    Not a generator in a StreamingResponse: one that never starts never runs its `finally`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        server: ClientServer,
        deadlines: Deadlines,
        channel: str,
        identity: Identity,
        since: Position | None = None,
    ) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._server = server
        self._deadlines = deadlines
        self._channel = channel
        self._identity = identity
        self._since = since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client. Raises, before the response starts: ClientError, BrokerUnavailable."""
        stream = EventStream(ping_interval_s=self._server.settings.ping_interval_s)
        user, info = self._identity.client.user, self._identity.info
        connection = self._server.connection(stream, PLAIN_SSE, Feed(), user=user, info=info)
        stream.connection = connection
        connection.address = address_of(HTTPConnection(scope))
        node = self._server.node
        with node.connected(connection):
            async with node.subscribing(connection, self._channel, since=self._since) as start:
                send_start(connection, start)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            connection.open()
            expire_with_token(self._deadlines, self._identity, connection)
            await pump(connection, stream.read, scope, receive, send)


@router.get("/sse/rooms/{name}", response_class=Response, tags=["rooms"], summary="Follow a room.")
async def plain_room_events(request: Request, name: str) -> Response:
    """The plain room as server-sent events; binary frames are sent as base64 in events named `binary`.

    The id of an event is its position, which a browser sends when it reconnects, to recover. The client is identified
    by a token in the header, or by a `?ticket=` of `POST /api/ticket` (docs/auth.md).
    """
    return await _events(request, room_channel(name))


@router.get("/sse/dashboard-feed", response_class=Response, tags=["rooms"], summary="Follow the system's figures.")
async def dashboard_feed_events(request: Request) -> Response:
    """The system's figures as server-sent events: the newest first, then each new one."""
    return await _events(request, SYSTEM_METRICS)


async def _events(request: Request, channel: str) -> Response:
    since = since_of(request)
    identity = await find(request, Authenticator).required(request)
    server = find(request, ClientServer)
    check_subscription(server.node, channel, identity)
    return EventStreamResponse(server, find(request, Deadlines), channel, identity, since)
