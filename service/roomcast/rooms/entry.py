"""Subscribing plain clients: authentication by the first message, permission, start and expiry."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import HTTPConnection
from typing_extensions import override

from roomcast.auth.permissions import Action, may
from roomcast.connections.connection import Connection, Receiver
from roomcast.deadlines import Deadlines, Expiring
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
    Rejected,
)
from roomcast.model.positions import Position, position_of
from roomcast.model.publications import Kind, Publication, Resumption
from roomcast.node.node import Node
from roomcast.rooms.authentication import Authenticator, Identity
from roomcast.rooms.encodings import DEFLATED_ENVELOPE, DEFLATED_WEBSOCKET, PLAIN_WEBSOCKET
from roomcast.rooms.receivers import PlainReceiver


class TokenDeadline(Expiring):
    """The expiry of a connection's token. It does not keep the connection alive, and ends with it."""

    def __init__(self, connection: Connection, deadlines: Deadlines) -> None:
        self._connection = weakref.ref(connection, lambda _: deadlines.forget(self))

    @override
    def on_deadline(self, now_s: float, grace_s: float) -> None:
        connection = self._connection()
        if connection is not None:
            connection.close(EXPIRED)


@dataclass(slots=True, eq=False)
class RoomEntry:
    """Subscribes a WebSocket to its channel: before its handshake is accepted, or by its first message.

    Args:
        receiver_of: makes the receiver; its argument is whether the client may publish.
        since: the client's position in the channel.
    """

    _node: Node
    _authenticator: Authenticator
    _deadlines: Deadlines
    _channel: str
    _receiver_of: Callable[[bool], Receiver]
    _since: Position | None

    async def enter(self, connection: Connection, identity: Identity, *, welcome: bytes = b"") -> None:
        """Subscribe a client; send it `welcome`, then the start. Raises: ClientError, BrokerUnavailable."""
        check_subscription(self._node, self._channel, identity)
        async with self._node.subscribing(connection, self._channel, since=self._since) as start:
            if welcome:
                connection.send(welcome)
            send_start(connection, start)
        connection.receiver = self._receiver_of(self._may_publish(identity))
        expire_with_token(self._deadlines, identity, connection)

    async def enter_by_token(self, connection: Connection, token: str) -> None:
        """Subscribe a client that sent its token as a message. Raises: ClientError, BrokerUnavailable."""
        try:
            identity = await self._authenticator.by_token(token)
        except Rejected as exc:
            self._node.rejections.note(exc.rejection, connection.address, exc.reason, conn=connection.id)
            raise
        connection.info = identity.info
        self._node.hub.identify(connection, identity.client.user)
        await self.enter(connection, identity, welcome=self._welcome(connection))

    def _may_publish(self, identity: Identity) -> bool:
        namespace = self._node.namespaces.of(self._channel)
        try:
            may(Action.PUBLISH, self._channel, namespace, identity.client, is_subscribed=True)
        except ClientError:
            return False
        return True

    def _welcome(self, connection: Connection) -> bytes:
        """Return the reply to a first message with a valid token; the channel's publications follow it."""
        client = orjson.dumps({"client": self._node.roster.client_id(connection)})
        is_deflated = connection.encoding in (DEFLATED_WEBSOCKET, DEFLATED_ENVELOPE)
        return (DEFLATED_WEBSOCKET if is_deflated else PLAIN_WEBSOCKET).encode(Publication("", client))


def send_start(connection: Connection, start: Sequence[Publication | Resumption]) -> None:
    """Send the start of a subscription."""
    for event in start:
        connection.send(connection.encoding.encode(event))


def check_subscription(node: Node, channel: str, identity: Identity) -> None:
    """Return if a client may subscribe. Raises: ClientError 102, 103."""
    may(Action.SUBSCRIBE, channel, node.namespaces.of(channel), identity.client, is_subscribed=False)


def expire_with_token(deadlines: Deadlines, identity: Identity, connection: Connection) -> None:
    """Close a connection when its token expires: without grace, because plain clients cannot refresh it."""
    if identity.expire_at_s:
        deadlines.add(identity.expire_at_s, TokenDeadline(connection, deadlines), at_once=True)


_DISCONNECTS = {ErrorCode.UNAUTHORIZED: INVALID_TOKEN, ErrorCode.TOKEN_EXPIRED: EXPIRED}


class FirstMessageAuth(PlainReceiver, Expiring):
    """The receiver until the client is authenticated: it may send only `{"token": "..."}`.

    Args:
        spawn: runs a task until the node ends.
        admit: authenticates a client by its token, and replaces the receiver. Raises: ClientError, BrokerUnavailable.
    """

    connection: Connection

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None]], object], admit: Callable[[Connection, str], Awaitable[None]]
    ) -> None:
        self._spawn = spawn
        self._admit = admit
        self._has_token = False

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        token = _token_in(data)
        if token is None or self._has_token:
            connection.close(BAD_REQUEST)
            return
        self._has_token = True
        self._spawn(self._authenticate(connection, token))

    @override
    def on_deadline(self, now_s: float, grace_s: float) -> None:
        if self.connection.receiver is self:
            self.connection.close(STALE)

    async def _authenticate(self, connection: Connection, token: str) -> None:
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
    """Return the position from which a client recovers. Raises: ClientError 107 for an invalid one."""
    epoch, colon, offset = connection.headers.get("last-event-id", "").rpartition(":")
    if not colon:
        epoch, offset = connection.query_params.get("epoch", ""), connection.query_params.get("since", "")
        if not epoch and not offset:
            return None
    return position_of(offset, epoch)
