"""WebSocket on uvicorn, with a protocol class of our own (`ws=`): ASGI until accepted, then as lean as possible.

The handshake runs through FastAPI: routes, dependencies, refusals. Once accepted, an ordinary endpoint stays on ASGI; a
hub connection *detaches*: the ASGI task, the scope, the request and this protocol are freed, messages of the client
arrive by a plain call, and writes go straight to the transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.types import Message, Scope
from typing_extensions import override
from uvicorn import Config
from uvicorn.protocols.utils import ClientDisconnected, get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from roomcast.connections.connection import Connection
from roomcast.connections.transport import HIGH_WATER_BYTES, LOW_WATER_BYTES
from roomcast.model.errors import SHUTDOWN, Disconnect
from roomcast.model.publications import Kind
from roomcast.transports.heartbeat import Heartbeat
from roomcast.transports.websocket import deflate, frames, handshake
from roomcast.transports.websocket.detached import DetachedWebSocket
from roomcast.transports.websocket.framed_socket import FramedSocket

# The key in scope["extensions"] under which a connection offers its transport to the endpoint.
EXTENSION = "roomcast.websocket"


def transport_of(scope: Scope) -> WebSocketProtocol | None:
    """Return the protocol of this scope's connection, or None under any other server."""
    protocol: WebSocketProtocol | None = scope.get("extensions", {}).get(EXTENSION)
    return protocol


def _origin_form(target: bytes) -> bytes:
    """Return a request's target without the optional scheme and host (RFC 9112 3.2.2)."""
    _, is_absolute, rest = target.partition(b"://")
    if target.startswith(b"/") or not is_absolute:
        return target
    return b"/" + rest.partition(b"/")[2]


