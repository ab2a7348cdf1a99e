"""The base of both stages of a WebSocket: reading frames, and the closing handshake (RFC 6455 section 7)."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from roomcast.connections.transport import HIGH_WATER_BYTES, Transport
from roomcast.model.errors import Disconnect
from roomcast.model.publications import Kind
from roomcast.transports.websocket import deflate, frames

_CLOSE_TIMEOUT_S = 10.0
# A read of uvloop brings up to 256,000 bytes, 42,000 frames: without a pause all other clients would wait a second.
_TURN_BYTES = 16 * 1024
_KINDS = {frames.TEXT: Kind.TEXT, frames.BINARY: Kind.BINARY}


class FramedSocket(asyncio.Protocol, Transport):
    """The bytes of one WebSocket; its two stages implement messages and deadlines."""

    __slots__ = ("_close_code", "_max_message_bytes", "_parser", "_transport", "_unread", "is_reading")

    name = "websocket"

    _transport: asyncio.Transport
    _parser: frames.FrameParser
    _close_code: int | None
    _max_message_bytes: int
    _unread: bytes  # the rest of a large read, for later turns of the loop
    is_reading: bool  # False between `pause_reading` and `resume_reading`

    def data_received(self, data: bytes) -> None:
        """Handle each message that the bytes complete; those of a large read in several turns of the loop."""
        if self._unread:
            self._unread += data
            return
        if len(data) > _TURN_BYTES:
            self._unread = data[_TURN_BYTES:]
            data = data[:_TURN_BYTES]
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)
        self._act_on(data)

    def _read_on(self) -> None:
        if not self.is_reading or self._transport.is_closing():
            return
        data, self._unread = self._unread, b""
        if len(data) <= _TURN_BYTES:
            self._transport.resume_reading()
        self.data_received(data)

    def _act_on(self, data: bytes) -> None:
        for message in self._parser.feed(data):
            if self._transport.is_closing():
                return
            kind = _KINDS.get(message.opcode)
            if kind is not None:
                if self._close_code is None:
                    self._on_data_message(kind, message)
            elif message.opcode == frames.PING:
                # A client that reads no pongs gets no more: a flood of pings must not fill the memory.
                if self.unsent_bytes() < HIGH_WATER_BYTES:
                    self.write(frames.frame(frames.PONG, message.payload))
            elif message.opcode == frames.CLOSE:
                self._on_close_frame(message.payload)
        if self._parser.violation is not None:
            self._fail(self._parser.violation)

    def eof_received(self) -> None:
        """Close at the end of the client's stream, as asyncio does."""

    @override
    def write(self, data: bytes) -> None:
        if self._close_code is None:
            try:
                self._transport.write(data)
            except RuntimeError:  # uvloop, for a socket that has just closed; asking first costs every write
                return

    @override
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @override
    def close_code(self) -> int:
        return 1006 if self._close_code is None else self._close_code

    @override
    def close(self, disconnect: Disconnect) -> None:
        """Send a close frame, and end when the client has answered it, or after 10 s."""
        if self._close_code is not None or self._transport.is_closing():
            return
        self._transport.write(frames.close_frame(disconnect.code, disconnect.reason))
        self._close_code = disconnect.code
        self._end_within(_CLOSE_TIMEOUT_S)

    def abort(self, disconnect: Disconnect) -> None:
        """End at once: the client does not read."""
        if self._close_code is None:
            self._close_code = disconnect.code
        self._transport.abort()

    @override
    def pause_reading(self) -> None:
        self.is_reading = False
        if not self._transport.is_closing():
            self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        self.is_reading = True
        if self._unread:
            asyncio.get_running_loop().call_soon(self._read_on)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _fail(self, disconnect: Disconnect) -> None:
        """Close on a client whose frames cannot be read any more, nor its answer to the close frame.

        The sending half is closed, not the socket: with unread bytes of the client in it that would be a reset, and the
        client might never see the code.
        """
        self.close(disconnect)  # does nothing if the node closed first: then there is no answer to wait for
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _on_close_frame(self, payload: bytes) -> None:
        if self._close_code is None:
            self.write(frames.frame(frames.CLOSE, payload))
            self._close_code = frames.close_code(payload)
        self._transport.close()
        self._end_within(_CLOSE_TIMEOUT_S)

    def _on_data_message(self, kind: Kind, message: frames.Message) -> None:
        payload = message.payload
        if message.is_compressed:
            try:
                payload = deflate.inflate(payload, max_bytes=self._max_message_bytes)
            except deflate.InflateError as exc:
                self.close(Disconnect(frames.MESSAGE_TOO_BIG if exc.is_too_big else frames.INVALID_DATA, str(exc)))
                return
            if kind is Kind.TEXT and not frames.is_utf8(payload):
                self.close(Disconnect(frames.INVALID_DATA, "text is not UTF-8"))
                return
        self._on_message(kind, payload)

    def _on_message(self, kind: Kind, payload: bytes) -> None:
        raise NotImplementedError

    def _end_within(self, timeout_s: float) -> None:
        """Abort after a while, unsent bytes or not: a client that reads nothing would keep them in memory."""
        raise NotImplementedError
