"""Responses that stream until the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from roomcast.connections.connection import Connection
from roomcast.model.errors import SLOW
from roomcast.tasks import run_together
from roomcast.transports.http_protocol import ABORT

# A stream is closed if its client reads nothing for this long; less than the shutdown timeout of a node (10 s).
_WRITE_TIMEOUT_S = 8.0
# no-transform: a proxy that compresses (Express' compression) would keep the stream until its buffer is full.
# X-Accel-Buffering: nginx would delay the stream to fill its buffer.
STREAM_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


async def pump(
    connection: Connection, read: Callable[[], Awaitable[bytes]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the chunks of `read` until either side ends. A client that reads nothing for 8 s is closed (3008)."""
    abort = scope.get("extensions", {}).get(ABORT, lambda: None)  # any other server closes the connection by itself
    await run_together(gone=until_gone(receive), pump=_pump(connection, read, send, abort))


async def _pump(
    connection: Connection, read: Callable[[], Awaitable[bytes]], send: Send, abort: Callable[[], None]
) -> None:
    try:
        while chunk := await read():
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        # The server logs that the response is incomplete.
        connection.close(SLOW)
        # It would also wait until the client has read all unsent bytes, maybe for ever.
        abort()


async def until_gone(receive: Receive) -> None:
    """Wait until the client of a request disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
