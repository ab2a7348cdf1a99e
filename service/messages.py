"""The values that travel through a node: frozen, without behaviour."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """What a payload is on the wire: a WebSocket text frame or a binary one. JSON travels as text."""

    TEXT = "text"
    BINARY = "binary"


class Publication(NamedTuple):
    """One message in one channel.

    A NamedTuple and not a frozen dataclass: one is made per message read from Redis, and the tuple
    is built in a third of the time.

    data: the payload as bytes, at most `max_message_bytes`; UTF-8 if the kind is TEXT. It is never re-encoded.
    """

    channel: str
    data: bytes
    kind: Kind = Kind.TEXT
