"""Plain rooms as server-sent events."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from roomcast.auth.tickets import STREAM_TTL_S
from roomcast.deadlines import Deadlines
from roomcast.model.channels import SYSTEM_METRICS, check_channel, room_channel
from roomcast.model.positions import Position
from roomcast.rooms.authentication import Authenticator, Identity
from roomcast.rooms.encodings import PLAIN_SSE
from roomcast.rooms.entry import TokenDeadline, check_subscription, expire_with_token, send_start, since_of
from roomcast.rooms.receivers import Feed
from roomcast.transports.event_stream import NO_POSITION, EventStream, retry
from roomcast.web.client_server import ClientServer
from roomcast.web.event_ids import last_event_id
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
        key = self._identity.stream_key
        stream = EventStream(ping_interval_s=self._server.settings.ping_interval_s, key=key)
        stream.write(retry())
        if key and self._since is None:
            stream.write(NO_POSITION)
        user, info = self._identity.client.user, self._identity.info
        connection = self._server.connection(stream, PLAIN_SSE, Feed(), user=user, info=info)
        stream.connection = connection
        node = self._server.node
        with node.connected(connection):
            async with node.subscribing(connection, self._channel, since=self._since) as start:
                send_start(connection, start, self._channel, self._since)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            connection.open()
            expire_with_token(self._deadlines, self._identity, connection)
            if key:  # it returns before its key is forgotten
                self._deadlines.add_in(STREAM_TTL_S / 2, TokenDeadline(connection, self._deadlines))
            await pump(connection, stream.read, scope, receive, send)


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
    if last_event_id(request).is_end:
        return Response(status_code=204)
    since = since_of(request)
    identity = await find(request, Authenticator).required(request, is_stream=True)
    server = find(request, ClientServer)
    check_subscription(server.node, channel, identity)
    return EventStreamResponse(server, find(request, Deadlines), channel, identity, since)
