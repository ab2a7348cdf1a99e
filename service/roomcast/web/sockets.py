"""Serving one client: transport, encoding and receiver become a connection, from its handshake to its end."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.transports.websocket import asgi
from roomcast.transports.websocket.portable import PortableWebSocket
from roomcast.web.origins import allowed_origins, check_origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import HTTPConnection
    from starlette.websockets import WebSocket

    from roomcast.config import Settings
    from roomcast.connections.connection import Receiver
    from roomcast.connections.transport import Transport
    from roomcast.node.node import Node
    from roomcast.transports.heartbeat import Heartbeat


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
                detached.data_received(protocol.drain_early())
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
