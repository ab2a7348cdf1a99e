"""Sessions without a WebSocket: one response that streams replies and pushes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import Response

from roomcast.transports.command_stream import CommandStream
from roomcast.web.streaming import STREAM_HEADERS, pump

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from roomcast.centrifuge.pushes import Wire
    from roomcast.centrifuge.sessions import Sessions
    from roomcast.model.errors import Disconnect
    from roomcast.web.sockets import ClientServer

_CONTENT_TYPES = {"sse": "text/event-stream", "json": "application/json", "protobuf": "application/octet-stream"}


class CommandStreamResponse(Response):
    """Runs a session whose first commands are given, until it ends or the client is gone.

    Args:
        transport_name: http_stream or sse.
        headers: of the request.
    """

    def __init__(
        self,
        server: ClientServer,
        sessions: Sessions,
        wire: Wire,
        *,
        transport_name: str,
        first: bytes,
        headers: Mapping[str, str],
    ) -> None:
        self.media_type = _CONTENT_TYPES["sse" if transport_name == "sse" else wire.encoding_name]
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._server = server
        self._first = first
        codec = wire.codec

        def goodbye(disconnect: Disconnect) -> bytes:
            fields = {"code": disconnect.code, "reason": disconnect.reason}
            return wire.frame(codec.push("", "disconnect", fields))

        self._stream = CommandStream(transport_name, ping=wire.ping, goodbye=goodbye)
        self._session = sessions.begin(wire, headers)
        self._session.connection = server.connection(self._stream, wire.encoding, self._session)
        self._stream.connection = self._session.connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        connection, stream = self._session.connection, self._stream
        self._server.node.enter(connection)
        stream.heartbeat_slot = self._server.heartbeat.add(stream)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if stream.name == "sse":
                # Browsers tell the page that it is open with the first bytes.
                await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
            self._session.on_request(self._first)
            await pump(connection, stream.take, scope, receive, send)
        finally:
            self._server.heartbeat.remove(stream)
            self._server.node.leave(connection)
