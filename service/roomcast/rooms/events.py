"""Plain rooms as server-sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import Response

from roomcast.connections.connection import Connection
from roomcast.encodings import PLAIN_SSE
from roomcast.protocols.room import Feed
from roomcast.transports.event_stream import EventStream
from roomcast.web.streaming import STREAM_HEADERS, pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from roomcast.model.publications import Position
    from roomcast.web.sockets import ClientServer


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
