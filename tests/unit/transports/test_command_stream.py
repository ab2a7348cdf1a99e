"""The response that carries replies and pushes where there is no WebSocket."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from roomcast.connections.connection import Connection
from roomcast.model.errors import NO_PONG, SHUTDOWN, SLOW, Disconnect
from roomcast.model.namespaces import SlowPolicy
from roomcast.rooms.receivers import Feed
from roomcast.transports.command_stream import CommandStream
from tests.support.fakes import RAW

pytestmark = pytest.mark.anyio


def goodbye(disconnect: Disconnect) -> bytes:
    return b"bye %d %b;" % (disconnect.code, disconnect.reason.encode())


def stream(*, max_unsent_bytes: int = 1_000_000, is_open: bool = True) -> tuple[CommandStream, Connection]:
    made = CommandStream("http_stream", goodbye)
    made.connection = Connection(1, made, replace(RAW, ping=b"?;"), Feed(), max_unsent_bytes=max_unsent_bytes)
    if is_open:
        made.connection.open()
    return made, made.connection


async def test_what_is_written_is_taken_together_and_the_end_is_empty() -> None:
    transport, connection = stream()

    connection.send(b"1;")
    connection.send(b"2;")
    assert await transport.drain() == b"1;2;"
    connection.close(SHUTDOWN)

    assert await transport.drain() == b"bye 3001 shutdown;"
    assert await transport.drain() == b""
    assert transport.close_code() == 3001


async def test_a_disconnect_is_the_last_thing_said_and_said_once() -> None:
    transport, connection = stream()

    connection.send(b"1;")
    transport.close(SHUTDOWN)
    transport.close(SLOW)
    transport.write(b"late;")

    assert await transport.drain() == b"1;bye 3001 shutdown;"
    assert await transport.drain() == b""
    assert transport.close_code() == 3001


async def test_whoever_waits_for_bytes_gets_them_as_they_come() -> None:
    transport, _ = stream()

    taking = asyncio.create_task(transport.drain())
    await asyncio.sleep(0)
    assert not taking.done()
    transport.write(b"1;")

    assert await taking == b"1;"


async def test_a_ping_is_written_and_its_pong_awaited() -> None:
    transport, connection = stream()
    assert (transport.has_answered, connection.awaited_pongs) == (True, 0)

    transport.ping()

    assert (transport.has_answered, connection.awaited_pongs) == (False, 1)
    assert await transport.drain() == b"?;"


async def test_a_client_that_has_not_connected_is_not_pinged() -> None:
    """Its library would not answer, and it would be given up while the application is asked about it."""
    transport, _ = stream(is_open=False)

    transport.ping()
    transport.write(b"1;")

    assert transport.has_answered
    assert await transport.drain() == b"1;"


@pytest.mark.parametrize("way", ["give_up", "abort"])
async def test_a_client_that_seems_dead_is_told_why_in_case_it_is_not(way: str) -> None:
    transport, _ = stream()

    (transport.give_up if way == "give_up" else transport.abort)(NO_PONG)

    assert await transport.drain() == b"bye 3012 no pong;"
    assert transport.close_code() == 3012


async def test_a_client_that_goes_without_a_word_is_1001() -> None:
    transport, _ = stream()

    assert transport.close_code() == 1001


async def test_a_client_that_takes_nothing_is_congested_until_it_does_then_slow() -> None:
    transport, connection = stream(max_unsent_bytes=100_000)

    connection.send(b"x" * 65_537)
    assert (connection.is_congested, transport.unsent_bytes()) == (True, 65_537)
    await transport.drain()
    transport.write(b"y")
    await transport.drain()
    assert (connection.is_congested, transport.unsent_bytes()) == (False, 1)
    connection.send(b"x" * 65_537)
    connection.send(b"x" * 65_537)

    assert transport.close_code() == SLOW.code
    assert (await transport.drain()).endswith(b"bye 3008 slow;")


async def test_a_congested_client_of_a_channel_that_drops_gets_the_newest_when_it_takes_again() -> None:
    transport, connection = stream(max_unsent_bytes=100_000)
    connection.send(b"x" * 65_537)

    for number in range(3):
        connection.send_congested("metrics:a", [b"%d;" % number], SlowPolicy.LATEST)
    await transport.drain()

    assert await transport.drain() == b"2;"


async def test_reading_cannot_be_paused_and_says_so_by_reading_on() -> None:
    transport, _ = stream()

    transport.pause_reading()
    assert transport.is_reading, "the heartbeat goes on to ask for pongs: requests come all the same"
    transport.resume_reading()

    assert transport.is_reading
    assert transport.written_while_congested_bytes() == 0
