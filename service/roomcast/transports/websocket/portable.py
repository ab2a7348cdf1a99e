"""WebSocket by plain ASGI, for any server but ours: the same contract, at the price of a task per connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.websockets import WebSocketDisconnect

from roomcast.model.errors import SLOW, Disconnect
from roomcast.model.publications import Kind
from roomcast.tasks import run_together
from roomcast.transports.websocket import frames
from roomcast.transports.write_buffer import PendingWrites

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from roomcast.connections.connection import Connection
    from roomcast.transports.heartbeat import Heartbeat

_WRITE_TIMEOUT_S = 10.0


class PortableWebSocket(PendingWrites):
    """The `Transport` of a WebSocket that the ASGI server frames itself; what is written here is taken apart again."""

    name = "websocket"

    def __init__(self, socket: WebSocket) -> None:
        super().__init__()
        self._socket = socket
        self._disconnect: Disconnect | None = None
        self._client_code = 1006
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.has_been_heard = True
        self.is_reading = True
        self.heartbeat_slot = 0

    def close(self, disconnect: Disconnect) -> None:
        """See `Transport.close`."""
        if self._disconnect is None:
            self._disconnect = disconnect
            self.end()

    def close_code(self) -> int:
        """See `Transport.close_code`."""
        return self._client_code if self._disconnect is None else self._disconnect.code

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`."""
        self.is_reading = False
        self._may_read.clear()

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`."""
        self.is_reading = self.has_been_heard = True
        self._may_read.set()

    def ping(self) -> None:
        """See `Pinged.ping`."""
        if self.connection is not None and self.connection.await_pong():
            self.has_been_heard = False
            self.write(self.connection.encoding.ping)

    def give_up(self, disconnect: Disconnect) -> None:
        """See `Pinged.give_up`."""
        self.close(disconnect)

    def abort(self, disconnect: Disconnect) -> None:
        """See `Pinged.abort`; the ASGI server sees to the rest."""
        self.close(disconnect)

    def written_while_congested_bytes(self) -> int:
        """See `Pinged.written_while_congested_bytes`; here each write has its deadline."""
        return 0

    async def run(self, connection: Connection, heartbeat: Heartbeat) -> None:
        """Carry messages both ways until either side has ended.

        The ASGI server pings by itself; the heartbeat does where the protocol has a ping of its own.
        """
        self.connection = connection
        if connection.encoding.ping:
            self.heartbeat_slot = heartbeat.add(self)
        try:
            await run_together(read=self._read(connection), write=self._write())
        finally:
            if connection.encoding.ping:
                heartbeat.remove(self)

    async def _read(self, connection: Connection) -> None:
        while True:
            await self._may_read.wait()
            message = await self._socket.receive()
            self.has_been_heard = True
            if message["type"] == "websocket.disconnect":
                self._client_code = message.get("code") or 1005
                return
            text = message.get("text")
            if text is None:
                connection.receiver.on_message(connection, Kind.BINARY, message["bytes"])
            else:
                connection.receiver.on_message(connection, Kind.TEXT, text.encode())

    async def _write(self) -> None:
        try:
            while data := await self.take():
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    for opcode, payload in frames.split(data):
                        if opcode == frames.TEXT:
                            await self._socket.send_text(payload.decode())
                        else:
                            await self._socket.send_bytes(payload)
        except TimeoutError:
            self._disconnect = SLOW  # a close frame would only wait behind the rest
            return
        except WebSocketDisconnect:
            return
        if self._disconnect is not None:
            await self._socket.close(self._disconnect.code, self._disconnect.reason)
