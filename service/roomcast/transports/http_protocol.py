"""uvicorn's HTTP protocol with a timeout for requests that never end. Given to uvicorn as `http=`."""

from __future__ import annotations

import asyncio
import sys

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The key in scope["extensions"] of a function that ends the connection at once, without sending the rest.
ABORT = "roomcast.abort"

_REQUEST_TIMEOUT_S = 10.0
# The most bytes of a head, or of a trailer: before the parser has completed a part of a request.
_MAX_HEAD_BYTES = 256 * 1024
_TOO_LARGE_ANSWER = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_PIPELINED_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """Times the heads of requests: uvicorn times only the pause between requests, so a half-sent head would stay."""

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _is_upgrade = False
    _progress = 0  # heads, parts of bodies and messages that the parser has completed
    _incomplete_bytes = 0  # since the last of them
    _data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        """Start the timeout for a head."""
        super().connection_made(transport)
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Read, unless a head, or a trailer, is larger than the limit."""
        self._data = data
        before = self._progress
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        self._incomplete_bytes = 0 if self._progress != before else self._incomplete_bytes + len(data)
        if self._incomplete_bytes > _MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE_ANSWER)
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._is_answering():
            # Bytes behind an answered request have ended uvicorn's own timer, and are not a request yet.
            self._expect_more()

    def handle_websocket_upgrade(self) -> None:
        """Hand over also the bytes behind the handshake's request: uvicorn would drop them."""
        if self._is_answering():
            # The answer to the earlier request would be sent in the middle of the WebSocket.
            self._refuse(_PIPELINED_ANSWER)
            return
        upgrade = sys.exception()
        super().handle_websocket_upgrade()
        rest = self._data[upgrade.args[0] :] if isinstance(upgrade, httptools.HttpParserUpgrade) else b""
        if rest:
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)  # noqa: S101  (for the type checker)
            protocol.data_received(rest)

    def on_message_begin(self) -> None:
        """Start the timeout for the rest of the head."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # ASGI: a dict
        self._is_in_head = True
        self._is_upgrade = False
        self._expect_more()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; those behind a body (trailers) have no use here, and no limit."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        self._progress += 1
        self._is_in_head = False
        self._forget_timer()
        self._is_upgrade = self._asks_for_websocket()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of the body has arrived."""
        self._progress += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._progress += 1
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._forget_timer()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return self._is_upgrade

    def _asks_for_websocket(self) -> bool:
        """Return whether the request asks for a WebSocket (RFC 9110 7.8), in one line or several; not in HTTP/1.0."""
        asked = {
            (name, value.strip().lower())
            for name, line in self.headers
            if name in {b"connection", b"upgrade"}
            for value in line.split(b",")
        }
        return asked >= {(b"connection", b"upgrade"), (b"upgrade", b"websocket")} and (
            self.parser.get_http_version() != "1.0"
        )

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_more(self) -> None:
        self._forget_timer()
        self._timer = self.loop.call_later(_REQUEST_TIMEOUT_S, self._refuse, _TIMEOUT_ANSWER)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, answer: bytes) -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            if not self._is_answering():
                self.transport.write(answer)
            self.transport.close()