class WebSocketProtocol(FramedSocket):
    """uvicorn's `ws=` class: one connection from its handshake on, by ASGI, until it detaches or ends."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        self._config = config
        self._app_state = app_state
        self._open_sockets: set[Any] = server_state.connections  # Any: uvicorn's, of all its protocol classes
        self._tasks = server_state.tasks
        self._default_headers = server_state.default_headers
        self._loop = asyncio.get_running_loop()
        self._close_code = None
        self._unread = b""
        self.is_reading = True
        self._max_message_bytes = config.ws_max_size
        self.is_compressed = False  # permessage-deflate will be, or was, negotiated
        self._is_accepted = False
        self._is_detached = False
        self._is_lost = False
        self._has_ended = False  # no ASGI message may be sent any more
        self._denial: tuple[int, handshake.Headers] | None = None
        self._denial_body = b""
        self._request: handshake.Request
        self._early = b""  # one read at most: then reading is paused until the handshake is answered
        self._queue: deque[Message] = deque([{"type": "websocket.connect"}])
        self._received = asyncio.Event()
        self._received.set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._abort_timer: asyncio.TimerHandle | None = None

    # Called by uvicorn.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket from uvicorn's HTTP protocol."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport
        self._open_sockets.add(self)

    def data_received(self, data: bytes) -> None:
        """Read the handshake's request, which uvicorn hands over whole, then frames."""
        if hasattr(self, "_request"):
            if self._is_accepted:
                super().data_received(data)
            else:
                self._early += data
            return
        self._request = handshake.parse(data)
        refusal = handshake.check(self._request)
        if refusal is not None:
            self._answer_and_close(handshake.refuse(refusal))
            return
        self.is_compressed = bool(self._config.ws_per_message_deflate) and handshake.offers_deflate(self._request)
        # Bytes that a client sends before it has an answer wait in the kernel.
        self._transport.pause_reading()
        task = self._loop.create_task(self._run_asgi(self._scope()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Notify the app that the client has disconnected."""
        self._is_lost = True
        self._open_sockets.discard(self)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._writable.set()
        self._put({"type": "websocket.disconnect", "code": self.close_code(), "reason": ""})

    def pause_writing(self) -> None:
        """Block the app's sends."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Unblock the app's sends."""
        self._writable.set()

    def shutdown(self) -> None:
        """Close: uvicorn shuts down."""
        self.close(SHUTDOWN)

    # Called by the hub.

    @override
    def close(self, disconnect: Disconnect) -> None:
        """Close; before the handshake is answered, with an HTTP 503."""
        if self._is_accepted:
            super().close(disconnect)
            self._put({"type": "websocket.disconnect", "code": disconnect.code, "reason": disconnect.reason})
        elif not self._has_ended:
            self._close_code = disconnect.code
            self._answer_and_close(handshake.answer(503, [(b"Retry-After", b"1")], b""))

    def detach(
        self, connection: Connection, heartbeat: Heartbeat, on_gone: Callable[[Connection], None]
    ) -> DetachedWebSocket:
        """Hand the socket to a lean protocol without ASGI; the endpoint may return.

        The caller opens the connection, then passes `drain_early` to the new transport.
        Raises: ClientDisconnected if the client has disconnected since it was accepted.
        """
        if self._is_lost or self._close_code is not None:
            raise ClientDisconnected
        self._is_detached = self._has_ended = True
        self._open_sockets.discard(self)
        detached = DetachedWebSocket(
            self._transport,
            self._parser,
            connection,
            heartbeat,
            on_gone,
            open_sockets=self._open_sockets,
            max_message_bytes=self._max_message_bytes,
        )
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        self._transport.set_protocol(detached)
        return detached

    def drain_early(self) -> bytes:
        """Return the bytes that arrived before the handshake was answered, once."""
        early, self._early = self._early, b""
        return early

    # Called by the app.

    async def _run_asgi(self, scope: Scope) -> None:
        try:
            await self._config.loaded_app(scope, self._receive, self._send)
        except ClientDisconnected:
            pass
        except Exception:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
            self._end(Disconnect(1011, "internal server error"))
        else:
            if self._is_detached or self._is_lost:
                return
            if not self._is_accepted and not self._has_ended:
                logging.getLogger("uvicorn.error").error("ASGI app returned without answering the handshake")
            self._end(Disconnect(1000, ""))

    async def _receive(self) -> Message:
        while not self._queue:
            self._received.clear()
            await self._received.wait()
        message = self._queue.popleft()
        if self._is_accepted and not self._queue:
            self.resume_reading()
        return message

    async def _send(self, message: Message) -> None:
        await self._writable.wait()
        kind = message["type"]
        if self._is_detached:
            raise RuntimeError(f"{kind} after the connection was detached")
        # Without this an endpoint that only sends would never end nor yield to the loop: a closing socket accepts every
        # write at once.
        if self._is_lost or self._has_ended or self._close_code is not None or self._transport.is_closing():
            raise ClientDisconnected
        if self._denial is not None:
            self._send_denial_body(message)
        elif self._is_accepted:
            self._send_open(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._answer_and_close(handshake.answer(403, [], b""))
        elif kind == "websocket.http.response.start":
            self._denial = (message["status"], list(message.get("headers", [])))
        else:
            raise RuntimeError(f"{kind} before the handshake was answered")

    def _accept(self, message: Message) -> None:
        headers = [*self._default_headers, *message.get("headers", [])]
        if message.get("subprotocol"):
            headers.append((b"Sec-WebSocket-Protocol", message["subprotocol"].encode()))
        if self.is_compressed:
            headers.append((b"Sec-WebSocket-Extensions", deflate.ACCEPTED))
        self._parser = frames.FrameParser(
            max_message_bytes=self._max_message_bytes, is_compression_allowed=self.is_compressed
        )
        self._transport.write(handshake.accept(self._request, headers))
        self._is_accepted = True
        self._transport.resume_reading()
        if self._early:
            self._loop.call_soon(self._read_early)

    def _read_early(self) -> None:
        """Read the bytes from before the handshake was answered, unless the connection has detached and read them."""
        early = self.drain_early()
        if early and not self._is_lost:
            super().data_received(early)

    def _send_open(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            text = message.get("text")
            if text is None:
                self.write(frames.frame(frames.BINARY, message["bytes"]))
            else:
                self.write(frames.frame(frames.TEXT, text.encode()))
        elif kind == "websocket.close":
            self._has_ended = True
            super().close(Disconnect(message.get("code") or 1000, message.get("reason") or ""))
        else:
            raise RuntimeError(f"{kind} after the handshake was answered")

    def _send_denial_body(self, message: Message) -> None:
        if message["type"] != "websocket.http.response.body":
            raise RuntimeError(f"{message['type']} inside a refusal")
        self._denial_body += message.get("body", b"")
        if not message.get("more_body", False):
            assert self._denial is not None  # noqa: S101  (for the type checker: `_send` checked it)
            self._answer_and_close(handshake.answer(*self._denial, self._denial_body))

    def _answer_and_close(self, answer: bytes) -> None:
        self._has_ended = True
        if not self._transport.is_closing():
            self._transport.write(answer)
            self._transport.close()
        self._put({"type": "websocket.disconnect", "code": self.close_code(), "reason": ""})

    def _end(self, disconnect: Disconnect) -> None:
        """Close after the app has ended; one that never answered the handshake is broken."""
        if self._is_accepted:
            super().close(disconnect)
        elif not self._has_ended:
            self._answer_and_close(handshake.answer(500, [], b"Internal Server Error"))

    def _on_message(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.TEXT:
            self._put({"type": "websocket.receive", "text": payload.decode()})
        else:
            self._put({"type": "websocket.receive", "bytes": payload})
        # At most one read's messages wait for the app; the rest waits in the kernel.
        self.pause_reading()

    def _on_close_frame(self, payload: bytes) -> None:
        super()._on_close_frame(payload)
        self._put({"type": "websocket.disconnect", "code": self.close_code(), "reason": payload[2:].decode()})

    def _put(self, message: Message) -> None:
        self._queue.append(message)
        self._received.set()

    def _end_within(self, timeout_s: float) -> None:
        # The answer to a close frame must be read, even if messages still wait for the app.
        self.resume_reading()
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(timeout_s, self._transport.abort)

    def _scope(self) -> Scope:
        raw_path, _, query = _origin_form(self._request.target).partition(b"?")
        root_path = self._config.root_path
        secure = is_ssl(self._transport)
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if secure else "ws",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": root_path,
            "path": root_path + unquote(raw_path.decode("ascii", "replace")),
            "raw_path": root_path.encode() + raw_path,
            "query_string": query,
            "headers": self._request.headers,
            "subprotocols": [value.decode("latin-1") for value in self._request.values(b"sec-websocket-protocol")],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }
