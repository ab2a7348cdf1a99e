"""A hub connection's WebSocket after the handshake, with as little memory as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.model.errors import SHUTDOWN, Disconnect
from roomcast.model.publications import Kind
from roomcast.transports.heartbeat import Heartbeat, Pinged
from roomcast.transports.websocket import frames
from roomcast.transports.websocket.framed_socket import FramedSocket

# How long a client may take to answer the close frame of a node that shuts down.
_SHUTDOWN_TIMEOUT_S = 3.0
# And of one that has not answered a ping.
_GIVE_UP_TIMEOUT_S = 1.0


class DetachedWebSocket(FramedSocket, Pinged):
    """A hub connection's transport and protocol: 300 bytes, no task, no timer, no queue of its own.

    `heartbeat` handles its pings and deadlines; `on_gone` is called once when it has ended.
    """

    __slots__ = ("_connection", "_heartbeat", "_on_gone", "_open_sockets", "has_answered", "heartbeat_slot")

    def __init__(
        self,
        transport: asyncio.Transport,
        parser: frames.FrameParser,
        connection: Connection,
        heartbeat: Heartbeat,
        on_gone: Callable[[Connection], None],
        *,
        open_sockets: set[Any],  # Any: uvicorn's, of all its protocol classes
        max_message_bytes: int,
    ) -> None:
        self._transport = transport
        self._parser = parser
        self._close_code = None
        self._unread = b""
        self._max_message_bytes = max_message_bytes
        self._connection = connection
        self._heartbeat = heartbeat
        self._on_gone = on_gone
        self._open_sockets = open_sockets
        self.has_answered = True
        self.is_reading = True
        self.heartbeat_slot = heartbeat.add(self)
        open_sockets.add(self)

    def data_received(self, data: bytes) -> None:
        """Note that the client is alive, and handle its messages."""
        self.has_answered = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Notify the owner, once."""
        self._open_sockets.discard(self)
        self._heartbeat.remove(self)
        self._on_gone(self._connection)

    @override
    def resume_reading(self) -> None:
        """Read again, as if the client had answered: its answer could not be read."""
        self.has_answered = True
        super().resume_reading()

    def pause_writing(self) -> None:
        """Notify the connection that its client is congested."""
        self._heartbeat.watch_congested(self)
        self._connection.on_congested()

    def resume_writing(self) -> None:
        """Notify the connection that its client has caught up."""
        self._heartbeat.unwatch_congested(self)
        self._connection.on_drained()

    def shutdown(self) -> None:
        """End for uvicorn, which waits; usually the node's drain has sent the close frame before."""
        self.close(SHUTDOWN)
        self._end_within(_SHUTDOWN_TIMEOUT_S)

    @override
    def ping(self) -> None:
        if self._connection.await_pong():
            self.has_answered = False
            self.write(self._connection.encoding.ping or frames.frame(frames.PING, b""))

    @override
    def give_up(self, disconnect: Disconnect) -> None:
        self.close(disconnect)
        self._end_within(_GIVE_UP_TIMEOUT_S)

    @override
    def written_while_congested_bytes(self) -> int:
        return self._connection.written_while_congested_bytes

    def _on_message(self, kind: Kind, payload: bytes) -> None:
        self._connection.receiver.on_message(self._connection, kind, payload)

    def _end_within(self, timeout_s: float) -> None:
        self._heartbeat.abort_after(self, timeout_s)
