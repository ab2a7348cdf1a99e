"""WebSocket: uvicorn's protocol class with a way to write prepared frames straight to the socket."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from service.errors import INVALID_UTF8, NO_PONG, Disconnect
from service.messages import Kind

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.types import Scope
    from uvicorn._types import ASGISendEvent
    from websockets.http11 import Request

# The key in scope["extensions"] under which a connection offers its transport to the endpoint.
EXTENSION = "roomcast.websocket"

_FIN = 0x80
_OPCODES = {Kind.TEXT: _FIN | 0x1, Kind.BINARY: _FIN | 0x2}
_LENGTH_16 = 126
_LENGTH_64 = 127


def frame(kind: Kind, payload: bytes) -> bytes:
    """Return a whole, unmasked server frame (RFC 6455 5.2): the same bytes serve every client."""
    length = len(payload)
    if length < _LENGTH_16:
        return struct.pack("!BB", _OPCODES[kind], length) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", _OPCODES[kind], _LENGTH_16, length) + payload
    return struct.pack("!BBQ", _OPCODES[kind], _LENGTH_64, length) + payload


def transport_of(scope: Scope) -> WebSocketTransport:
    """Return the transport of a WebSocket that this server's protocol serves.

    Raises: RuntimeError under any other protocol or server.
    """
    transport: WebSocketTransport | None = scope.get("extensions", {}).get(EXTENSION)
    if transport is None:
        raise RuntimeError("rooms need Roomcast's own WebSocket protocol: start the node with `roomcast node`")
    return transport


class WebSocketTransport(WebSocketsSansIOProtocol):
    """uvicorn's sans-I/O WebSocket protocol, which is a `Transport` too. Given to uvicorn as `ws=`.

    uvicorn's own sends and the frames written here share one socket: both are always whole frames, in order.
    """

    name = "websocket"
    _own_close_code: int | None = None

    def handle_connect(self, event: Request) -> None:
        """Offer the transport to the endpoint; the ASGI task starts in the loop's next turn."""
        super().handle_connect(event)
        if self.response.status_code == 101:  # switching protocols
            extensions: MutableMapping[str, Any] = self.scope["extensions"]  # Any: ASGI's own
            extensions[EXTENSION] = self

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(data)

    def unsent_bytes(self) -> int:
        """See `Transport.unsent_bytes`."""
        return self.transport.get_write_buffer_size()

    def close(self, disconnect: Disconnect) -> None:
        """Send a close frame and end the connection when the client has answered, or after `close_timeout`."""
        if self.close_sent or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self.send_500_response()
            self.close_sent = self.disconnected = True  # whatever the endpoint still sends: its client is gone
            self.transport.close()
            self._end_asgi(disconnect)
            return
        self.stop_keepalive()
        self.conn.send_close(disconnect.code, disconnect.reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # abort, not close: a client that takes nothing would keep its unsent bytes in memory for ever.
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        self._end_asgi(disconnect)

    def close_code(self) -> int:
        """See `Transport.close_code`."""
        if self._own_close_code is not None:
            return self._own_close_code
        close = self.conn.close_rcvd or self.conn.close_sent
        return close.code if close else CloseCode.ABNORMAL_CLOSURE

    def keepalive_timeout(self) -> None:
        """End a connection that did not answer a ping, at once: there is nobody to say goodbye to."""
        self.pong_timer = None
        self._end_asgi(NO_PONG)
        self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Note a refusal as the answer that it is: uvicorn logs it as an error, any client could fill the log."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """Close with a reason instead of uvicorn's log line when a text frame is not UTF-8."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.close(INVALID_UTF8)
                return
        super().send_receive_event_to_app()

    def _end_asgi(self, disconnect: Disconnect) -> None:
        self._own_close_code = disconnect.code
        self.queue.put_nowait({"type": "websocket.disconnect", "code": disconnect.code, "reason": disconnect.reason})
