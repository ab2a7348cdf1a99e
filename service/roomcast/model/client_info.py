"""A client as other clients see it."""

from __future__ import annotations

from typing import NamedTuple

from roomcast.model import json
from roomcast.model.errors import ClientError, ErrorCode

MAX_INFO_BYTES = 1024


class ClientInfo(NamedTuple):
    """One client of a channel, as others see it.

    client: unique among all connections. user: may have several clients; "" for anonymous ones.
    info: JSON of the connection, or empty. channel_info: JSON of its subscription to the channel, or empty.
    is_silent: its join and leave are not published.
    """

    client: str
    user: str
    info: bytes = b""
    channel_info: bytes = b""
    is_silent: bool = False


def check_info(text: str) -> bytes:
    """Return a client's info as compact JSON. Raises: ClientError 107 if it is not JSON, 106 if it is too large."""
    size_bytes = len(text.encode(errors="replace"))
    if size_bytes > MAX_INFO_BYTES:
        raise ClientError(
            ErrorCode.LIMIT_EXCEEDED, f"info has {size_bytes} bytes, at most {MAX_INFO_BYTES} are allowed"
        )
    try:
        return json.dumps(json.loads(text))
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"info is not JSON: {exc}") from None
