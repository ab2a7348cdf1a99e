"""Server-sent events, for networks that block WebSockets: the same publications, one way."""

from __future__ import annotations

import base64
import random
import re

import orjson
from typing_extensions import override

from roomcast.model.errors import Disconnect
from roomcast.model.positions import Position
from roomcast.model.publications import Kind
from roomcast.transports.write_buffer import WriteBuffer

# The id of the last event of a stream that the server has ended for good.
END = "end"
LAST_ID = b"id: end\n"
# Browsers wait 3 s before they reconnect: all clients of a node that ends would reconnect in the same moment.
_RETRY_MS = (1000, 5000)
# The id of a client that has no position: only the stream's key follows it. NO_POSITION: as an event of its own.
NO_ID = b"id: :\n"
NO_POSITION = NO_ID + b"\n"
# With a line end in front, which `re` finds quickly.
_ID = re.compile(rb"\nid: (?!end\n)[^\n]*")


def retry() -> bytes:
    """Return the first line of a stream: how long its client waits before it reconnects, a random time."""
    return b"retry: %d\n" % random.randint(*_RETRY_MS)  # noqa: S311  (no secret)


def goodbye(disconnect: Disconnect) -> bytes:
    """Return a last event, named `disconnect`, with the code and reason.

    Browsers reconnect after any end. The id of the event says that the server has ended the stream for good: the
    answer is then 204, after which they do not reconnect (HTML Standard 9.2.1).
    """
    reason = orjson.dumps({"code": disconnect.code, "reason": disconnect.reason})
    return (LAST_ID if disconnect.is_final else b"") + b"event: disconnect\ndata: " + reason + b"\n\n"


def event(kind: Kind, payload: bytes) -> bytes:
    """Return one event (HTML Standard 9.2.5): text as it is, binary as base64 in an event named `binary`."""
    if kind is Kind.BINARY:
        return b"event: binary\ndata: " + base64.b64encode(payload) + b"\n\n"
    if b"\n" not in payload and b"\r" not in payload:
        return b"data: " + payload + b"\n\n"
    # Every line end of the format becomes a new data line; the browser joins them with \n.
    lines = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def event_id(position: Position | None) -> bytes:
    """Return the line that makes a position the event's id, which browsers send when they reconnect."""
    return b"" if position is None else b"id: %b:%d\n" % (position.epoch.encode(), position.offset)


def missed(count: int) -> bytes:
    """Return the event that says how many publications a slow client missed."""
    return b"event: missed\ndata: %d\n\n" % count


class EventStream(WriteBuffer):
    """The `Transport` of one event stream, whose response drains it.

    Args:
        ping_interval_s: a comment is sent after this much silence, so that proxies keep the stream open.
        key: is part of each event's id, so that the client sends it when it reconnects.
    """

    name = "sse"

    def __init__(self, *, ping_interval_s: float, key: str = "") -> None:
        super().__init__()
        self._ping_interval_s = ping_interval_s
        self._with_key = rb"\g<0>:" + key.encode() if key else b""

    @override
    def goodbye(self, disconnect: Disconnect) -> bytes:
        return goodbye(disconnect)

    async def read(self) -> bytes:
        """Return the next bytes, or a comment after `ping_interval_s` of silence."""
        try:
            found = await self.drain(within_s=self._ping_interval_s)
        except TimeoutError:
            return b": ping\n\n"
        # Here and not in the encoding, which all subscribers share.
        return _ID.sub(self._with_key, b"\n" + found)[1:] if self._with_key else found
