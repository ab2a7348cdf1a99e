"""The receivers of plain clients: rooms, the classic chat, echo, and feeds, which ignore messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from roomcast.connections.connection import Connection, Receiver
from roomcast.model.errors import PERMISSION_DENIED, UNSUPPORTED_DATA, ApplicationError
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Kind, Publication
from roomcast.node.client_publisher import Result

# Of a message, also of one that the application rejects.
Outcome = Result | ApplicationError


class Publisher(Protocol):
    """Publishes the messages of clients; `ClientPublisher` on a node."""

    def publish_for(
        self,
        connection: Connection,
        publication: Publication,
        on_result: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Publish a client's message soon; one with a change is written into its map.

        Args:
            on_result: receives the result, or the exception that prevented it, once, now or later; not if the client
                is closed.
        """


class PlainReceiver(Receiver):
    """The base of the receivers of plain clients."""

    __slots__ = ()

    @override
    def on_lost(self, connection: Connection, channel: str) -> None:
        """The encoding notifies the client, if it can."""

    @override
    def on_closed(self, connection: Connection) -> None:
        """Other clients are not notified."""


class Room(PlainReceiver):
    """A plain room: each message is published unchanged."""

    __slots__ = ("_channel", "_may_publish", "_publisher")

    def __init__(self, publisher: Publisher, channel: str, *, may_publish: bool) -> None:
        self._publisher = publisher
        self._channel = channel
        self._may_publish = may_publish

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        if self._may_publish:
            kind = kind_of_text(data) if kind is Kind.TEXT else kind
            self._publisher.publish_for(connection, Publication(self._channel, data, kind))
        else:
            connection.close(PERMISSION_DENIED)


class Chat(PlainReceiver):
    """The classic chat: each message is confirmed to its sender, and published with the sender's id."""

    __slots__ = ("_channel", "_client_id", "_may_publish", "_publisher")

    def __init__(self, publisher: Publisher, channel: str, client_id: str, *, may_publish: bool) -> None:
        self._publisher = publisher
        self._channel = channel
        self._may_publish = may_publish
        self._client_id = client_id

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        if kind is Kind.BINARY:
            connection.close(UNSUPPORTED_DATA)
            return
        if not self._may_publish:
            connection.close(PERMISSION_DENIED)
            return
        connection.send(connection.encoding.encode(Publication(self._channel, b"You: " + data)))
        said = f"Client #{self._client_id} says: ".encode() + data
        self._publisher.publish_for(connection, Publication(self._channel, said))

    @override
    def on_closed(self, connection: Connection) -> None:
        if connection.opened_at_s is None or not self._may_publish:
            return
        left = f"Client #{self._client_id} left the chat".encode()
        self._publisher.publish_for(connection, Publication(self._channel, left))


class Echo(PlainReceiver):
    """Answers each text `x` with `Message received: x`."""

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        if kind is Kind.BINARY:
            connection.close(UNSUPPORTED_DATA)
            return
        connection.send(connection.encoding.encode(Publication("", b"Message received: " + data)))


class Feed(PlainReceiver):
    """A receive-only channel."""

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        """Messages of clients are ignored."""
