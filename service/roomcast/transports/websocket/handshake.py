"""The WebSocket opening handshake (RFC 6455 section 4): a request in, the bytes of an answer out. Sans-I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from http import HTTPStatus
from typing import NamedTuple

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_DEFLATE_PARAMETER = re.compile(
    rb'(server_no_context_takeover|client_no_context_takeover|client_max_window_bits(\s*=\s*"?([89]|1[0-5])"?)?)'
)

Headers = list[tuple[bytes, bytes]]


class Request(NamedTuple):
    """A handshake request, its header names in lower case."""

    method: bytes
    target: bytes
    headers: Headers

    def values(self, name: bytes) -> list[bytes]:
        """Return the comma-separated values of all headers of this name, stripped."""
        return [
            value.strip()
            for header, line in self.headers
            if header == name
            for value in line.split(b",")
            if value.strip()
        ]


class Refusal(NamedTuple):
    """The HTTP answer to a request that is not a valid WebSocket handshake."""

    status: HTTPStatus
    reason: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def parse(data: bytes) -> Request:
    """Return the request that uvicorn's HTTP protocol has parsed and written out again, whole and well-formed."""
    head, _, _ = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ", 2)
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.strip()))
    return Request(method, target, headers)


def check(request: Request) -> Refusal | None:  # noqa: PLR0911  (a list of rules)
    """Return why the request cannot become a WebSocket, or None if it can (RFC 6455 4.2.1)."""
    if request.method != b"GET":
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET", ((b"Allow", b"GET"),))
    if b"websocket" not in [value.lower() for value in request.values(b"upgrade")]:
        return Refusal(HTTPStatus.UPGRADE_REQUIRED, "Upgrade: websocket is missing", ((b"Upgrade", b"websocket"),))
    if b"upgrade" not in [value.lower() for value in request.values(b"connection")]:
        return Refusal(HTTPStatus.BAD_REQUEST, "Connection: Upgrade is missing")
    if len(request.values(b"host")) != 1:
        return Refusal(HTTPStatus.BAD_REQUEST, "Host is missing")
    if request.values(b"transfer-encoding") or request.values(b"content-length") not in ([], [b"0"]):
        return Refusal(HTTPStatus.BAD_REQUEST, "a WebSocket handshake has no body")
    if request.values(b"sec-websocket-version") != [b"13"]:
        version = ((b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket"))
        return Refusal(HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13", version)
    keys = request.values(b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64, once")
    return None


def accept(request: Request, headers: Headers) -> bytes:
    """Return the answer that makes the connection a WebSocket; `headers` come behind the required ones."""
    (key,) = request.values(b"sec-websocket-key")
    answer = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        answer,
        *[part for name, value in headers for part in (b"\r\n", name, b": ", value)],
        b"\r\n\r\n",
    ]
    return b"".join(lines)


def answer(status: int, headers: Headers, body: bytes) -> bytes:
    """Return a plain HTTP answer, after which the connection is closed."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    given = {name.lower() for name, _ in headers}
    # RFC 9110 7.8: Upgrade is named in Connection too.
    options = "close, Upgrade" if b"upgrade" in given else "close"
    lines = [f"HTTP/1.1 {status} {phrase}\r\nConnection: {options}\r\n".encode()]
    if b"cache-control" not in given:
        lines.append(b"Cache-Control: no-store\r\n")
    if b"content-length" not in given:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    lines += [name + b": " + value + b"\r\n" for name, value in headers if name.lower() != b"connection"]
    return b"".join([*lines, b"\r\n", body])


def refuse(refusal: Refusal) -> bytes:
    """Return the HTTP answer of a refusal."""
    body = f"{refusal.reason}\n".encode()
    return answer(refusal.status, [(b"Content-Type", b"text/plain; charset=utf-8"), *refusal.headers], body)


def offers_deflate(request: Request) -> bool:
    """Return whether the client offers permessage-deflate in a form that can be accepted without parameters.

    An offer that restricts the server's window (server_max_window_bits) is passed over: shared frames have one window.
    So is one with parameters that RFC 7692 does not know, or has differently (7.1: they must be declined).
    """
    for offer in request.values(b"sec-websocket-extensions"):
        name, *parameters = [part.strip().lower() for part in offer.split(b";")]
        keys = [parameter.partition(b"=")[0].strip() for parameter in parameters]
        if (
            name == b"permessage-deflate"
            and len(set(keys)) == len(keys)
            and all(_DEFLATE_PARAMETER.fullmatch(parameter) for parameter in parameters)
        ):
            return True
    return False


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
