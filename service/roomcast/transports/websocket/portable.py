"""WebSocket by plain ASGI: for an application that embeds the nodes under another server than `roomcast node`.

The contract is that of `asgi.py`. It costs a task for each connection, and frames are split again, because the server
frames messages itself. The application calls `Node.drain` before its server stops, so that clients receive 3001.
tests/contract/test_portable.py runs the nodes under hypercorn.
"""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect
from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.model.errors import SLOW
from roomcast.model.publications import Kind
from roomcast.tasks import run_together
from roomcast.transports.heartbeat import Heartbeat
from roomcast.transports.websocket import frames
from roomcast.transports.write_buffer import PingedBuffer

_WRITE_TIMEOUT_S = 10.0


class PortableWebSocket(PingedBuffer):
    """The `Transport` of a WebSocket under any ASGI server."""

    name = "websocket"
    _lost_code = 1006

    def __init__(self, socket: WebSocket) -> None:
        super().__init__()
        self._socket = socket
        self._may_read = asyncio.Event()
        self._may_read.set()

    @override
    def pause_reading(self) -> None:
        self.is_reading = False
        self._may_read.clear()

    @override
    def resume_reading(self) -> None:
        self.is_reading = self.has_answered = True
        self._may_read.set()

    async def run(self, connection: Connection, heartbeat: Heartbeat) -> None:
        """Carry messages both ways until either side ends.

        The ASGI server sends WebSocket pings; the heartbeat sends those of a protocol that has its own.
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
            self.has_answered = True
            if message["type"] == "websocket.disconnect":
                self._lost_code = message.get("code") or 1005
                return
            text = message.get("text")
            if text is None:
                connection.receiver.on_message(connection, Kind.BINARY, message["bytes"])
            else:
                connection.receiver.on_message(connection, Kind.TEXT, text.encode())

    async def _write(self) -> None:
        try:
            while data := await self.drain():
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
