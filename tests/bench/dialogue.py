"""The bytes of a client: its handshake, its frames, and its steps to a subscription."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

TEXT = 0x1
BINARY = 0x2
PONG = 0xA

_FIN = 0x80
_MASKED = 0x80
_LENGTH_16 = 126
# One key for all frames: equal messages become equal frames, and the server must unmask them anyway.
_MASK = os.urandom(4)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How a client of one contender subscribes and publishes.

    steps: after the handshake, pairs of bytes that it sends (may be empty) and bytes that it then waits for. After the
        last step it is subscribed; without steps, after the response to the handshake.
    before, after: the bytes around a message that a client publishes.
    """

    path: str
    steps: tuple[tuple[bytes, bytes], ...] = ()
    opcode: int = TEXT
    before: bytes = b""
    after: bytes = b""

    def publication(self, message: bytes) -> bytes:
        """Return the frame with which a client publishes a message."""
        return frame(self.opcode, self.before + message + self.after)


def handshake(path: str, port: int) -> bytes:
    """Return a client's request for a WebSocket. The key is RFC 6455's example: the answer is not checked by it."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a masked frame of at most 65,535 bytes of payload (RFC 6455 5.2)."""
    length = len(payload)
    if length < _LENGTH_16:
        head = struct.pack("!BB", _FIN | opcode, _MASKED | length)
    else:
        head = struct.pack("!BBH", _FIN | opcode, _MASKED | _LENGTH_16, length)
    key = (_MASK * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + _MASK + masked.to_bytes(length, "big")


def server_frame_bytes(payload_bytes: int) -> int:
    """Return how long an unmasked frame with such a payload is."""
    return payload_bytes + (2 if payload_bytes < _LENGTH_16 else 4)
