"""Raw bytes against our WebSocket and HTTP protocols: each ends that connection alone; and compression."""

from __future__ import annotations

import asyncio
import logging
import socket
import zlib
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect

from roomcast.model.publications import Publication
from tests.support.processes import eventually, receive
from tests.support.websocket_frames import masked
from tests.support.websocket_server import LIMIT, converse, handshake, open_socket, serving, until_empty

pytestmark = pytest.mark.anyio


VIOLATIONS = {
    "reserved bit": (masked(0xC1, b"hi"), 1002),
    "unknown opcode": (masked(0x83), 1002),
    "unknown control opcode": (masked(0x8B), 1002),
    "not masked": (b"\x81\x02hi", 1002),
    "control frame over 125 bytes": (masked(0x89, b"x" * 126), 1002),
    "fragmented control frame": (masked(0x09), 1002),
    "continuation of nothing": (masked(0x80), 1002),
    "interleaved messages": (masked(0x01, b"a") + masked(0x81, b"b"), 1002),
    "not UTF-8": (masked(0x81, b"\xff"), 1007),
    "not UTF-8 in the last fragment": (masked(0x01, b"\xc3") + masked(0x80, b"x"), 1007),
    "length of 2^64 - 1": (masked(0x82, length=2**64 - 1), 1009),
    "over the limit in fragments": (masked(0x02, b"x" * LIMIT) + masked(0x80, b"x"), 1009),
    "close code 1005": (masked(0x88, b"\x03\xed"), 1002),
    "close frame of one byte": (masked(0x88, b"\x03"), 1002),
    "close reason not UTF-8": (masked(0x88, b"\x03\xe8\xff"), 1007),
    "garbage": (b"\xff" * 100, 1002),
    "http": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("path", ["/echo", "/asgi"], ids=["detached", "attached"])
@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_a_violation_ends_that_connection_alone_with_its_code(path: str, data: bytes, code: int) -> None:
    async with serving() as server, open_socket(server, "/echo") as bystander:
        answer = await converse(server, handshake(path) + data)

        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest[:1] == b"\x88"
        assert int.from_bytes(rest[2:4], "big") == code
        await bystander.send("still here")
        assert await receive(bystander) == "Message received: still here"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake("/echo", Sec_WebSocket_Key=None), 400),
        (handshake("/echo", Sec_WebSocket_Key="c2hvcnQ="), 400),
        (handshake("/echo", Sec_WebSocket_Key="not base64!"), 400),
        (handshake("/echo", Sec_WebSocket_Version="8"), 426),
        (handshake("/echo", Sec_WebSocket_Version=None), 426),
        (handshake("/echo").replace(b"GET", b"POST", 1), 405),
        (handshake("/echo", Upgrade="h2c"), 404),
        (handshake("/echo", Host=None), 400),
        (handshake("/echo", Content_Length="5") + b"hello", 400),
        (handshake("/echo", Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
        (handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0", 1), 404),
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
async def test_a_bad_handshake_is_answered_with_its_status(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with serving() as server:
        answer = await converse(server, data.replace(b"Host: x", b"Host: x\r\nConnection: close", 1))

        assert b" 101 " not in answer
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert status == 404 or b"\r\nCache-Control: no-store\r\n" in answer
        assert status != 426 or b"\r\nConnection: close, Upgrade\r\n" in answer
        await until_empty(server)


async def test_no_websocket_begins_before_an_earlier_request_is_answered() -> None:
    async with serving() as server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + handshake("/echo"))
        assert b" 101 " not in await reader.read()
        writer.close()
        await until_empty(server)


@pytest.mark.parametrize("target", [b"http://x/asgi", b"http://x:1/asgi?a=1"])
async def test_a_target_may_hold_the_host_and_upgrade_may_stand_in_a_list(target: bytes) -> None:
    async with serving() as server:
        request = (
            handshake("/asgi").replace(b"/asgi", target, 1).replace(b"Upgrade: websocket", b"Upgrade: foo, websocket")
        )
        request = request.replace(b"Connection: Upgrade", b"Connection: Upgrade\r\nConnection: keep-alive")

        answer = await converse(server, request + masked(0x81, b"close"))

        assert b" 101 " in answer
        assert answer.endswith(b"as asked")


@pytest.mark.parametrize("end", [masked(0x88, b"\x03\xe8"), None], ids=["close", "reset"])
async def test_an_endpoint_that_only_sends_ends_with_its_client(end: bytes | None) -> None:
    async with serving() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/pump"))
        await reader.readexactly(100_000)
        if end is None:
            writer.transport.abort()
        else:
            writer.write(end)
            await reader.read()
            writer.close()
        # The server runs in this loop: if the endpoint did not yield, this test would hang.
        async with open_socket(server, "/echo") as client:
            await client.send("x")
            assert await receive(client) == "Message received: x"
        await until_empty(server)


async def test_an_event_stream_that_nobody_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.web.streaming._WRITE_TIMEOUT_S", 0.2)
    async with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /sse/room:a HTTP/1.1\r\nHost: x\r\n\r\n")

            async def is_subscribed() -> bool:
                return bool(len(server.hub.channels()))

            await eventually(is_subscribed)
            while len(server.hub.channels()):
                server.hub.broadcast(Publication("room:a", b"x" * 100_000))
                await asyncio.sleep(0.01)  # not faster than the bound on unsent bytes lets the stream live
            await until_empty(server)

    assert server.node.close_codes == {3008: 1}


async def test_trailers_without_end_are_refused() -> None:
    async with serving() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /http HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        await reader.readuntil(b"}")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"a: b\r\n" * 1000)
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await reader.read()
        writer.close()
        await until_empty(server)


@pytest.mark.parametrize("rest", [b"\r\n", b"x", b"GE"])
async def test_a_byte_behind_an_answered_request_holds_no_socket(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.transports.http_protocol._REQUEST_TIMEOUT_S", 0.2)
    async with serving() as server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        length = b"Content-Length: 10\r\n" if rest == b"x" else b""
        writer.write(b"GET /http HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n")
        await reader.readuntil(b"}")
        writer.write(rest)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_handshake_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.transports.http_protocol._REQUEST_TIMEOUT_S", 0.2)
    async with serving() as server:
        for half in (b"", b"G", handshake("/echo")[:-2], handshake("/echo")[:40]):
            answer = await converse(server, half)

            assert answer.startswith(b"HTTP/1.1 408 ")
        # A second request on the same connection is timed too, and a whole one is not.
        whole = b"GET /http HTTP/1.1\r\nHost: x\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(whole + b"GET /ht")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in answer
        async with open_socket(server, "/echo") as client:
            await asyncio.sleep(0.5)  # longer than the tested timeout
            await client.send("x")
            assert await receive(client) == "Message received: x"


async def test_a_frame_sent_with_the_handshake_that_ends_the_connection_is_answered_once() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/echo") + masked(0x82, b"binary") + masked(0x81, b"later"))
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readexactly(4))[2:] == (1003).to_bytes(2, "big")
            writer.write(masked(0x89) + masked(0x88, b"\x03\xeb"))
            rest = await reader.read()
        writer.close()

        assert b"\x88" not in rest
        assert b"later" not in rest


async def test_thousands_of_frames_sent_with_the_handshake_keep_nobody_waiting() -> None:
    async with serving() as server, open_socket(server, "/feed/room:a") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/echo") + masked(0x81) * 8000)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            answers = await reader.readexactly(8000 * len(b"\x81\x12Message received: "))
        server.hub.broadcast(Publication("room:a", b"hi"))
        assert await receive(client) == "hi"
        assert answers.count(b"Message received: ") == 8000
        writer.close()


@pytest.mark.parametrize(
    ("path", "answer"), [("/echo", b"\x81\x17Message received: early"), ("/asgi", b"\x82\x05early")]
)
async def test_frames_sent_together_with_the_handshake_are_not_lost(path: str, answer: bytes) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(path) + masked(0x82 if path == "/asgi" else 0x81, b"early"))
        try:
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                assert (await reader.readexactly(len(answer))) == answer
        finally:
            writer.close()


# Compression.


async def test_where_both_sides_want_it_messages_are_deflated_once_for_all() -> None:
    async with serving(compression=True) as server:
        deflated = [await connect(server.url("/feed/room:a"), proxy=None) for _ in range(3)]
        plain = await open_socket(server, "/feed/room:a")
        text = "hello " * 100
        for client in deflated:
            assert "permessage-deflate" in str(client.response and client.response.headers["sec-websocket-extensions"])

        for _ in range(2):
            server.hub.broadcast(Publication("room:a", text.encode()))
            server.hub.broadcast(Publication("room:a", b"short"))

        for client in (*deflated, plain):
            assert [await receive(client) for _ in range(4)] == [text, "short"] * 2
            await client.close()


async def test_compressed_messages_of_clients_are_read() -> None:
    async with serving(compression=True) as server, connect(server.url("/echo"), proxy=None) as client:
        for text in ("x" * 900, "größe", ""):
            await client.send(text)
            assert await receive(client) == f"Message received: {text}"


def deflated_frame(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return masked(0xC1, (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4])


@pytest.mark.parametrize("path", ["/echo", "/asgi"], ids=["detached", "attached"])
@pytest.mark.parametrize(
    ("data", "code"),
    [(deflated_frame(bytes(100_000)), 1009), (masked(0xC1, b"\xff\xff"), 1007), (deflated_frame(b"\xff\xfe"), 1007)],
    ids=["bomb", "not deflated", "not UTF-8"],
)
async def test_a_bad_compressed_message_ends_its_connection_with_its_code(path: str, data: bytes, code: int) -> None:
    async with serving(compression=True) as server:
        offer = handshake(path, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
        _, _, rest = (await converse(server, offer + data)).partition(b"\r\n\r\n")

        assert (rest[:1], int.from_bytes(rest[2:4], "big")) == (b"\x88", code)


async def test_without_compression_here_none_is_negotiated() -> None:
    async with serving() as server, connect(server.url("/echo"), proxy=None) as client:
        assert client.response is not None
        assert "sec-websocket-extensions" not in client.response.headers
