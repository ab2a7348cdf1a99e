"""The values that travel through a node: frozen, without behaviour."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(enum.Enum):
    """What a payload is. JSON and TEXT are UTF-8 and travel in WebSocket text frames, BINARY in binary frames.

    A publication's kind is decided where it enters a node (`model.payloads`); TEXT is text that is not JSON.
    """

    JSON = "json"
    TEXT = "text"
    BINARY = "binary"


class Position(NamedTuple):
    """A place in a channel's history: the publication with this offset, in the numbering of this epoch.

    offset: 1 for the first publication; 0 stands before it.
    epoch: changes when the numbering cannot be trusted to go on: offsets of two epochs say nothing about each other.
    """

    offset: int
    epoch: str


class ClientInfo(NamedTuple):
    """One client of a channel, as others see it.

    client: unique among all connections. user: who it is; several clients may be one user, "" is nobody known.
    info: JSON of the connection, or empty. channel_info: JSON of its subscription to the channel, or empty.
    is_silent: nobody is told when it joins or leaves.
    """

    client: str
    user: str
    info: bytes = b""
    channel_info: bytes = b""
    is_silent: bool = False


class Publication(NamedTuple):
    """One message in one channel.

    A NamedTuple and not a frozen dataclass: one is made per message read from Redis, and the tuple
    is built in a third of the time.

    data: the payload as bytes, at most `max_message_bytes`; UTF-8 unless the kind is BINARY. It is never re-encoded.
    position: where it stands in the channel's history; None if it is in none.
    tags: what subscribers can filter by; None for none. info: the client that published it, where that is told.
    """

    channel: str
    data: bytes
    kind: Kind = Kind.TEXT
    position: Position | None = None
    tags: Mapping[str, str] | None = None
    info: ClientInfo | None = None


class History(NamedTuple):
    """What Redis keeps of a channel.

    position: of its newest publication; offset 0 if there has been none.
    base: the offset at which the epoch began: publications up to there may have been numbered twice.
    publications: in their order; which of them, the reader has asked for.
    """

    position: Position
    base: int
    publications: list[Publication]


class Resumption(NamedTuple):
    """Says where a subscription goes on: what follows comes after this position.

    position: None in a channel without history.
    is_recovered: nothing is missing between what the subscriber had and what follows.
    """

    channel: str
    position: Position | None
    is_recovered: bool


class Membership(NamedTuple):
    """Clients that joined a channel, or left it."""

    channel: str
    clients: tuple[ClientInfo, ...]
    have_joined: bool


class Removal(NamedTuple):
    """The history of a channel was removed; its numbering goes on, and its subscribers are told nothing."""

    channel: str


# What subscribers of a channel are told.
Event = Publication | Resumption | Membership
# What a broker brings.
BrokerEvent = Publication | Membership | Removal


# A message in a channel without a namespace: nodes speak to each other there, not clients.
MAX_CONTROL_BYTES = 1024 * 1024
