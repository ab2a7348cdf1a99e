"""The values that travel through a node: frozen, without behaviour."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from roomcast.model.client_info import ClientInfo
    from roomcast.model.maps import Change
    from roomcast.model.positions import Position


# Names and punctuation of a publication, or of a client, in JSON.
_MEMBERS_BYTES = 64


class Kind(enum.Enum):
    """The kind of a payload. JSON and TEXT are UTF-8 and travel in WebSocket text frames, BINARY in binary frames.

    A publication's kind is decided where it enters a node (`model.payloads`); TEXT is text that is not JSON.
    """

    JSON = "json"
    TEXT = "text"
    BINARY = "binary"


class Publication(NamedTuple):
    """One message in one channel.

    A NamedTuple, because one is made per message read from Redis: a frozen dataclass takes three times as long.

    data: the payload as bytes, at most `max_message_bytes`; UTF-8 unless the kind is BINARY. It is never re-encoded.
    position: in the channel's history; None if it is not in it.
    tags: subscribers can filter by them; None for none. info: the client that published it, if known.
    change: what it does to the channel's map; then empty data is a value without data. None in other channels.
    """

    channel: str
    data: bytes
    kind: Kind = Kind.TEXT
    position: Position | None = None
    tags: Mapping[str, str] | None = None
    info: ClientInfo | None = None
    change: Change | None = None


def offset_of(publication: Publication) -> int:
    """Return the offset of a publication that has a position."""
    assert publication.position is not None  # noqa: S101  (for the type checker)
    return publication.position.offset


def change_of(publication: Publication) -> Change:
    """Return what a publication of a map does to it."""
    assert publication.change is not None  # noqa: S101  (for the type checker)
    return publication.change


def size_in_reply(publication: Publication) -> int:
    """Return about how many bytes a publication takes in a reply: tiny values have larger keys, tags and infos."""
    size_bytes = _MEMBERS_BYTES + len(publication.data)
    if publication.change is not None:
        size_bytes += len(publication.change.key)
    if publication.tags:
        size_bytes += sum(len(name) + len(value) + _MEMBERS_BYTES // 8 for name, value in publication.tags.items())
    if publication.info is not None:
        size_bytes += _MEMBERS_BYTES + sum(map(len, publication.info[:4]))
    return size_bytes


class Jump(NamedTuple):
    """The offsets between are of no publication that Redis has: `after` is followed by the one behind `to`.

    A jump is made when Redis has started again. A position between them is of data that Redis has lost.
    """

    after: int
    to: int


class History(NamedTuple):
    """The history of a channel, or the part that was read.

    position: of its newest publication; offset 0 if there has been none.
    base: the offset at which the epoch started: offsets up to it may have been used twice.
    publications: in their order.
    jumps: in the numbering of this epoch, the newest eight.
    former: the epochs whose numbering this one continues, the newest last.
    """

    position: Position
    base: int
    publications: list[Publication]
    jumps: tuple[Jump, ...] = ()
    former: tuple[str, ...] = ()


class Resumption(NamedTuple):
    """The position from which a subscription continues: later publications come after it.

    position: None in a channel without history.
    is_recovered: whether every publication between the subscriber's position and this one follows; None: the subscriber
        had no position, so nothing can be missing.
    """

    channel: str
    position: Position | None
    is_recovered: bool | None


class Membership(NamedTuple):
    """Clients that joined a channel, or left it."""

    channel: str
    clients: tuple[ClientInfo, ...]
    have_joined: bool


class Removal(NamedTuple):
    """The history of a channel was removed; its numbering continues, and subscribers are not notified.

    A map that was cleared is in another epoch now.
    """

    channel: str


# Sent to subscribers of a channel.
Event = Publication | Resumption | Membership
# Received from a broker.
BrokerEvent = Publication | Membership | Removal


# The limit of a message in a channel without a namespace, by which nodes communicate.
MAX_CONTROL_BYTES = 1024 * 1024
