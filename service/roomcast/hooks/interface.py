"""The interface between a node and the application: hooks, events and answers; the docstrings are the contract.

An application answers in Python (`python_handlers.py`) or over HTTP (`http_handlers.py`), and is notified of events
over HTTP (webhooks). See docs/applications.md.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from roomcast.auth import Override
from roomcast.model.errors import ApplicationError, ClientError
from roomcast.model.maps import KeyMode


class Hook(enum.StrEnum):
    """A question to the application, or a notification."""

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    MAP_PUBLISH = "map_publish"
    MAP_REMOVE = "map_remove"
    RPC = "rpc"
    REFRESH = "refresh"
    SUB_REFRESH = "sub_refresh"
    DISCONNECT = "disconnect"


class Caller(NamedTuple):
    """The client that caused an event.

    client: id, unique among all connections. transport: "websocket", "sse", "poll", "http" ... encoding: "json" or
        "protobuf"; "binary" for a binary message of a plain client.
    user: "" is anonymous. meta: JSON that only the application receives: the one in its answer to `on_connect`, or in
        the token; or empty.
    headers: the headers of the handshake that `Application.headers` lists, names in lower case.
    """

    client: str
    transport: str
    encoding: str = "json"
    user: str = ""
    meta: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class ConnectEvent(NamedTuple):
    """A client connects.

    caller: its user and meta are those of the token; both are empty without one.
    info: JSON of the token, or empty. data: sent by the client, JSON if its encoding is; or empty.
    name, version: of the client library, as sent; empty for plain clients. channels: server-side subscriptions that the
        client wants to recover.
    """

    caller: Caller
    info: bytes = b""
    data: bytes = b""
    name: str = ""
    version: str = ""
    channels: tuple[str, ...] = ()


class SubscribeAnswer(NamedTuple):
    """The client may subscribe.

    info: JSON about the client for others in this channel, or empty. data: for the client, JSON if its encoding is; or
        empty. expire_at_s: when the subscription expires, seconds since 1970; 0: never.
    """

    info: bytes = b""
    data: bytes = b""
    expire_at_s: int = 0
    override: Override = Override()


class ConnectAnswer(NamedTuple):
    """The client may connect.

    user: None: as in the token, anonymous without one. info: JSON about the client for others, or empty; None: as in
        the token. meta: see `Caller`; None: as in the token.
    data: for the client, JSON if its encoding is; or empty. channels: server-side subscriptions.
    expire_at_s: when the connection expires, seconds since 1970; 0: never; None: as in the token.
    """

    user: str | None = None
    info: bytes | None = None
    data: bytes = b""
    meta: bytes | None = None
    channels: Mapping[str, SubscribeAnswer] = MappingProxyType({})
    expire_at_s: int | None = None


class NoConnectAnswer(ConnectAnswer):
    """The application does not decide: the client is as in its token, or anonymous where such clients may connect."""

    __slots__ = ()


class SubscribeEvent(NamedTuple):
    """A client subscribes without a subscription token. data: sent by it, JSON if its encoding is; or empty."""

    caller: Caller
    channel: str
    data: bytes = b""


class PublishEvent(NamedTuple):
    """A client publishes. data: JSON if its encoding is."""

    caller: Caller
    channel: str
    data: bytes


class PublishAnswer(NamedTuple):
    """The client may publish. data: replaces the client's data, JSON if its encoding is; None: unchanged."""

    data: bytes | None = None
    skip_history: bool = False


class MapPublishEvent(NamedTuple):
    """A client sets a key of a map. data: the value, JSON if its encoding is; empty: a value without data."""

    caller: Caller
    channel: str
    key: str
    data: bytes = b""


class MapPublishAnswer(NamedTuple):
    """The client may set the key; the conditions are those of `map_publish` in the server API.

    key: replaces the client's key; "": unchanged. data: replaces the client's data, JSON if its encoding is, or empty;
        None: unchanged. tags: of the value.
    key_mode: set it only if the key is absent, or present. idempotency_key: the write is made once within 5 minutes.
    version: the write is ignored unless it is higher than the key's version in `version_epoch`; 0: no version.
    """

    key: str = ""
    data: bytes | None = None
    tags: Mapping[str, str] | None = None
    key_mode: KeyMode = KeyMode.REPLACE
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


class MapRemoveEvent(NamedTuple):
    """A client removes a key of a map."""

    caller: Caller
    channel: str
    key: str


class MapRemoveAnswer(NamedTuple):
    """The client may remove the key. key, idempotency_key: as in `MapPublishAnswer`."""

    key: str = ""
    idempotency_key: str = ""


