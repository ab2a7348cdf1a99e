"""Subscribing plain clients: authentication by the first message, permission, start and expiry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import HTTPConnection
from typing_extensions import override

from roomcast.auth.permissions import Action, may
from roomcast.connections.connection import Connection, Receiver
from roomcast.deadlines import Expiring
from roomcast.model.errors import (
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    PERMISSION_DENIED,
    SERVER_ERROR,
    STALE,
    ApplicationError,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
    Refused,
    Rejected,
)
from roomcast.model.positions import Position, position_of
from roomcast.model.publications import Kind, Publication, Resumption
from roomcast.node.node import Node
from roomcast.rooms.admission import Admission, Admitted
from roomcast.rooms.authentication import Identity
from roomcast.rooms.encodings import text_frame
from roomcast.rooms.expiry import Expiries
from roomcast.rooms.receivers import PlainReceiver, Publisher
from roomcast.web.event_ids import last_event_id


@dataclass(slots=True, eq=False)
class Entry:
    """Subscribes a client to its channel: before its handshake or stream is answered, or by its first message.

    Args:
        headers: of the handshake or request, for the application.
        since: the client's position in the channel.
    """

    _node: Node
    _admission: Admission
    _expiries: Expiries
    _headers: Mapping[str, str]
    _channel: str
    _since: Position | None

    @property
    def is_placed(self) -> bool:
        """Return whether the client has a position."""
        return self._since is not None

    async def subscribe(self, connection: Connection, admitted: Admitted, welcome: bytes) -> None:
        """Subscribe a client; send it `welcome`, then the start. Raises: as `enter`."""
        raise NotImplementedError

    def receiver(self, connection: Connection, admitted: Admitted) -> Receiver:
        """Return the receiver of a client that is subscribed."""
        raise NotImplementedError

    async def enter(self, connection: Connection, identity: Identity, *, welcome: bytes = b"") -> None:
        """Subscribe a client; send it `welcome`, then the start.

        Raises: ApplicationError, BrokerUnavailable, ClientError, Refused.
        """
        admitted = await self._admission.admit(connection, self._headers, identity, self._channel)
        await self.subscribe(connection, admitted, welcome)
        connection.receiver = self.receiver(connection, admitted)
        self._admission.connected(connection, admitted)
        self._expiries.watch(connection, admitted.expiries)

    async def enter_by_token(self, connection: Connection, token: str) -> None:
        """Subscribe a client that sent its token as a message. Raises: as `enter`."""
        try:
            identity = await self._admission.authenticator.by_token(token)
        except Rejected as exc:
            self._node.rejections.note(exc.rejection, connection.address, exc.reason, conn=connection.id)
            raise
        connection.info = identity.info
        self._node.hub.identify(connection, identity.client.user)
        await self.enter(connection, identity, welcome=self.welcome(connection))

    def may(self, action: Action, identity: Identity) -> bool:
        """Return whether a client that is subscribed may do this."""
        namespace = self._node.namespaces.of(self._channel)
        try:
            may(action, self._channel, namespace, identity.client, is_subscribed=True)
        except ClientError:
            return False
        return True

    def welcome(self, connection: Connection) -> bytes:
        """Return the reply to a first message with a valid token; the channel's publications follow it."""
        client = orjson.dumps({"client": self._node.roster.client_id(connection)})
        return text_frame(connection.encoding, client)


@dataclass(slots=True, eq=False)
class RoomEntry(Entry):
    """The entry of a channel that is not a map.

    Args:
        receiver_of: makes the receiver; its arguments are the publisher, and whether the client may publish.
    """

    _receiver_of: Callable[[Publisher, bool], Receiver]

    @override
    async def subscribe(self, connection: Connection, admitted: Admitted, welcome: bytes) -> None:
        async with self._node.subscribing(
            connection, self._channel, namespace=admitted.namespace, info=admitted.info, since=self._since
        ) as start:
            if welcome:
                connection.send(welcome)
            send_start(connection, start, self._channel, self._since)

    @override
    def receiver(self, connection: Connection, admitted: Admitted) -> Receiver:
        return self._receiver_of(admitted.publisher, self.may(Action.PUBLISH, admitted.identity))


def send_start(
    connection: Connection, start: Sequence[Publication | Resumption], channel: str, since: Position | None
) -> None:
    """Send the start of a subscription, which may be a whole history, to a client that has the position `since`."""
    connection.send_missed(map(connection.encoding.encode, start_of(start, channel, since)))


def start_of(
    start: Sequence[Publication | Resumption], channel: str, since: Position | None
) -> Sequence[Publication | Resumption]:
    """Return the start of a subscription, with the report of a loss where a channel recovers nothing for its client."""
    return (Resumption(channel, None, is_recovered=False),) if since is not None and not start else start


_DISCONNECTS = {
    ErrorCode.UNAUTHORIZED: INVALID_TOKEN,
    ErrorCode.TOKEN_EXPIRED: EXPIRED,
    **{error: SERVER_ERROR for error in ErrorCode if error.is_temporary},
}


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
        except ApplicationError as exc:
            connection.close(SERVER_ERROR if exc.is_temporary else PERMISSION_DENIED)
        except Refused as exc:
            connection.close(exc.disconnect)
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
    if (position := last_event_id(connection).position) is not None:
        return position
    epoch, offset = connection.query_params.get("epoch", ""), connection.query_params.get("since", "")
    return position_of(offset, epoch) if epoch or offset else None
