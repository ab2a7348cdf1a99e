"""A write buffer that a task drains: the part that transports on plain ASGI share."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.connections.transport import HIGH_WATER_BYTES, LOW_WATER_BYTES, Transport
from roomcast.model.errors import Disconnect
from roomcast.transports.heartbeat import Pinged


class WriteBuffer(Transport):
    """A `Transport` that a task drains. Its owner sets `connection`, which is notified of congestion."""

    _lost_code = 1001  # the close code of a client that disconnects: it sends none

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._chunks: list[bytes] = []
        self._unsent_bytes = 0
        self._changed = asyncio.Event()
        self._is_congested = False
        self._disconnect: Disconnect | None = None

    @override
    def write(self, data: bytes) -> None:
        if self._disconnect is not None:
            return
        self._chunks.append(data)
        self._unsent_bytes += len(data)
        self._changed.set()
        if self._unsent_bytes > HIGH_WATER_BYTES and not self._is_congested and self.connection is not None:
            self._is_congested = True
            self.connection.on_congested()

    @override
    def unsent_bytes(self) -> int:
        """Return the bytes in the buffer, and those of the last `drain` until the next one."""
        return self._unsent_bytes

    @override
    def pause_reading(self) -> None:
        """Do nothing: a stream is not read, and the requests with its commands have a limit of their own."""

    @override
    def resume_reading(self) -> None: ...

    @override
    def close(self, disconnect: Disconnect) -> None:
        """Accept no more writes; `drain` returns the rest, with the goodbye, then the end."""
        if self._disconnect is None:
            self.write(self.goodbye(disconnect))
            self._disconnect = disconnect
            self._changed.set()

    @override
    def close_code(self) -> int:
        return self._lost_code if self._disconnect is None else self._disconnect.code

    def goodbye(self, disconnect: Disconnect) -> bytes:  # noqa: ARG002  (of those that have one)
        """Return the last bytes for the client."""
        return b""

    async def drain(self, *, within_s: float | None = None) -> bytes:
        """Return all that was written since the last call, as soon as there is something; empty at the end.

        Calling again says that the previous bytes are sent.
        Raises: TimeoutError if nothing was written `within_s`.
        """
        self._unsent_bytes = sum(map(len, self._chunks))
        if self._is_congested and self._unsent_bytes <= LOW_WATER_BYTES and self.connection is not None:
            self._is_congested = False
            self.connection.on_drained()
        if not self._chunks and self._disconnect is None:
            self._changed.clear()
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


class PingedBuffer(WriteBuffer, Pinged):
    """A write buffer that the heartbeat pings. Plain ASGI has no abort; its tasks have a deadline for each write."""

    def __init__(self) -> None:
        super().__init__()
        self.has_answered = True
        self.is_reading = True
        self.heartbeat_slot = 0

    @override
    def ping(self) -> None:
        if self.connection is not None and self.connection.await_pong():
            self.has_answered = False
            self.write(self.connection.encoding.ping)

    @override
    def give_up(self, disconnect: Disconnect) -> None:
        self.close(disconnect)

    @override
    def abort(self, disconnect: Disconnect) -> None:
        self.close(disconnect)

    @override
    def written_while_congested_bytes(self) -> int:
        return 0
