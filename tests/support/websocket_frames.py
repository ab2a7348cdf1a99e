"""Frames of a WebSocket client."""

from __future__ import annotations

import struct

MASK = b"\x01\x02\x03\x04"


def masked(first: int, payload: bytes = b"", *, length: int | None = None, mask: bytes = MASK) -> bytes:
    """Return a client's frame; `length` lies about the payload's."""
    length = len(payload) if length is None else length
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
