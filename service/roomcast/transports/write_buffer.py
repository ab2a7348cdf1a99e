"""A write buffer that a task drains: the part that transports on plain ASGI share."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.connections.transport import HIGH_WATER_BYTES, LOW_WATER_BYTES, Transport
from roomcast.model.errors import Disconnect
from roomcast.transports.heartbeat import Pinged


class WriteBuffer(Transport):
    """The writing side of a `Transport`, for a task that calls `drain`.

    `connection` is set by the owner: it is notified of congestion.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._chunks: list[bytes] = []
        self._unsent_bytes = 0
        self._changed = asyncio.Event()
        self._is_congested = False
        self.is_ending = False

    @override
    def write(self, data: bytes) -> None:
        if self.is_ending:
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

    def end(self) -> None:
        """Accept no more writes; `drain` returns the rest, then the end."""
        self.is_ending = True
        self._changed.set()

    async def drain(self, *, within_s: float | None = None) -> bytes:
        """Return all that was written since the last call, as soon as there is something; empty at the end.

        Calling again says that the previous bytes are sent.
        Raises: TimeoutError if nothing was written `within_s`.
        """
        self._unsent_bytes = sum(map(len, self._chunks))
        if self._is_congested and self._unsent_bytes <= LOW_WATER_BYTES and self.connection is not None:
            self._is_congested = False
            self.connection.on_drained()
        if not self._chunks and not self.is_ending:
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
    def give_up(self, disconnect: Disconnect) -> None:
        self.close(disconnect)

    @override
    def abort(self, disconnect: Disconnect) -> None:
        self.close(disconnect)

    @override
    def written_while_congested_bytes(self) -> int:
        return 0
