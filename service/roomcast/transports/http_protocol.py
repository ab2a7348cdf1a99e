"""uvicorn's HTTP protocol, which also gives up on requests that never end. Given to uvicorn as `http=`."""

from __future__ import annotations

import asyncio
import sys

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The key in scope["extensions"] under which a request offers to end its connection at once, whatever is unsent.
ABORT = "roomcast.abort"

_REQUEST_TIMEOUT_S = 10.0
# Of a head, or of what follows a body: as much may come before something of a request is complete.
_MAX_HEAD_BYTES = 256 * 1024
_TOO_LARGE_ANSWER = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_PIPELINED_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """A half-sent head would otherwise hold its socket for ever: uvicorn times only the pause between requests."""

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _is_upgrade = False
    _progress = 0  # heads, bodies' parts and messages that the parser has told of
    _incomplete_bytes = 0  # since it told of one
    _data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        """Expect a head from now on."""
        super().connection_made(transport)
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head, or what follows a body, is larger than any should be."""
        self._data = data
        before = self._progress
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        self._incomplete_bytes = 0 if self._progress != before else self._incomplete_bytes + len(data)
        if self._incomplete_bytes > _MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE_ANSWER)
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._is_answering():
            # Something came behind an answered request, which ended uvicorn's own timer, and is no request yet.
            self._expect_more()

    def handle_websocket_upgrade(self) -> None:
        """Hand over what came behind the handshake's request too: uvicorn would drop it."""
        if self._is_answering():
            # Its answer would come in the middle of the WebSocket.
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
        """Expect the rest of the head from now on."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # ASGI: a dict
        self._is_in_head = True
        self._is_upgrade = False
        self._expect_more()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body (trailers) mean nothing here, and would be kept without end."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._progress += 1
        self._is_in_head = False
        self._forget_timer()
        self._is_upgrade = self._asks_for_websocket()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that the request goes on."""
        self._progress += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._progress += 1
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._forget_timer()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return self._is_upgrade

    def _asks_for_websocket(self) -> bool:
        """Return whether the request asks for a WebSocket (RFC 9110 7.8), in however many lines; HTTP/1.0 cannot."""
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
        self._timer = self.loop.call_later(_REQUEST_TIMEOUT_S, self._give_up)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._refuse(_TIMEOUT_ANSWER)

    def _refuse(self, answer: bytes) -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            if not self._is_answering():
                self.transport.write(answer)
            self.transport.close()
