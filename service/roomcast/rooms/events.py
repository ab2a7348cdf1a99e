"""Plain rooms as server-sent events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from roomcast.connections.connection import Connection
from roomcast.model.channels import SYSTEM_METRICS, room_channel
from roomcast.rooms.encodings import PLAIN_SSE
from roomcast.rooms.entry import check_subscription, expire_with_token, since_of
from roomcast.rooms.receivers import Feed
from roomcast.transports.event_stream import EventStream
from roomcast.web.sockets import server_of
from roomcast.web.state import admission_of, deadlines_of
from roomcast.web.streaming import STREAM_HEADERS, pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from roomcast.model.publications import Position
    from roomcast.web.sockets import ClientServer

router = APIRouter()


class EventStreamResponse(Response):
    """Subscribes, streams until the client is gone, unsubscribes: all in one call of the server's task.

    Args:
        entered: told once the client is in.

    A generator in a StreamingResponse would not do: one that never starts never runs its `finally`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        server: ClientServer,
        channel: str,
        entered: Callable[[Connection], None],
        *,
        since: Position | None = None,
        user: str = "",
        info: bytes = b"",
    ) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._server = server
        self._channel = channel
        self._entered = entered
        self._since = since
        self._user = user
        self._info = info

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client. Raises, before the response starts: ClientError, BrokerUnavailable."""
        stream = EventStream(ping_interval_s=self._server.settings.ping_interval_s)
        connection = self._server.connection(stream, PLAIN_SSE, Feed(), user=self._user, info=self._info)
        stream.connection = connection
        self._server.node.enter(connection)
        try:
            await self._server.node.subscribe(connection, self._channel, since=self._since)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            connection.open()
            self._entered(connection)
            await pump(connection, stream.read, scope, receive, send)
        finally:
            self._server.node.leave(connection)


@router.get("/sse/rooms/{name}", response_class=Response, tags=["rooms"], summary="Follow a receivers.")
async def plain_room_events(request: Request, name: str) -> Response:
    """The plain room as server-sent events; binary frames come as base64 in events named `binary`.

    The id of an event is its position, which a browser sends when it comes back: it gets what it missed. Who the client
    is a token in the header says, or `?ticket=`, which `POST /api/ticket` gives (docs/auth.md).
    """
    return await _events(request, room_channel(name))


@router.get("/sse/dashboard-feed", response_class=Response, tags=["rooms"], summary="Follow the system's figures.")
async def dashboard_feed_events(request: Request) -> Response:
    """The system's figures as server-sent events: the newest at once, then each as it comes."""
    return await _events(request, SYSTEM_METRICS)


async def _events(request: Request, channel: str) -> Response:
    since = since_of(request)
    visitor = await admission_of(request).required(request)
    server = server_of(request)
    check_subscription(server.node, channel, visitor)
    return EventStreamResponse(
        server,
        channel,
        partial(expire_with_token, deadlines_of(request), visitor),
        since=since,
        user=visitor.client.user,
        info=visitor.info,
    )
