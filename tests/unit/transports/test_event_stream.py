from __future__ import annotations

import asyncio

import pytest

from roomcast.model.errors import SHUTDOWN
from roomcast.model.publications import Kind
from roomcast.transports.event_stream import EventStream, event

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        (Kind.TEXT, b"hi", b"data: hi\n\n"),
        (Kind.TEXT, b"", b"data: \n\n"),
        (Kind.TEXT, b"a\nb", b"data: a\ndata: b\n\n"),
        (Kind.TEXT, b"a\r\nb\rc", b"data: a\ndata: b\ndata: c\n\n"),
        (Kind.TEXT, b"x\n\nevent: forged\ndata: y", b"data: x\ndata: \ndata: event: forged\ndata: data: y\n\n"),
        (Kind.BINARY, b"\x00\xff", b"event: binary\ndata: AP8=\n\n"),
    ],
)
async def test_a_payload_is_one_event_whatever_is_in_it(kind: Kind, payload: bytes, expected: bytes) -> None:
    assert event(kind, payload) == expected


async def test_what_was_written_between_two_reads_comes_at_once() -> None:
    stream = EventStream(ping_interval_s=60)
    stream.write(b"1")
    stream.write(b"2")

    assert stream.unsent_bytes() == 2
    assert await stream.read() == b"12"
    assert stream.unsent_bytes() == 2  # under way, not taken yet
    stream.close(SHUTDOWN)
    assert await stream.read()
    assert await stream.read() == b""
    assert stream.unsent_bytes() == 0


async def test_a_reader_that_waits_is_woken() -> None:
    stream = EventStream(ping_interval_s=60)
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.write(b"1")

    assert await reading == b"1"


async def test_silence_is_filled_with_a_comment() -> None:
    stream = EventStream(ping_interval_s=0.001)

    assert await stream.read() == b": ping\n\n"


async def test_the_last_event_says_why_it_ends_and_nothing_comes_after_it() -> None:
    stream = EventStream(ping_interval_s=60)

    stream.close(SHUTDOWN)
    stream.write(b"late")

    assert await stream.read() == b'event: disconnect\ndata: {"code":3001,"reason":"shutdown"}\n\n'
    assert await stream.read() == b""
    assert stream.close_code() == 3001
