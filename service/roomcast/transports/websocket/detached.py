"""A hub connection's WebSocket, after the handshake: as little as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roomcast.model.errors import SHUTDOWN
from roomcast.transports.websocket import frames
from roomcast.transports.websocket.base import FramedSocket

# How long a client may take to answer the goodbye of a node that ends.
_SHUTDOWN_TIMEOUT_S = 3.0
# And one that has not answered a ping.
_GIVE_UP_TIMEOUT_S = 1.0

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from roomcast.connections.connection import Connection
    from roomcast.model.errors import Disconnect
    from roomcast.model.publications import Kind
    from roomcast.transports.heartbeat import Heartbeat


class DetachedWebSocket(FramedSocket):
    """A hub connection's transport and protocol: 300 bytes, no task, no timer, no queue of its own.

    `heartbeat` sees to its pings and deadlines, `on_gone` is called once when it has ended.
    """

    __slots__ = (
        "_connection",
        "_heartbeat",
        "_on_gone",
        "_open_sockets",
        "has_been_heard",
        "heartbeat_slot",
    )

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
        self.has_been_heard = True
        self.is_reading = True
        self.heartbeat_slot = heartbeat.add(self)
        open_sockets.add(self)

    def data_received(self, data: bytes) -> None:
        """Note that the client lives, and act on its messages."""
        self.has_been_heard = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Tell the owner, once."""
        self._open_sockets.discard(self)
        self._heartbeat.remove(self)
        self._on_gone(self._connection)

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`; what was not read said nothing about the client."""
        self.has_been_heard = True
        super().resume_reading()

    def pause_writing(self) -> None:
        """Tell the connection that its client is congested."""
        self._heartbeat.watch_congested(self)
        self._connection.on_congested()

    def resume_writing(self) -> None:
        """Tell the connection that its client has caught up."""
        self._heartbeat.unwatch_congested(self)
        self._connection.on_drained()

    def shutdown(self) -> None:
        """End for uvicorn, which waits; the node's drain has said goodbye before, as a rule."""
        self.close(SHUTDOWN)
        self._end_within(_SHUTDOWN_TIMEOUT_S)

    def ping(self) -> None:
        """Ask whether the client lives; whatever it sends from now on says so."""
        if self._connection.await_pong():
            self.has_been_heard = False
            self.write(self._connection.encoding.ping or frames.frame(frames.PING, b""))

    def give_up(self, disconnect: Disconnect) -> None:
        """See `Pinged.give_up`."""
        self.close(disconnect)
        self._end_within(_GIVE_UP_TIMEOUT_S)

    def written_while_congested_bytes(self) -> int:
        """Return what was written since the client became congested."""
        return self._connection.written_while_congested_bytes

    def _on_message(self, kind: Kind, payload: bytes) -> None:
        self._connection.receiver.on_message(self._connection, kind, payload)

    def _end_within(self, timeout_s: float) -> None:
        self._heartbeat.abort_after(self, timeout_s)
