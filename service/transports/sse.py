"""Server-sent events, for where WebSockets do not get through: the same streams, one way."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import orjson

from service.messages import Kind

if TYPE_CHECKING:
    from service.errors import Disconnect

_HEARTBEAT = b": ping\n\n"
_GOING_AWAY = 1001


def event(kind: Kind, payload: bytes) -> bytes:
    """Return one event (HTML Standard 9.2.5): text as it is, binary as base64 in an event named `binary`."""
    if kind is Kind.BINARY:
        return b"event: binary\ndata: " + base64.b64encode(payload) + b"\n\n"
    if b"\n" not in payload and b"\r" not in payload:
        return b"data: " + payload + b"\n\n"
    # Every line end of the format becomes a new data line; the browser joins them with \n.
    lines = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


class EventStream:
    """The `Transport` of one event stream: what is written waits here until the response takes it.

    Args:
        ping_interval_s: a comment is sent after this much silence, so that proxies keep the stream open.
    """

    name = "sse"

    def __init__(self, *, ping_interval_s: float) -> None:
        self._ping_interval_s = ping_interval_s
        self._chunks: list[bytes] = []
        self._unsent_bytes = 0
        self._changed = asyncio.Event()
        self._is_closing = False
        self._close_code = _GOING_AWAY

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        if self._is_closing:
            return
        self._chunks.append(data)
        self._unsent_bytes += len(data)
        self._changed.set()

    def unsent_bytes(self) -> int:
        """See `Transport.unsent_bytes`; what the response has under way counts until it is taken."""
        return self._unsent_bytes

    def close(self, disconnect: Disconnect) -> None:
        """Say the code and reason in a last event named `disconnect`, then end the stream."""
        reason = orjson.dumps({"code": disconnect.code, "reason": disconnect.reason})
        self.write(b"event: disconnect\ndata: " + reason + b"\n\n")
        self._close_code = disconnect.code
        self.end()

    def close_code(self) -> int:
        """See `Transport.close_code`; a stream has no close frame, so a client that goes is always 1001."""
        return self._close_code

    def end(self) -> None:
        """Take nothing more; `read` returns what is left, then the end."""
        self._is_closing = True
        self._changed.set()

    async def read(self) -> bytes:
        """Return all that was written since the last call, as soon as there is something; empty at the end.

        After `ping_interval_s` of silence: a comment. Calling again says that the previous bytes were taken.
        """
        self._unsent_bytes = sum(map(len, self._chunks))
        if not self._chunks and not self._is_closing:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._ping_interval_s):
                    await self._changed.wait()
            except TimeoutError:
                return _HEARTBEAT
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)
