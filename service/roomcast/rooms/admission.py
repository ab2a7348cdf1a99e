"""The application's part in plain connections: it decides as for clients of the Centrifuge protocol."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from starlette.requests import HTTPConnection
from typing_extensions import override

from roomcast.auth.overrides import overridden
from roomcast.auth.permissions import Action, is_limited, may
from roomcast.brokers.map_interface import Conditions
from roomcast.connections.connection import Connection, Receiver
from roomcast.hooks import map_changes
from roomcast.hooks.interface import (
    Application,
    Caller,
    ConnectAnswer,
    ConnectedEvent,
    ConnectEvent,
    DisconnectEvent,
    Hook,
    NoConnectAnswer,
    RefreshAnswer,
    RefreshEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.model.errors import ErrorCode, Rejected, Rejection
from roomcast.model.namespaces import Namespace
from roomcast.model.payloads import kind_of_payload
from roomcast.model.publications import Kind, Publication
from roomcast.rooms.authentication import Authenticator, Identity
from roomcast.rooms.moderation import ModeratedPublisher
from roomcast.rooms.receivers import PlainReceiver, Publisher
from roomcast.tasks import TaskSet
from roomcast.web.client_server import ClientServer

# Asks the application whether a connection may stay.
Refresh = Callable[[], Awaitable[RefreshAnswer]]


class Expiry(NamedTuple):
    """When a connection expires, Unix time, 0: never. refresh: None: then it ends."""

    at_s: float
    refresh: Refresh | None = None


class Admitted(NamedTuple):
    """A client that may connect, and subscribe to one channel.

    namespace, info: of the subscription, as of `Node.subscribing`. publisher: for its messages. caller: None if the
        application takes no part.
    """

    identity: Identity
    namespace: Namespace
    info: bytes
    publisher: Publisher
    expiries: tuple[Expiry, ...]
    caller: Caller | None = None


class Admission:
    """Authenticates plain clients, and asks the application about those that connect, subscribe and publish.

    Args:
        tasks: for messages that wait for the application.
    """

    def __init__(
        self, authenticator: Authenticator, server: ClientServer, application: Application, tasks: TaskSet
    ) -> None:
        self.authenticator = authenticator
        self._server = server
        self._node = server.node
        self._application = application
        self._tasks = tasks

    def headers(self, request: HTTPConnection) -> Mapping[str, str]:
        """Return the headers of a request that the application receives."""
        return {name: request.headers[name] for name in self._application.headers if name in request.headers}

    def check_origin(self, request: HTTPConnection) -> None:
        """Return if a page may send a request whose cookies the application may receive. Raises: ClientError 103.

        Without the application, browsers' rule is enough: they do not give the answer to a page of another origin.
        """
        if Hook.CONNECT in self._application.handles:
            self._server.check_origin(request)

    async def reader(self, request: HTTPConnection) -> Identity:
        """Return the identity of a client that only reads, and may connect.

        Raises: as `Authenticator.required`; ApplicationError, ClientError, Refused of the application.
        """
        return (await self.visitor(request))[1]

    async def visitor(self, request: HTTPConnection) -> tuple[Caller, Identity]:
        """Return a client that makes one request, for the application, and its identity. Raises: as `reader`."""
        self.check_origin(request)
        identity = await self.authenticator.required(request)
        client_id = f"{self._node.id}-http-{secrets.token_hex(8)}"
        caller = Caller(client_id, "http", "json", identity.client.user, identity.meta, self.headers(request))
        identity = await self._connect(caller, identity)
        return caller._replace(user=identity.client.user, meta=identity.meta), identity

    async def check_subscribe(self, caller: Caller, identity: Identity, channel: str) -> None:
        """Return if a client may subscribe. Raises: ClientError 102, 103; ApplicationError, ClientError, Refused."""
        await self._subscribe(caller, identity, channel)

    async def accepted(self, caller: Caller, publication: Publication) -> tuple[Publication, Conditions]:
        """Return the change of a map that the application accepts, see `map_changes.accepted`."""
        return await map_changes.accepted(self._application, caller, publication, kind_of_payload)

    async def admit(
        self, connection: Connection, headers: Mapping[str, str], identity: Identity, channel: str
    ) -> Admitted:
        """Return how a client is subscribed to a channel; its connection gets the user and info of the answer.

        Args:
            connection: one of the node's.
        Raises: ClientError 102, 103; ApplicationError, ClientError, Refused of the application.
        """
        if not (self._application.handles or self._application.is_notified):
            namespace = self._node.namespaces.of(channel)
            may(Action.SUBSCRIBE, channel, namespace, identity.client, is_subscribed=False)
            return Admitted(identity, namespace, b"", self._node.client_publisher, (Expiry(identity.expire_at_s),))
        client_id, transport = self._node.roster.client_id(connection), connection.transport.name
        caller = Caller(client_id, transport, "json", connection.user, identity.meta, headers)
        has_token = identity.has_token
        if Hook.CONNECT in self._application.handles:
            identity = await self._connect(caller, identity)
            caller = caller._replace(user=identity.client.user, meta=identity.meta)
            connection.info = identity.info
            self._node.hub.identify(connection, identity.client.user)
        namespace, subscription = await self._subscribe(caller, identity, channel)
        application, refresh, sub_refresh = self._application, None, None
        if Hook.REFRESH in application.handles and not has_token:
            refresh = partial(application.on_refresh, RefreshEvent(caller))
        if Hook.SUB_REFRESH in application.handles:
            sub_refresh = partial(application.on_sub_refresh, SubRefreshEvent(caller, channel))
        return Admitted(
            identity,
            namespace,
            subscription.info,
            self._publisher(caller, namespace),
            (Expiry(identity.expire_at_s, refresh), Expiry(subscription.expire_at_s, sub_refresh)),
            caller,
        )

    def connected(self, connection: Connection, admitted: Admitted) -> None:
        """Notify the application that a client has connected, and later that it has disconnected."""
        if admitted.caller is not None and self._application.is_notified:
            connection.receiver = Followed(connection.receiver, self._application, admitted.caller)
            self._application.on_connected(ConnectedEvent(admitted.caller))

    async def _connect(self, caller: Caller, identity: Identity) -> Identity:
        if Hook.CONNECT not in self._application.handles:
            return identity
        answer: ConnectAnswer = await self._application.on_connect(ConnectEvent(caller, identity.info))
        is_admitted = identity.has_token or self._server.settings.anonymous or self._server.settings.insecure
        if isinstance(answer, NoConnectAnswer) and not is_admitted:
            reason = "no token, and no result of the application"
            raise Rejected(Rejection.NO_TOKEN, ErrorCode.UNAUTHORIZED, "send a token", reason=reason)
        return identity._replace(
            client=replace(identity.client, user=caller.user if answer.user is None else answer.user),
            info=identity.info if answer.info is None else answer.info,
            meta=identity.meta if answer.meta is None else answer.meta,
            expire_at_s=identity.expire_at_s if answer.expire_at_s is None else answer.expire_at_s,
            channels=answer.channels,
        )

    async def _subscribe(self, caller: Caller, identity: Identity, channel: str) -> tuple[Namespace, SubscribeAnswer]:
        """Return the options of a subscription: those in the answer to `connect`, in that to `subscribe`, or none."""
        namespace = self._node.namespaces.of(channel)
        answer = identity.channels.get(channel)
        # The application decides instead of the namespace, but a name that limits its users (`$`, `#`) holds.
        if answer is None and Hook.SUBSCRIBE in self._application.handles and not is_limited(channel):
            answer = await self._application.on_subscribe(SubscribeEvent(caller, channel))
        if answer is None:
            may(Action.SUBSCRIBE, channel, namespace, identity.client, is_subscribed=False)
            return namespace, SubscribeAnswer()
        return overridden(namespace, answer.override), answer

    def _publisher(self, caller: Caller, namespace: Namespace) -> Publisher:
        questions = {Hook.PUBLISH} if namespace.map is None else {Hook.MAP_PUBLISH, Hook.MAP_REMOVE}
        if not questions & self._application.handles:
            return self._node.client_publisher
        return ModeratedPublisher(self._node, self._application, self._tasks, caller)


class Followed(PlainReceiver):
    """A receiver of a client whose end the application is notified of."""

    __slots__ = ("_application", "_caller", "_receiver")

    def __init__(self, receiver: Receiver, application: Application, caller: Caller) -> None:
        self._receiver = receiver
        self._application = application
        self._caller = caller

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        self._receiver.on_message(connection, kind, data)

    @override
    def on_lost(self, connection: Connection, channel: str) -> None:
        self._receiver.on_lost(connection, channel)

    @override
    def on_closed(self, connection: Connection) -> None:
        self._receiver.on_closed(connection)
        self._application.on_disconnect(DisconnectEvent(self._caller, connection.transport.close_code(), ""))
