"""A small TCP balancer: each new connection goes to the next node that accepts it. `roomcast dev` runs it."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

from roomcast.tasks import end

Address = tuple[str, int]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 2.0
# After one side has closed: how long the other side may take to accept the last bytes and to close as well.
_CLOSE_TIMEOUT_S = 5.0


class Balancer:
    """Accepts connections and relays each to a node, round robin, without sticky sessions.

    When the connection to a node breaks, the client's connection is closed. The client reconnects, to another node.

    nodes: their addresses; a node that does not accept a connection is skipped.
    """

    def __init__(self, nodes: Sequence[Address]) -> None:
        self._nodes = nodes
        self._turns = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a bound socket. Raises: OSError if another process listens on its port by now."""
        self._server = await asyncio.start_server(self._serve, sock=listener)

    def stop_accepting(self) -> None:
        """Refuse new connections; those that exist stay."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Refuse new connections and close those that exist."""
        self.stop_accepting()
        await end(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (for the type checker)
        self._connections.add(task)
        try:
            node = await connect_first(in_turn(self._nodes, next(self._turns)))
            if node is not None:
                await relay((reader, writer), node)
        except asyncio.CancelledError:
            pass  # not raised: asyncio.start_server would log it
        finally:
            self._connections.discard(task)
            writer.close()


def in_turn(nodes: Sequence[Address], turn: int) -> list[Address]:
    """Return the nodes in the order in which a connection tries them, beginning with the one whose turn it is."""
    first = turn % max(len(nodes), 1)
    return [*nodes[first:], *nodes[:first]]


async def connect_first(nodes: Iterable[Address]) -> Stream | None:
    """Connect to the first node that accepts a connection. Returns: None if none does."""
    for host, port in nodes:
        with suppress(OSError):
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(host, port)
    return None


async def relay(client: Stream, node: Stream) -> None:
    """Copy bytes both ways until both sides have closed or one connection breaks, then close both.

    A half-close is passed on: a client that has sent its last byte still receives the node's answer. A node that has
    sent its last byte is gone or about to go, so the client has `_CLOSE_TIMEOUT_S` to close as well.
    """
    request = asyncio.create_task(_copy(client[0], node[1]))
    response = asyncio.create_task(_copy(node[0], client[1]))
    try:
        await asyncio.wait({request, response}, return_when=asyncio.FIRST_COMPLETED)
        if not response.done() and request.exception() is None:
            await asyncio.wait({response})
        elif not request.done() and response.exception() is None:
            await asyncio.wait({request}, timeout=_CLOSE_TIMEOUT_S)
        await end(request, response)
        await close(client[1], node[1])
    except asyncio.CancelledError:
        await end(request, response)
        raise
    finally:
        client[1].transport.abort()
        node[1].transport.abort()


async def close(*writers: asyncio.StreamWriter) -> None:
    """Close connections; bytes that a peer does not accept within `_CLOSE_TIMEOUT_S` are dropped."""
    for writer in writers:
        writer.close()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            for writer in writers:
                with suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        for writer in writers:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end, then close the writing side. Raises: OSError if one of the connections breaks.

    While the writer's peer does not read, nothing is read here, so each direction buffers three chunks at most.
    """
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
