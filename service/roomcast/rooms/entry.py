"""How plain clients come into their channel: who may, what is told them first, and how long they may stay."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import HTTPConnection

from roomcast.auth.permissions import Action, may
from roomcast.model.errors import (
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    PERMISSION_DENIED,
    SERVER_ERROR,
    STALE,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
)
from roomcast.model.positions import position_of
from roomcast.model.publications import Publication
from roomcast.rooms.encodings import DEFLATED_ENVELOPE, DEFLATED_WEBSOCKET, PLAIN_WEBSOCKET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from roomcast.connections.connection import Connection, Receiver
    from roomcast.deadlines import Deadlines
    from roomcast.model.publications import Kind, Position, Resumption
    from roomcast.node.node import Node
    from roomcast.rooms.authentication import Authenticator, Identity


class TokenDeadline:
    """How long a visitor may stay. Implements `Expiring`. It keeps no connection, and goes with it."""

    def __init__(self, connection: Connection, deadlines: Deadlines) -> None:
        self._connection = weakref.ref(connection, lambda _: deadlines.forget(self))

    def on_deadline(self, now_s: float, grace_s: float) -> None:  # noqa: ARG002  (as in Expiring)
        """End the connection: it may come back with a new token."""
        connection = self._connection()
        if connection is not None:
            connection.close(EXPIRED)


class RoomEntry:
    """A WebSocket's way into its one channel: before its handshake is answered, or by its first message.

    Args:
        receiver_of: makes the receiver of a client that may publish, or may not.
        since: what the client has of the channel.
    """

    def __init__(
        self,
        node: Node,
        admission: Authenticator,
        deadlines: Deadlines,
        *,
        channel: str,
        receiver_of: Callable[[bool], Receiver],
        since: Position | None,
    ) -> None:
        self._node = node
        self._admission = admission
        self._deadlines = deadlines
        self._channel = channel
        self._receiver_of = receiver_of
        self._since = since

    async def enter(self, connection: Connection, visitor: Identity, *, welcome: bytes = b"") -> None:
        """Subscribe a visitor, and send it the start. Raises: ClientError, BrokerUnavailable.

        Args:
            welcome: sent before the start.
        """
        check_subscription(self._node, self._channel, visitor)
        async with self._node.subscribing(connection, self._channel, since=self._since) as start:
            if welcome:
                connection.send(welcome)
            send_start(connection, start)
        connection.receiver = self._receiver_of(self._may_publish(visitor))
        expire_with_token(self._deadlines, visitor, connection)

    async def enter_by_token(self, connection: Connection, token: str) -> None:
        """Subscribe a client that sent its token as a message. Raises: ClientError, BrokerUnavailable."""
        visitor = await self._admission.by_token(token)
        connection.info = visitor.info
        self._node.hub.identify(connection, visitor.client.user)
        await self.enter(connection, visitor, welcome=self._welcome(connection))

    def _may_publish(self, visitor: Identity) -> bool:
        namespace = self._node.namespaces.of(self._channel)
        try:
            may(Action.PUBLISH, self._channel, namespace, visitor.client, is_subscribed=True)
        except ClientError:
            return False
        return True

    def _welcome(self, connection: Connection) -> bytes:
        """Return what tells a client that it was let in by its first message: from then on it hears the channel."""
        client = orjson.dumps({"client": self._node.roster.client_id(connection)})
        is_deflated = connection.encoding in (DEFLATED_WEBSOCKET, DEFLATED_ENVELOPE)
        return (DEFLATED_WEBSOCKET if is_deflated else PLAIN_WEBSOCKET).encode(Publication("", client))


def send_start(connection: Connection, start: Sequence[Publication | Resumption]) -> None:
    """Send what a new subscriber is sent first."""
    for event in start:
        connection.send(connection.encoding.encode(event))


def check_subscription(node: Node, channel: str, visitor: Identity) -> None:
    """Return if a visitor may subscribe. Raises: ClientError 102, 103."""
    may(Action.SUBSCRIBE, channel, node.namespaces.of(channel), visitor.client, is_subscribed=False)


def expire_with_token(deadlines: Deadlines, visitor: Identity, connection: Connection) -> None:
    """Let a connection end when its visitor's token does: these clients have no way to refresh one, so at once."""
    if visitor.expire_at_s:
        deadlines.add(visitor.expire_at_s, TokenDeadline(connection, deadlines), at_once=True)


_DISCONNECTS = {ErrorCode.UNAUTHORIZED: INVALID_TOKEN, ErrorCode.TOKEN_EXPIRED: EXPIRED}


class FirstMessageAuth:
    """Implements `Receiver` until the client is let in: `{"token": "..."}` is all that it may send.

    Args:
        spawn: runs what has to wait, until the node ends.
        admit: lets in whom a token names, and gives the connection another receiver.
            Raises: ClientError, BrokerUnavailable.
    """

    connection: Connection

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None]], object], admit: Callable[[Connection, str], Awaitable[None]]
    ) -> None:
        self._spawn = spawn
        self._admit = admit
        self._has_introduced_itself = False

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:  # noqa: ARG002  (as in Receiver)
        """Take the token; anything else, or anything more, ends the connection."""
        token = _token_in(data)
        if token is None or self._has_introduced_itself:
            connection.close(BAD_REQUEST)
            return
        self._has_introduced_itself = True
        self._spawn(self._let_in(connection, token))

    def on_lost(self, connection: Connection, channel: str) -> None:
        """It is subscribed to nothing yet."""

    def on_closed(self, connection: Connection) -> None:
        """Nobody is told."""

    def on_deadline(self, now_s: float, grace_s: float) -> None:  # noqa: ARG002  (as in Expiring)
        """End a connection that has said nothing."""
        if self.connection.receiver is self:
            self.connection.close(STALE)

    async def _let_in(self, connection: Connection, token: str) -> None:
        try:
            await self._admit(connection, token)
        except ClientError as exc:
            connection.close(_DISCONNECTS.get(exc.error, PERMISSION_DENIED))
        except BrokerUnavailable:
            connection.close(SERVER_ERROR)


def _token_in(data: bytes) -> str | None:
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    token = message.get("token") if type(message) is dict else None
    return token if type(token) is str else None


def since_of(connection: HTTPConnection) -> Position | None:
    """Return the position from which a client goes on. Raises: ClientError 107 for one that is none."""
    epoch, colon, offset = connection.headers.get("last-event-id", "").rpartition(":")
    if not colon:
        epoch, offset = connection.query_params.get("epoch", ""), connection.query_params.get("since", "")
        if not epoch and not offset:
            return None
    return position_of(offset, epoch)
