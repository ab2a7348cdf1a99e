"""A bare transport loop: one plain write per socket and message.

Run as `python floor_server.py PORT REDIS_URL TOPIC`. No parser, no bound, no heartbeat, no coalescing: `os.write`
instead of `transport.write`, because uvloop joins the writes of one turn of the loop. Bytes that a socket does not
accept are lost: it measures the cost of the system call and is not a usable server.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
import sys
from urllib.parse import urlsplit

import uvloop

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Client(asyncio.Protocol):
    """One WebSocket; its messages after the handshake are ignored."""

    def __init__(self, descriptors: set[int]) -> None:
        self._descriptors = descriptors
        self._request = b""
        self._descriptor: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._descriptor is not None:
            return
        self._request += data
        if b"\r\n\r\n" not in self._request:
            return
        key = self._request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        answer = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
        )
        self._request = b""
        self._descriptor = self._transport.get_extra_info("socket").fileno()
        self._descriptors.add(self._descriptor)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._descriptor is not None:
            self._descriptors.discard(self._descriptor)


class Bus(asyncio.Protocol):
    """Redis: each publication to the topic is written to every socket."""

    def __init__(self, descriptors: set[int], topic: bytes) -> None:
        self._descriptors = descriptors
        self._push = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$" % (len(topic), topic)
        self._data = b""
        self.lost_count = 0

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        while True:
            start = data.find(self._push)
            length, has_length, rest = data[start + len(self._push) :].partition(b"\r\n")
            if start < 0 or not has_length or len(rest) < int(length) + 2:
                self._data = data
                return
            self._send(rest[: int(length)])
            data = rest[int(length) + 2 :]

    def _send(self, payload: bytes) -> None:
        length = len(payload)
        head = struct.pack("!BB", 0x81, length) if length < 126 else struct.pack("!BBH", 0x81, 126, length)
        frame = head + payload
        for descriptor in self._descriptors:
            try:
                os.write(descriptor, frame)
            except OSError:
                self.lost_count += 1


async def serve(port: int, redis_url: str, topic: bytes) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    descriptors: set[int] = set()
    redis = urlsplit(redis_url)
    assert redis.hostname
    assert redis.port
    transport, _ = await loop.create_connection(lambda: Bus(descriptors, topic), redis.hostname, redis.port)
    transport.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(topic), topic))
    server = await loop.create_server(lambda: Client(descriptors), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()))
