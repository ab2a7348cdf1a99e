"""A link between a node and Redis that carries only so many bytes a second."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from tests.chaos.proxy import Proxy

# So much of a second's bytes is passed at once.
_PART = 0.02


class SlowLink(Proxy):
    """Passes `bytes_per_s`, on all connections and in both directions together, in turns; None: as fast as it can.

    passed_bytes: since the start.
    """

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.bytes_per_s: int | None = None
        self.passed_bytes = 0
        self._turn = asyncio.Lock()

    @override
    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The sender notices that it is too fast, as its kernel's buffers are full.
        while chunk := await reader.read(int(_PART * self.bytes_per_s) if self.bytes_per_s else 1 << 16):
            await self._is_whole.wait()
            async with self._turn:
                if self.bytes_per_s:
                    await asyncio.sleep(len(chunk) / self.bytes_per_s)
            self.passed_bytes += len(chunk)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError
