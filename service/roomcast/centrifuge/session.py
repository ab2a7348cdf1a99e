"""One client of the Centrifuge protocol as commands see it: its identity, its subscriptions, its replies and pushes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from roomcast.auth.permissions import Client
from roomcast.centrifuge.codec import Command
from roomcast.centrifuge.map_loading import NO_LOADS, Loading
from roomcast.centrifuge.session_context import SessionContext
from roomcast.centrifuge.terms import View
from roomcast.centrifuge.wire import Wire
from roomcast.connections.connection import Connection, State
from roomcast.deadlines import Expiring
from roomcast.hooks.interface import Caller
from roomcast.model.errors import SLOW, ApplicationError, Disconnect, ErrorCode, Unsubscribe


@dataclass(slots=True, kw_only=True, eq=False)
class SessionSubscription:
    """A subscription of a session.

    expire_at_s: Unix time at which it expires unless it is refreshed, 0: never.
    is_of_server: the server has subscribed the client.
    is_refreshed_by_application: at that time the application is asked; the client has no token to refresh it with.
    is_by_permission: the namespace and the client's permissions allowed it, no subscription token and no application.
    is_positioned: the client was sent its position, and is notified when publications after it are lost.
    """

    expire_at_s: float = 0
    is_of_server: bool = False
    is_refreshed_by_application: bool = False
    is_by_permission: bool = False
    is_positioned: bool = False


class Queue(Expiring, Protocol):
    """The commands of a session."""

    __slots__ = ()

    @property
    def is_executing(self) -> bool:
        """Return whether a command is executed; those that come meanwhile wait."""


class Session:
    """Its connection counts as open once `connect` has been answered.

    id: a secret: it authorises commands of requests to any node (`/emulation`).
    """

    __slots__ = (
        "_headers",
        "_queue",
        "client",
        "connection",
        "context",
        "expire_at_s",
        "id",
        "is_connected",
        "is_refreshed_by_application",
        "loads",
        "meta",
        "subscriptions",
        "token_channels",
        "token_user",
        "wire",
    )

    def __init__(
        self,
        context: SessionContext,
        wire: Wire,
        connection: Connection,
        queue: Queue,
        headers: Mapping[str, str],
    ) -> None:
        self.context = context
        self.wire = wire
        self.connection = connection
        self.id = secrets.token_urlsafe(16)
        self.client = Client()
        self.meta = b""  # JSON that only the application sees
        self.token_user = ""  # the user of the tokens that refresh it; the application may give the client another one
        self.token_channels: tuple[str, ...] = ()  # the server-side subscriptions of its token
        self.is_connected = False
        self.expire_at_s = 0.0  # Unix time, 0: never
        self.is_refreshed_by_application = False  # as of a SessionSubscription
        self.subscriptions: dict[str, SessionSubscription] = {}
        self.loads: Mapping[str, Loading] = NO_LOADS  # of maps that it is not subscribed to yet, by channel
        self._queue = queue  # called when this expires
        # Pairs: of most clients there are none, and an empty dict would be 64 bytes of each.
        self._headers = tuple((name, headers[name]) for name in context.application.headers if name in headers)

    @property
    def client_id(self) -> str:
        """Return the client's id, which is unique in the cluster."""
        return self.context.node.roster.client_id(self.connection)

    @property
    def caller(self) -> Caller:
        """Return this client as the application sees it."""
        transport, encoding = self.connection.transport.name, self.wire.encoding_name
        return Caller(self.client_id, transport, encoding, self.client.user, self.meta, dict(self._headers))

    def disconnect(self, disconnect: Disconnect) -> None:
        """Close the connection; commands that wait are not executed."""
        self.connection.close(disconnect)

    def reply(self, command: Command, result: Mapping[str, Any]) -> None:
        """Answer a command that was executed."""
        self._write(self.wire.codec.reply(command.id, command.method, result))

    def reply_with_state(self, command: Command, result: Mapping[str, Any], state: bytes) -> None:
        """Answer a subscription to a map, with entries as of `Codec.state`."""
        self._write(self.wire.codec.reply_with_state(command.id, result, state))

    def refuse(self, command: Command, error: ErrorCode | ApplicationError) -> None:
        """Answer a command that was rejected, with the error's code but without its details.

        A command without an id gets no answer: clients take a reply without an id for a ping, and their pong to it
        would end the connection.
        """
        if command.id:
            self._write(self.wire.codec.error(command.id, error.code, error.message, is_temporary=error.is_temporary))

    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> None:
        """Send the client a push; `kind` as in `Codec.push`."""
        self._write(self.wire.codec.push(channel, kind, fields))

    def add_subscription(self, channel: str, subscription: SessionSubscription) -> None:
        """Keep a subscription that the node has made."""
        self.subscriptions[channel] = subscription
        self.check_expiry_of(subscription)

    def begin_load(self, channel: str, view: View) -> Loading:
        """Begin to load a map, until `end_load` or the end of the session."""
        loading = Loading(self.context.deadlines, view, self._is_busy)
        self.loads = {**self.loads, channel: loading}
        return loading

    def end_load(self, channel: str) -> bool:
        """End a load, also before it is finished; return whether there was one."""
        loading = self.loads.get(channel)
        if loading is None:
            return False
        loading.close()
        self.loads = {name: each for name, each in self.loads.items() if each is not loading} or NO_LOADS
        return True

    def remove_subscription(self, channel: str) -> bool:
        """End a subscription, or the load that precedes it, without a push; return whether there was one."""
        if self.end_load(channel):
            return True
        if self.subscriptions.pop(channel, None) is None:
            return False
        self.context.node.unsubscribe(self.connection, channel)
        return True

    def unsubscribe(self, channel: str, reason: Unsubscribe) -> None:
        """End a subscription, and notify the client."""
        loading = self.loads.get(channel)
        if loading is not None:
            # A request under way would go live after this; the error is that of the next request of a load that ended.
            loading.abort(ErrorCode.PERMISSION_DENIED)
        if self.remove_subscription(channel):
            self.push(channel, "unsubscribe", {"code": reason.code, "reason": reason.reason})

    def expire_at(self, unix_s: float) -> None:
        """Let the connection expire at a Unix time, unless it is refreshed; 0: never."""
        self.expire_at_s = unix_s
        self.check_expiry_of(self)

    def check_expiry_of(self, it: Session | SessionSubscription) -> None:
        """Check at its time whether it has expired, or later, when clients have had time to refresh it."""
        if self.connection.state is not State.CLOSED:  # else it was closed while the application was asked
            self.context.deadlines.add(it.expire_at_s, self._queue, at_once=it.is_refreshed_by_application)

    def _is_busy(self) -> bool:
        """Return whether commands of the client are executed, or it reads what it was sent."""
        return self._queue.is_executing or self.connection.is_congested

    def _write(self, message: bytes) -> None:
        """Send a message of the codec; until the connection is open, before the publications that it holds back."""
        if self.connection.state is State.CONNECTING:
            self.connection.transport.write(self.wire.frame(message))
            if self.connection.transport.unsent_bytes() > self.connection.max_unsent_bytes:
                self.disconnect(SLOW)
        else:
            self.connection.send(self.wire.frame(message))
