"""How a publication is written in a Redis message.

Anyone may publish a JSON document as it is: `PUBLISH roomcast:room:lobby '{"text":"hi"}'`. What JSON cannot carry, text
that is no JSON and binary, travels behind a header that no JSON document starts with: byte 0x01, `t` or `b`, newline.
"""

from __future__ import annotations

import orjson

from service.messages import Kind, Publication

_TEXT_HEADER = b"\x01t\n"
_BINARY_HEADER = b"\x01b\n"
_HEADER_BYTES = 3
_WORDS_BYTES = 1024


class MalformedMessage(ValueError):  # noqa: N818  (not a fault of ours: a message somebody published)
    """A Redis message that is no publication; the text says why."""


def pack(publication: Publication) -> bytes:
    """Return the Redis message of a publication that a client sent."""
    header = _TEXT_HEADER if publication.kind is Kind.TEXT else _BINARY_HEADER
    return header + publication.data


def unpack(channel: str, message: bytes, *, max_message_bytes: int) -> Publication:
    """Return the publication in a Redis message.

    A message of another service is checked here, its only edge: once per node, never per subscriber.
    Raises: MalformedMessage for one that is neither JSON nor ours, or larger than `max_message_bytes`.
    """
    if message[:1] != b"\x01":
        return Publication(channel, _check_foreign(message, max_message_bytes))
    header, data = message[:_HEADER_BYTES], message[_HEADER_BYTES:]
    # A node has checked what its client sent, and may have put a few words in front of it.
    if len(data) > max_message_bytes + _WORDS_BYTES:
        raise MalformedMessage(f"{len(data)} bytes, more than max_message_bytes ({max_message_bytes})")
    if header == _BINARY_HEADER:
        return Publication(channel, data, Kind.BINARY)
    if header != _TEXT_HEADER:
        raise MalformedMessage("unknown header")
    try:
        data.decode()  # a text frame that is not UTF-8 would make every browser in the room hang up
    except UnicodeDecodeError:
        raise MalformedMessage("text is not UTF-8") from None
    return Publication(channel, data)


def _check_foreign(message: bytes, max_message_bytes: int) -> bytes:
    if len(message) > max_message_bytes:
        raise MalformedMessage(f"{len(message)} bytes, more than max_message_bytes ({max_message_bytes})")
    try:
        orjson.loads(message)
    except orjson.JSONDecodeError as exc:
        raise MalformedMessage(f"not JSON: {exc.msg}") from None
    return message
