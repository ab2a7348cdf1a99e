"""A balancer for tests, without sticky sessions: of each path the requests go to the next node in turn."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from roomcast.cli.balancer import close, connect_first, in_turn, relay

_DEADLINE_S = 10.0
_CONNECTION_HEADERS = re.compile(rb"^(connection|keep-alive):[^\n]*\n", re.IGNORECASE | re.MULTILINE)


class Request(NamedTuple):
    """A request. port: of the node that received it; 0: the balancer answered by itself."""

    port: int
    method: str
    path: str


class Balancer:
    """Listens on a free port of 127.0.0.1, in a thread of its own, until the block ends.

    Every request is the only one of its connection (`Connection: close` in both directions), so a browser's pool cannot
    keep a client on one node. Otherwise it is the balancer of `roomcast dev`: the same turns, the same relay.

    ports: of the nodes, in the order of their turns; those that refuse connections are passed over. May be assigned.
    requests: each request so far.
    pages: that the balancer serves by itself: content type and body by path.
    """

    def __init__(self, ports: Sequence[int] = ()) -> None:
        self.ports = list(ports)
        self.requests: list[Request] = []
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.port = 0
        # By path: else a pong of another client, sent by `/emulation`, would take a turn.
        self._turns: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(_DEADLINE_S)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    def url(self, path: str, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def ports_of(self, path: str, since: int = 0) -> list[int]:
        """Return which nodes got the requests for a path, in their order.

        Neither the first `since` requests count, nor those by which browsers ask whether they may ask.
        """
        return [
            request.port
            for request in self.requests[since:]
            if request.path.partition("?")[0] == path and request.method != "OPTIONS"
        ]

    async def _end(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # Clients may disconnect at any moment, and all are disconnected at the end of the block.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._route(reader, writer)
        finally:
            self._connections.discard(task)
            await close(writer)

    async def _route(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if path in self.pages:
            self.requests.append(Request(0, method, path))
            content_type, body = self.pages[path]
            fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body)
            await writer.drain()
            return
        port, node_reader, node_writer = await self._next_node(path.partition("?")[0])
        self.requests.append(Request(port, method, path))
        if b"\r\nupgrade:" not in head.lower():
            head = _CONNECTION_HEADERS.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n"
        node_writer.write(head)
        await relay((reader, writer), (node_reader, node_writer))

    async def _next_node(self, path: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises: ConnectionRefusedError if no node lives."""
        nodes = [("127.0.0.1", port) for port in self.ports]
        node = await connect_first(in_turn(nodes, next(self._turns[path])))
        if node is None:
            raise ConnectionRefusedError
        reader, writer = node
        port: int = writer.get_extra_info("peername")[1]
        return port, reader, writer
