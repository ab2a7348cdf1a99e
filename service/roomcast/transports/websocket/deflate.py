"""permessage-deflate (RFC 7692) without context takeover: a message is deflated once and sent to everyone as it is."""

from __future__ import annotations

import zlib

# The negotiated answer: neither side keeps a window between messages, so no connection needs its own compressor.
ACCEPTED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"

_TAIL = b"\x00\x00\xff\xff"
_RAW_WINDOW_BITS = -15


class InflateError(ValueError):
    """A client's payload is not deflated data, or is larger than the limit; the text says which."""

    def __init__(self, reason: str, *, is_too_big: bool = False) -> None:
        super().__init__(reason)
        self.is_too_big = is_too_big


def deflate(data: bytes) -> bytes:
    """Return a message's compressed payload (RFC 7692 7.2.1)."""
    compressor = zlib.compressobj(wbits=_RAW_WINDOW_BITS)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def inflate(data: bytes, *, max_bytes: int) -> bytes:
    """Return a message's payload; at most `max_bytes` are ever decompressed. Raises: InflateError."""
    decompressor = zlib.decompressobj(wbits=_RAW_WINDOW_BITS)
    try:
        payload = decompressor.decompress(data + _TAIL, max_bytes + 1)
    except zlib.error:
        raise InflateError("payload is not deflated data") from None
    if len(payload) > max_bytes:
        raise InflateError(f"message over the limit of {max_bytes} bytes", is_too_big=True)
    return payload
