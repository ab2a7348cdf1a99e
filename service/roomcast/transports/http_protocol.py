"""uvicorn's HTTP protocol for clients as they are: half-sent requests, offers of other protocols. Given as `http=`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The key in scope["extensions"] of a function that ends the connection at once, without sending the rest.
ABORT = "roomcast.abort"

_REQUEST_TIMEOUT_S = 10.0
# The most bytes of a head, or of a trailer: before the parser has completed a part of a request.
_MAX_HEAD_BYTES = 256 * 1024
_TOO_LARGE = "431 Request Header Fields Too Large"
_TIMEOUT = "408 Request Timeout"
_BAD_REQUEST = "400 Bad Request"
_NOT_IMPLEMENTED = "501 Not Implemented"

# The protocols that clients speak or offer to a port of plain HTTP/1.1, as they are counted.
MALFORMED = "malformed"
FOREIGN_PROTOCOLS = ("tls", "http2", "proxy_protocol", "h2c_offer", "other_offer", MALFORMED)
_HELLOS = (
    (b"\x16", "tls"),
    (b"PRI * HTTP/2.0", "http2"),
    (b"PROXY ", "proxy_protocol"),
    (b"\r\n\r\n\x00\r\nQUIT\n", "proxy_protocol"),
)
_OFFER_TOKENS = frozenset({b"upgrade", b"http2-settings"})


def _ignore(_protocol: str, _address: str) -> None:
    pass


class HttpProtocol(HttpToolsProtocol):
    """Times the heads of requests, because uvicorn times only the pause between them; ignores offers of HTTP/2."""

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _is_upgrade = False
    _progress = 0  # heads, parts of bodies and messages that the parser has completed
    _incomplete_bytes = 0  # since the last of them
    _is_offer = False

    def __init__(self, *arguments: Any, on_foreign: Callable[[str, str], None] = _ignore, **options: Any) -> None:
        """Args: on_foreign: called with one of FOREIGN_PROTOCOLS and the peer's address; the rest: uvicorn's."""
        super().__init__(*arguments, **options)
        self._on_foreign = on_foreign

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        """Start the timeout for a head."""
        super().connection_made(transport)
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Read, unless a head, or a trailer, is larger than the limit."""
        before = self._progress
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._note(next((protocol for start, protocol in _HELLOS if data.startswith(start)), MALFORMED))
            self._refuse(_BAD_REQUEST, "Invalid HTTP request received.")
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        self._incomplete_bytes = 0 if self._progress != before else self._incomplete_bytes + len(data)
        if self._incomplete_bytes > _MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._is_answering():
            # Bytes behind an answered request have ended uvicorn's own timer, and are not a request yet.
            self._expect_more()

    def _parse(self, data: bytes) -> None:
        """Parse requests. One that offers a protocol besides HTTP/1.1 is parsed again without its offer.

        A server may ignore the offer (RFC 9110 7.8), but the parser stops behind such a head, and would take the body
        for the next request. llhttp offers no way to continue there, so a new parser receives the head.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return
            if self._is_upgrade:
                self._hand_over(bytes(rest))
                return
            if self.scope["method"] == "CONNECT":
                self._refuse(_NOT_IMPLEMENTED)
                return
            head = self._head_without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self.parser.feed_data(head)

    def _hand_over(self, rest: bytes) -> None:
        """Hand the socket to the WebSocket protocol, with the bytes behind the handshake's request."""
        if self._is_answering():
            # The answer to the earlier request would be sent in the middle of the WebSocket.
            self._refuse(_BAD_REQUEST)
            return
        self.handle_websocket_upgrade()
        if rest:
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)  # noqa: S101  (for the type checker)
            protocol.data_received(rest)

    def _head_without_offer(self) -> bytes:
        offered = b",".join(value for name, value in self.headers if name == b"upgrade").lower()
        self._note("h2c_offer" if b"h2c" in offered else "other_offer")
        version = self.parser.get_http_version()
        lines = [b"%b %b HTTP/%b\r\n" % (self.scope["method"].encode(), self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFER_TOKENS]
                lines.append(b"connection: %b\r\n" % b",".join(tokens))
            elif name not in _OFFER_TOKENS:
                lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join([*lines, b"\r\n"])

    def on_message_begin(self) -> None:
        """Start the timeout for the rest of the head."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # ASGI: a dict
        self._is_in_head = True
        self._is_upgrade = self._is_offer = False
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
        self._is_offer = self.parser.should_upgrade() and not self._is_upgrade
        if self._is_offer:
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return  # `_parse` parses it again
        if self.url == b"*" and self.parser.get_method() == b"OPTIONS":
            self.url = b"/"  # a question about the server as a whole (RFC 9110 9.3.7)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of the body has arrived."""
        self._progress += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._progress += 1
        if not self._is_offer:
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

    def _note(self, protocol: str) -> None:
        self._on_foreign(protocol, self.client[0] if self.client else "")

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_more(self) -> None:
        self._forget_timer()
        self._timer = self.loop.call_later(_REQUEST_TIMEOUT_S, self._refuse, _TIMEOUT)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: str, reason: str = "") -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            if not self._is_answering():
                head = (
                    f"HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-store\r\n"
                    f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(reason)}\r\n\r\n"
                )
                self.transport.write((head + reason).encode())
            self.transport.close()
