"""WebSocket frames (RFC 6455 section 5), as a server reads and writes them. Sans-I/O.

Source: the shape of websockets' `Protocol` (data in, events out). The tests compare this parser with its
`ServerProtocol`, which costs a generator and 14 KB a connection; this one costs an object of 200 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from roomcast.model.errors import Disconnect
from roomcast.model.publications import Kind

try:  # the C extension of websockets, where its wheel has one
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover
    from websockets.utils import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FIN = 0x80
_RSV1 = 0x40
_RSV = 0x70
_MASKED = 0x80
_CONTROL = 0x8
_MAX_CONTROL_BYTES = 125
# Empty fragments cost no bytes of the limit, but memory.
_MAX_FRAGMENTS = 4096
_LENGTH_16 = 126
_LENGTH_64 = 127
_KNOWN = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
# RFC 6455 7.4 and IANA's registry: the codes that may stand in a close frame below 3000.
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))

_KIND_BINARY = Kind.BINARY  # Python 3.11 takes 0.13 us to find a member of an enum

PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
MESSAGE_TOO_BIG = 1009


class Message(NamedTuple):
    """A whole message, or a control frame: opcode and unmasked payload; a TEXT's payload is valid UTF-8."""

    opcode: int
    payload: bytes
    is_compressed: bool = False


def frame(opcode: int, payload: bytes, *, is_compressed: bool = False) -> bytes:
    """Return a whole, unmasked server frame (RFC 6455 5.2): the same bytes serve every client."""
    length = len(payload)
    first = _FIN | opcode | (_RSV1 if is_compressed else 0)
    if length < _LENGTH_16:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", first, _LENGTH_16, length) + payload
    return struct.pack("!BBQ", first, _LENGTH_64, length) + payload


def message_frame(kind: Kind, payload: bytes) -> bytes:
    """Return the frame of a publication's payload."""
    return frame(BINARY if kind is _KIND_BINARY else TEXT, payload)


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; the reason is cut to 123 bytes, the most that fit."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode())


def close_code(payload: bytes) -> int:
    """Return the code in the payload of a close frame that `FrameParser` has accepted; 1005 if it has none."""
    return int.from_bytes(payload[:2], "big") if payload else 1005


