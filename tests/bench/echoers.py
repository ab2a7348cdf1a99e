"""The load client of the echo: connections that send as fast as the server answers."""

from __future__ import annotations

import selectors
import socket
import time

from tests.bench.companions import Pipe
from tests.bench.dialogue import PONG, TEXT, frame, handshake, server_frame_bytes
from tests.bench.place import HOST
from tests.bench.turned import Connected, Turned

_BUFFER_BYTES = 1 << 18
_TIMEOUT_S = 20.0
_PING = b"\x89\x00"


class Echoer:
    """Sends one message over and over, `window_count` under way at most, and compares every byte of the answers."""

    def __init__(self, port: int, path: str, before: bytes, *, window_count: int, size_bytes: int) -> None:
        message = b"x" * size_bytes
        self._frame = frame(TEXT, message)
        self._burst = self._frame * window_count
        payload = before + message
        self._answer_bytes = server_frame_bytes(len(payload))
        answer = bytes((0x81, len(payload))) + payload
        self._answers = answer * (_BUFFER_BYTES // self._answer_bytes + 2)
        self._received_bytes = 0
        self._ping = b""  # the first byte of one
        self.is_wrong = False
        self.socket = socket.create_connection((HOST, port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(handshake(path, port))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._receive()
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionRefusedError(head.decode(errors="replace"))

    def start(self) -> None:
        """Send the first burst."""
        self.socket.sendall(self._burst)

    def read(self, buffer: bytearray) -> int:
        """Send a message for each echo. Returns: how many."""
        length = self.socket.recv_into(buffer)
        if not length:
            raise ConnectionResetError("the server has ended a connection")
        data = self._without_pings(self._ping + buffer[:length])
        length = len(data)
        offset = self._received_bytes % self._answer_bytes
        self.is_wrong |= data != self._answers[offset : offset + length]
        before_count = self._received_bytes // self._answer_bytes
        self._received_bytes += length
        count = self._received_bytes // self._answer_bytes - before_count
        if count:
            self.socket.sendall(self._burst[: count * len(self._frame)])
        return count

    def _without_pings(self, data: bytes) -> bytes:
        self._ping = b""
        if _PING[:1] in data:
            if _PING in data:
                self.socket.sendall(frame(PONG, b""))
                data = data.replace(_PING, b"")
            if data.endswith(_PING[:1]):
                self._ping = _PING[:1]
                data = data[:-1]
        return data

    def _receive(self) -> bytes:
        data = self.socket.recv(1024)
        if not data:
            raise ConnectionRefusedError("the server has ended a connection")
        return data


def run(
    pipe: Pipe,
    *,
    port: int,
    path: str,
    before: bytes,
    connection_count: int,
    window_count: int,
    size_bytes: int,
    warm_up_s: float,
    seconds: float,
) -> None:
    """Keep connections full of messages of at most 125 bytes; say `Turned` about the window after the warm-up."""
    echoers = [
        Echoer(port, path, before, window_count=window_count, size_bytes=size_bytes) for _ in range(connection_count)
    ]
    pipe.send(Connected())
    pipe.recv()
    selector = selectors.DefaultSelector()
    for echoer in echoers:
        selector.register(echoer.socket, selectors.EVENT_READ, echoer)
        echoer.start()
    buffer = bytearray(_BUFFER_BYTES)
    now_s = time.monotonic()
    started_s, end_s = now_s + warm_up_s, now_s + warm_up_s + seconds
    count = 0
    while now_s < end_s:
        for key, _ in selector.select(_TIMEOUT_S):
            turned_count = key.data.read(buffer)
            if now_s >= started_s:
                count += turned_count
        now_s = time.monotonic()
    pipe.send(Turned(count / seconds, sum(echoer.is_wrong for echoer in echoers)))
    pipe.poll(None)
