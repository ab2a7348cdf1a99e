"""Serving one client: a connection of transport, encoding and receiver, from its handshake to its end."""

from __future__ import annotations

import itertools

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from roomcast.config import Settings
from roomcast.connections.connection import Connection, Receiver
from roomcast.connections.encoding import Encoding
from roomcast.connections.transport import Transport
from roomcast.model.errors import Disconnect
from roomcast.node.connected import Connected
from roomcast.node.node import Node
from roomcast.transports.heartbeat import Heartbeat
from roomcast.transports.websocket import uvicorn_protocol
from roomcast.transports.websocket.portable import PortableWebSocket
from roomcast.web.origins import allowed_origins, check_origin


class ClientServer:
    """Makes and serves connections of this node."""

    def __init__(self, node: Node, heartbeat: Heartbeat, settings: Settings) -> None:
        self.node = node
        self.settings = settings
        self.heartbeat = heartbeat
        self._allowed_origins = allowed_origins(settings)
        self._ids = itertools.count(1)

    async def serve(
        self, socket: WebSocket, connection: Connection, *, subprotocol: str | None = None, is_open: bool = True
    ) -> None:
        """As `accept`, if nothing is needed before it. Raises: ClientError 103 for a page that may not connect."""
        with self.node.connected(connection) as connected:
            self.check_origin(socket)
            await self.accept(socket, connected, subprotocol=subprotocol, is_open=is_open)

    async def accept(
        self,
        socket: WebSocket,
        connected: Connected,
        *,
        subprotocol: str | None = None,
        is_open: bool = True,
        disconnect: Disconnect | None = None,
    ) -> None:
        """Accept the handshake: a client that was subscribed before receives everything from then on.

        On our own server this returns at once: the connection is detached and needs no task. On any other server it
        returns when the client has left.
        Args:
            connected: a connection on the transport of `websocket_of`.
            is_open: the connection is open once the handshake is accepted; False: its receiver opens it.
            disconnect: not None: it is closed instead. A browser sees a close code, but no status of a handshake.
        """
        connection = connected.connection
        connection.address = address_of(socket)
        await socket.accept(subprotocol)
        protocol = uvicorn_protocol.transport_of(socket.scope)
        if protocol is not None:
            connection.transport = detached = protocol.detach(connection, self.heartbeat, self.node.leave)
            connected.detach()
            _begin(connection, is_open=is_open, disconnect=disconnect)
            detached.data_received(protocol.drain_early())
        elif isinstance(connection.transport, PortableWebSocket):
            connection.transport.connection = connection  # before it opens, which may congest it
            _begin(connection, is_open=is_open, disconnect=disconnect)
            await connection.transport.run(connection, self.heartbeat)

    def check_origin(self, connection: HTTPConnection) -> None:
        """Return if a page may connect. Raises: ClientError 103."""
        check_origin(connection, self._allowed_origins)

    def connection(
        self, transport: Transport, encoding: Encoding, receiver: Receiver, *, user: str = "", info: bytes = b""
    ) -> Connection:
        """Return a new connection, not yet added to the node."""
        max_unsent_bytes = self.settings.max_unsent_bytes
        return Connection(
            next(self._ids), transport, encoding, receiver, max_unsent_bytes=max_unsent_bytes, user=user, info=info
        )


def address_of(connection: HTTPConnection) -> str:
    """Return the address of a client: the peer, or what a proxy says that uvicorn trusts (FORWARDED_ALLOW_IPS)."""
    return "" if connection.client is None else connection.client.host


def _begin(connection: Connection, *, is_open: bool, disconnect: Disconnect | None) -> None:
    if disconnect is not None:
        connection.close(disconnect)
    elif is_open:
        connection.open()


def websocket_of(socket: WebSocket) -> tuple[Transport, bool]:
    """Return the transport of a handshake, and whether messages on it may be compressed."""
    protocol = uvicorn_protocol.transport_of(socket.scope)
    return (PortableWebSocket(socket), False) if protocol is None else (protocol, protocol.is_compressed)