class RpcEvent(NamedTuple):
    """A client calls a procedure. data: JSON if its encoding is, or empty. method: empty for a `send`."""

    caller: Caller
    method: str
    data: bytes = b""


class RefreshEvent(NamedTuple):
    """A connection is about to expire, and its client has no token to refresh it."""

    caller: Caller


class SubRefreshEvent(NamedTuple):
    """A subscription is about to expire, and its client has no token to refresh it."""

    caller: Caller
    channel: str


class RefreshAnswer(NamedTuple):
    """The connection or subscription is refreshed, or expires.

    expire_at_s: when it expires next, seconds since 1970; 0: never. is_expired: it expires now.
    info: new JSON about the client for others; None: unchanged.
    """

    expire_at_s: int = 0
    is_expired: bool = False
    info: bytes | None = None


class ConnectedEvent(NamedTuple):
    """A client has connected."""

    caller: Caller


class DisconnectEvent(NamedTuple):
    """A client has disconnected. code, reason: of the close frame; 1006 if there was none."""

    caller: Caller
    code: int
    reason: str


class Application(Protocol):
    """The application behind a node: decides requests of clients and is notified of them.

    A question is never repeated: an application that did not answer may have acted on it.
    Methods with an answer raise:
        ApplicationError: the client receives the application's own error.
        Refused: the connection is closed.
        ClientError: 108 for a hook that is not handled; 111 if too many requests wait for the application; 100 if it
            did not answer in time, or gave an invalid answer. The reason is in the log, never in the error.
    """

    __slots__ = ()

    @property
    def handles(self) -> frozenset[Hook]:
        """Return the hooks that the application handles; others are not called.

        Without CONNECT only tokens authenticate, without RPC calls fail (108), without SUBSCRIBE, PUBLISH, MAP_PUBLISH
        and MAP_REMOVE namespaces and tokens decide, without REFRESH and SUB_REFRESH only tokens refresh.
        """

    @property
    def is_notified(self) -> bool:
        """Return whether `on_connected` and `on_disconnect` have an effect."""

    @property
    def headers(self) -> frozenset[str]:
        """Return the headers of handshakes that `Caller.headers` contains, in lower case."""

    async def on_connect(self, event: ConnectEvent) -> ConnectAnswer:
        """Accept a client, also one without a token, and return its user and subscriptions."""

    async def on_subscribe(self, event: SubscribeEvent) -> SubscribeAnswer:
        """Accept a subscription and return its options."""

    async def on_publish(self, event: PublishEvent) -> PublishAnswer:
        """Accept a publication and return changes to it."""

    async def on_map_publish(self, event: MapPublishEvent) -> MapPublishAnswer:
        """Accept a value of a map and return changes to it, and the conditions of the write."""

    async def on_map_remove(self, event: MapRemoveEvent) -> MapRemoveAnswer:
        """Accept the removal of a key and return changes to it."""

    async def on_rpc(self, event: RpcEvent) -> bytes:
        """Return the result of a procedure: JSON if the client's encoding is, or empty."""

    async def on_refresh(self, event: RefreshEvent) -> RefreshAnswer:
        """Return when a connection expires next."""

    async def on_sub_refresh(self, event: SubRefreshEvent) -> RefreshAnswer:
        """Return when a subscription expires next."""

    def on_connected(self, event: ConnectedEvent) -> None:
        """Notify that a client has connected: its `connect` was answered, or it is a plain one. Does not block.

        Delivery: see docs/applications.md; `on_disconnect` follows once the client is gone, unless the node was killed.
        """

    def on_disconnect(self, event: DisconnectEvent) -> None:
        """Notify that a client has disconnected for which `on_connected` was called. Does not block.

        Delivery: at most once to the Python handler: a node that shuts down flushes its queue for a second; events that
            find the queue full are dropped and counted. At least once as webhook, see docs/applications.md.
        """


class NoAnswer(Exception):  # noqa: N818  (the result of the question)
    """The application gave no answer, or an invalid one; `reason` is for the log, never for a client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# The function for each hook, from its event to its answer (Any: validated after the call). They raise as the methods of
# `Application`, but NoAnswer instead of ClientError 100, after logging the reason.
Handlers = Mapping[Hook, Callable[[Any], Awaitable[Any]]]


async def refreshed(asked: Awaitable[RefreshAnswer], now_s: Callable[[], float]) -> RefreshAnswer | None:
    """Return the answer to a refresh; None if the application fails or answers a time that is over. Raises: Refused."""
    try:
        answer = await asked
    except (ApplicationError, ClientError):
        return None
    is_over = answer.is_expired or 0 < answer.expire_at_s <= now_s()
    return None if is_over else answer
