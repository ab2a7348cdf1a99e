"""What clients of the plain endpoints say: rooms, the classic chat, echo, and feeds that only speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from roomcast.model.errors import PERMISSION_DENIED, UNSUPPORTED_DATA
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Kind, Publication

if TYPE_CHECKING:
    from roomcast.connections.connection import Connection


class Publisher(Protocol):
    """Who publishes for a client: the node."""

    def publish_for(self, connection: Connection, publication: Publication) -> None:
        """Publish, soon; see `ClientPublisher.publish_for`."""


class Room:
    """A plain room: a message is a publication, a publication is a message, as it was. Implements `Receiver`."""

    __slots__ = ("_channel", "_may_publish", "_publisher")

    def __init__(self, publisher: Publisher, channel: str, *, may_publish: bool) -> None:
        self._publisher = publisher
        self._channel = channel
        self._may_publish = may_publish

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Publish it to the room; where the client may not, end the connection (3507)."""
        if self._may_publish:
            kind = kind_of_text(data) if kind is Kind.TEXT else kind
            self._publisher.publish_for(connection, Publication(self._channel, data, kind))
        else:
            connection.close(PERMISSION_DENIED)

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Its encoding has told the client, if it can."""

    def on_closed(self, connection: Connection) -> None:
        """Nobody is told."""


class Chat:
    """The classic chat: what one says is answered to the sender and told to everyone. Implements `Receiver`."""

    __slots__ = ("_channel", "_client_id", "_may_publish", "_publisher")

    def __init__(self, publisher: Publisher, channel: str, client_id: str, *, may_publish: bool) -> None:
        self._publisher = publisher
        self._channel = channel
        self._may_publish = may_publish
        self._client_id = client_id

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Answer `You: x`, and tell everyone who says x."""
        if kind is Kind.BINARY:
            connection.close(UNSUPPORTED_DATA)
            return
        if not self._may_publish:
            connection.close(PERMISSION_DENIED)
            return
        connection.send(connection.encoding.encode(Publication(self._channel, b"You: " + data)))
        said = f"Client #{self._client_id} says: ".encode() + data
        self._publisher.publish_for(connection, Publication(self._channel, said))

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Plain frames have no way to tell it."""

    def on_closed(self, connection: Connection) -> None:
        """Tell everyone who left."""
        if connection.opened_at_s is None or not self._may_publish:
            return
        left = f"Client #{self._client_id} left the chat".encode()
        self._publisher.publish_for(connection, Publication(self._channel, left))


class Echo:
    """Each text `x` is answered with `Message received: x`. Implements `Receiver`."""

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Answer it."""
        if kind is Kind.BINARY:
            connection.close(UNSUPPORTED_DATA)
            return
        connection.send(connection.encoding.encode(Publication("", b"Message received: " + data)))

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Its encoding has told the client, if it can."""

    def on_closed(self, connection: Connection) -> None:
        """Nobody is told."""


class Feed:
    """A channel that clients only listen to: what they send is ignored. Implements `Receiver`."""

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Ignore it."""

    def on_lost(self, connection: Connection, channel: str) -> None:
        """Its encoding has told the client, if it can."""

    def on_closed(self, connection: Connection) -> None:
        """Nobody is told."""