class FrameParser:
    """Cuts the bytes of one client into messages.

    Args:
        max_message_bytes: largest message, all its fragments together.
        is_compression_allowed: permessage-deflate was negotiated, so RSV1 may stand on a message's first frame.
    """

    __slots__ = (
        "_buffer",
        "_fragments",
        "_fragments_bytes",
        "_is_compression_allowed",
        "_is_message_compressed",
        "_max_message_bytes",
        "_message_opcode",
        "_wanted_bytes",
        "violation",
    )

    def __init__(self, *, max_message_bytes: int, is_compression_allowed: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._is_compression_allowed = is_compression_allowed
        self._buffer: bytearray | None = None  # the beginning of an incomplete frame
        self._wanted_bytes = 0  # the size of it at which parsing is tried again; -1: ignore all bytes
        self._message_opcode = CONTINUATION  # of the message whose fragments arrive; CONTINUATION: none
        self._is_message_compressed = False
        self._fragments: list[bytes] | None = None
        self._fragments_bytes = 0
        self.violation: Disconnect | None = None

    # One loop: a call per step doubles its time.
    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that these bytes complete, in order; none after a close frame or a `violation`."""
        messages: list[Message] = []
        if not (data := self._with_buffered(data)):
            return messages
        position, end = 0, len(data)
        while end - position >= 2:
            first, second = data[position], data[position + 1]
            opcode, length = first & 0x0F, second & 0x7F
            header_end = position + 6
            if length >= _LENGTH_16:
                header_end += 2 if length == _LENGTH_16 else 8
            if not self._is_header_allowed(first, second, opcode):
                break
            if end < header_end:
                self._wanted_bytes = header_end - position
                break
            if length >= _LENGTH_16:
                (length,) = struct.unpack_from("!H" if length == _LENGTH_16 else "!Q", data, position + 2)
            if opcode < _CONTROL and length + self._fragments_bytes > self._max_message_bytes:
                self._refuse(MESSAGE_TOO_BIG, f"message over the limit of {self._max_message_bytes} bytes")
                break
            if end - header_end < length:
                self._wanted_bytes = header_end + length - position
                break
            position = header_end + length
            payload = apply_mask(data[header_end:position], data[header_end - 4 : header_end])
            message = self._complete(first, opcode, payload)
            if message is not None:
                messages.append(message)
            if self._wanted_bytes < 0:
                break
        else:
            self._wanted_bytes = 2
        if self._wanted_bytes > 0 and position < end:
            self._buffer = bytearray(data[position:])
        return messages

    def _with_buffered(self, data: bytes) -> bytes:
        """Return the bytes behind the frame that is incomplete so far; empty if they do not complete it."""
        if self._wanted_bytes < 0:
            return b""
        if self._buffer is None:
            return data
        self._buffer += data
        if len(self._buffer) < self._wanted_bytes:
            return b""
        data = bytes(self._buffer)
        self._buffer = None
        return data

    def _is_header_allowed(self, first: int, second: int, opcode: int) -> bool:  # noqa: PLR0911  (a list of rules)
        """Check the first two bytes of a frame, before its payload has arrived."""
        if opcode not in _KNOWN:
            return self._refuse(PROTOCOL_ERROR, "unknown opcode")
        if not second & _MASKED:
            return self._refuse(PROTOCOL_ERROR, "frame is not masked")
        reserved = first & _RSV
        if reserved and not (reserved == _RSV1 and self._is_compression_allowed and opcode in {TEXT, BINARY}):
            return self._refuse(PROTOCOL_ERROR, "reserved bit is set")
        if opcode >= _CONTROL:
            if not first & _FIN:
                return self._refuse(PROTOCOL_ERROR, "fragmented control frame")
            if second & 0x7F > _MAX_CONTROL_BYTES:
                return self._refuse(PROTOCOL_ERROR, "control frame over 125 bytes")
        elif opcode == CONTINUATION:
            if self._message_opcode == CONTINUATION:
                return self._refuse(PROTOCOL_ERROR, "continuation of nothing")
        elif self._message_opcode != CONTINUATION:
            return self._refuse(PROTOCOL_ERROR, "new message inside a fragmented one")
        return True

    def _complete(self, first: int, opcode: int, payload: bytes) -> Message | None:
        """Return the message that this frame completes, if any."""
        if opcode >= _CONTROL:
            if opcode == CLOSE:
                if not self._is_close_allowed(payload):
                    return None
                self._wanted_bytes = -1
            return Message(opcode, payload)
        is_compressed = bool(first & _RSV1)
        if not first & _FIN or opcode == CONTINUATION:
            if opcode != CONTINUATION:
                self._message_opcode, self._is_message_compressed = opcode, is_compressed
                self._fragments = []
            assert self._fragments is not None  # noqa: S101  (for the type checker: `_is_header_allowed` checked it)
            self._fragments.append(payload)
            if len(self._fragments) > _MAX_FRAGMENTS:
                self._refuse(MESSAGE_TOO_BIG, "message in too many fragments")
                return None
            self._fragments_bytes += len(payload)
            if not first & _FIN:
                return None
            opcode, is_compressed = self._message_opcode, self._is_message_compressed
            payload = b"".join(self._fragments)
            self._message_opcode, self._fragments, self._fragments_bytes = CONTINUATION, None, 0
        if opcode == TEXT and not is_compressed and not is_utf8(payload):
            self._refuse(INVALID_DATA, "text is not UTF-8")
            return None
        return Message(opcode, payload, is_compressed)

    def _is_close_allowed(self, payload: bytes) -> bool:
        if len(payload) == 1:
            return self._refuse(PROTOCOL_ERROR, "close frame of one byte")
        if not is_utf8(payload[2:]):
            return self._refuse(INVALID_DATA, "close reason is not UTF-8")
        code = close_code(payload)
        if payload and code not in _CLOSE_CODES and not 3000 <= code <= 4999:
            return self._refuse(PROTOCOL_ERROR, "close code that may not be sent")
        return True

    def _refuse(self, code: int, reason: str) -> bool:
        self.violation = Disconnect(code, reason)
        self._wanted_bytes = -1
        self._buffer = self._fragments = None
        return False


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are valid UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield opcode and payload of whole server frames, as `frame` made them."""
    position = 0
    while position < len(data):
        opcode, length = data[position] & 0x0F, data[position + 1]
        position += 2
        if length == _LENGTH_16:
            (length,) = struct.unpack_from("!H", data, position)
            position += 2
        elif length == _LENGTH_64:
            (length,) = struct.unpack_from("!Q", data, position)
            position += 8
        yield opcode, data[position : position + length]
        position += length
