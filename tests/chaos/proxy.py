"""A TCP proxy between one node and Redis that can cut the node off: silently, or with a reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self

from roomcast.tasks import end, run_together

_CHUNK_BYTES = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_HOST = "127.0.0.1"


class Proxy:
    """Passes bytes on, from `__aenter__` to `__aexit__`. While it is cut, it accepts connections and passes nothing."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, _HOST, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            await end(connection)
        await self._server.wait_closed()

    def lead_to(self, port: int) -> None:
        """Connect new connections to another server; the open ones stay where they are."""
        self._target_port = port

    def cut(self) -> None:
        """Pass nothing from now on, in neither direction; both sides see a connection that lives."""
        self._is_whole.clear()

    def heal(self) -> None:
        """Forward the waiting bytes, as a network does after an interruption."""
        self._is_whole.set()

    def reset(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._is_whole.wait()
            answers, upstream = await asyncio.open_connection(_HOST, self._target_port)
            await run_together(there=self._pass(reader, upstream), back=self._pass(answers, writer))
        except OSError:
            pass  # one side has gone; the other one is closed below
        finally:
            self._connections.discard(task)
            self._writers.discard(writer)
            _reset(writer)
            if upstream is not None:
                _reset(upstream)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes on until there are no more. Raises: OSError when there are none."""
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._is_whole.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
