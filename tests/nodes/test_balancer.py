"""The balancer of `roomcast dev`, before nodes that are plain servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from roomcast.cli.balancer import Balancer, close
from tests.support.processes import DEADLINE_S, eventually

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MIB = 1 << 20


@asynccontextmanager
async def node(handler: Handler) -> AsyncIterator[int]:
    """A server on a free port; it waits for its connections to end."""
    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.append(task)
        with suppress(OSError):
            await handler(reader, writer)
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*connections)


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[tuple[Balancer, int]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    running = Balancer([("127.0.0.1", port) for port in ports])
    await running.start(listener)
    try:
        yield running, listener.getsockname()[1]
    finally:
        await running.close()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Stream]:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            await close(writer)


def naming(name: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)

    return handle


async def answer(port: int) -> bytes:
    async with client(port) as (reader, _):
        return await reader.read()


def refusing_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def test_new_connections_go_to_the_nodes_in_turn() -> None:
    async with node(naming(b"a")) as a, node(naming(b"b")) as b, balancer(a, b) as (_, port):
        assert [await answer(port) for _ in range(4)] == [b"a", b"b", b"a", b"b"]


async def test_a_node_that_refuses_connections_is_skipped() -> None:
    async with node(naming(b"a")) as a, balancer(refusing_port(), a) as (_, port):
        assert [await answer(port) for _ in range(3)] == [b"a", b"a", b"a"]


async def test_without_a_node_the_connection_is_closed() -> None:
    async with balancer(refusing_port(), refusing_port()) as (_, port):
        assert await answer(port) == b""


async def test_a_client_that_has_sent_its_last_byte_still_receives_the_answer() -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()  # ends with the client's half-close
        writer.write(str(len(received)).encode())

    async with node(count) as a, balancer(a) as (_, port), client(port) as (reader, writer):
        writer.write(bytes(3 * MIB))
        writer.write_eof()
        assert await reader.read() == str(3 * MIB).encode()


@pytest.mark.parametrize("is_abort", [True, False])
async def test_when_a_node_s_connection_ends_the_client_s_is_closed(is_abort: bool) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        if is_abort:
            writer.transport.abort()

    async with node(leave) as a, balancer(a) as (running, port), client(port) as (reader, writer):
        writer.write(b"hi")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await eventually(lambda: is_idle(running))


@pytest.mark.parametrize("is_abort", [True, False])
async def test_when_a_client_s_connection_ends_the_node_s_is_closed(is_abort: bool) -> None:
    has_ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                writer.write(data)
        finally:
            has_ended.set()

    async with node(echo) as a, balancer(a) as (running, port), client(port) as (reader, writer):
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"
        if is_abort:
            writer.transport.abort()
        else:
            writer.close()
        await has_ended.wait()
        await eventually(lambda: is_idle(running))


async def test_a_client_that_does_not_read_stops_the_node_and_loses_nothing() -> None:
    total, sent = 64 * MIB, 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        chunk = bytes(MIB // 16)
        while sent < total:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)

    async def has_sent_most() -> bool:
        return sent > total / 2

    async with node(flood) as a, balancer(a) as (_, port), client(port) as (reader, _):
        # The kernel buffers some MiB for each of the two connections, the balancer some 100 KiB.
        with pytest.raises(AssertionError):
            await eventually(has_sent_most, within_s=1.0)
        assert len(await reader.readexactly(total)) == total
        assert await reader.read() == b""


async def test_closing_it_closes_its_connections_and_refuses_new_ones() -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        await writer.drain()
        assert await reader.read() == b""

    async with node(wait) as a, balancer(a) as (running, port), client(port) as (reader, _):
        assert await reader.readexactly(2) == b"hi"
        running.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await running.close()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""


async def is_idle(running: Balancer) -> bool:
    return not running._connections
