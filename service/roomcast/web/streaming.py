"""Responses that stream until the client is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from roomcast.connections.connection import Connection
from roomcast.model.errors import SLOW
from roomcast.tasks import run_together
from roomcast.transports.http_protocol import ABORT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send


# A stream whose client takes nothing for this long is given up; less than a node that ends waits for (10 s).
_WRITE_TIMEOUT_S = 8.0


# X-Accel-Buffering: nginx would hold what is streamed back to fill its buffer.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def pump(
    connection: Connection, read: Callable[[], Awaitable[bytes]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Carry what `read` returns to the client of a response that has started, until one of them ends.

    A client that takes nothing for 8 s is slow (3008).
    """
    abort = scope.get("extensions", {}).get(ABORT, _leave_to_server)
    await run_together(gone=until_gone(receive), pump=_pump(connection, read, send, abort))


def _leave_to_server() -> None:
    """Any other server ends the connection by itself."""


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
        # It would also wait until the client has taken all that is unsent, which may be never.
        abort()


async def until_gone(receive: Receive) -> None:
    """Wait until the client of a request is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
