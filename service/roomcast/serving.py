"""Serving one client: transport, encoding and receiver become a connection, from its handshake to its end."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from fastapi.responses import Response

from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.encodings import PLAIN_SSE
from roomcast.model.errors import SLOW
from roomcast.origins import allowed_origins, check_origin
from roomcast.protocols.room import Feed
from roomcast.tasks import run_together
from roomcast.transports.event_stream import EventStream
from roomcast.transports.http_protocol import ABORT
from roomcast.transports.websocket import asgi
from roomcast.transports.websocket.portable import PortableWebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket

    from roomcast.config import Settings
    from roomcast.connections.connection import Receiver
    from roomcast.connections.transport import Transport
    from roomcast.model.publications import Position
    from roomcast.node.node import Node
    from roomcast.transports.heartbeat import Heartbeat

# A stream whose client takes nothing for this long is given up; less than a node that ends waits for (10 s).
_WRITE_TIMEOUT_S = 8.0


class ClientServer:
    """Makes connections of this node out of what an endpoint was given."""

    def __init__(self, node: Node, heartbeat: Heartbeat, settings: Settings) -> None:
        self.node = node
        self.settings = settings
        self.heartbeat = heartbeat
        self._allowed_origins = allowed_origins(settings)
        self._ids = itertools.count(1)

    async def serve(
        self,
        socket: WebSocket,
        connection: Connection,
        prepare: Callable[[], Awaitable[None]] | None = None,
        *,
        subprotocol: str | None = None,
        is_open: bool = True,
    ) -> None:
        """Do what comes first, then answer the handshake: who sees the connection open misses nothing from there on.

        On our own server this returns at once: the connection is detached and lives without a task. On any other it
        returns when the client is gone.
        Args:
            connection: on the transport of `websocket_of`.
            prepare: subscribes, as a rule.
            is_open: the connection is open once the handshake is answered; False: its receiver opens it.
        Raises, before the handshake is answered: ClientError, BrokerUnavailable.
        """
        is_detached = False
        self.node.enter(connection)
        try:
            self.check_origin(socket)
            if prepare is not None:
                await prepare()
            await socket.accept(subprotocol)
            protocol = asgi.transport_of(socket.scope)
            if protocol is not None:
                connection.transport = detached = protocol.detach(connection, self.heartbeat, self.node.leave)
                is_detached = True
                if is_open:
                    connection.open()
                detached.data_received(protocol.take_early())
            elif isinstance(connection.transport, PortableWebSocket):
                if is_open:
                    connection.open()
                await connection.transport.run(connection, self.heartbeat)
        finally:
            if not is_detached:
                self.node.leave(connection)

    def check_origin(self, connection: HTTPConnection) -> None:
        """Return if a page may connect; see `origins`. Raises: ClientError 103."""
        check_origin(connection, self._allowed_origins)

    def connection(
        self, transport: Transport, encoding: Encoding, receiver: Receiver, *, user: str = "", info: bytes = b""
    ) -> Connection:
        """Return a new connection, not yet of the node."""
        max_unsent_bytes = self.settings.max_unsent_bytes
        return Connection(
            next(self._ids), transport, encoding, receiver, max_unsent_bytes=max_unsent_bytes, user=user, info=info
        )


def server_of(connection: HTTPConnection) -> ClientServer:
    """Return what serves the clients of this app."""
    # A plain call: as a FastAPI dependency it would be a twentieth of what a connection costs.
    server: ClientServer = connection.app.state.clients
    return server


def websocket_of(socket: WebSocket) -> tuple[Transport, bool]:
    """Return the transport of a handshake, and whether messages on it may be compressed."""
    protocol = asgi.transport_of(socket.scope)
    return (PortableWebSocket(socket), False) if protocol is None else (protocol, protocol.is_compressed)


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


# X-Accel-Buffering: nginx would hold what is streamed back to fill its buffer.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def pump(
    connection: Connection, read: Callable[[], Awaitable[bytes]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Carry what `read` returns to the client of a response that has started, until one of them ends.

    A client that takes nothing for 8 s is slow (3008).
    """
    abort = scope.get("extensions", {}).get(ABORT, _leave_to_server)
    await run_together(gone=until_gone(receive), pump=_pump(connection, read, send, abort))


def _leave_to_server() -> None:
    """Any other server ends the connection by itself."""


async def _pump(
    connection: Connection, read: Callable[[], Awaitable[bytes]], send: Send, abort: Callable[[], None]
) -> None:
    try:
        while chunk := await read():
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        # The server logs that the response is incomplete.
        connection.close(SLOW)
        # It would also wait until the client has taken all that is unsent, which may be never.
        abort()


async def until_gone(receive: Receive) -> None:
    """Wait until the client of a request is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
