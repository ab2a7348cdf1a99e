"""How the application takes part in what its clients do: the interface; its docstrings are the contract.

An application answers by handlers in Python (`hooks.python`) or over HTTP (`hooks.proxy`), and is told over HTTP what
has happened (`hooks.webhooks`). See docs/applications.md.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from roomcast.auth import Override

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


__all__ = [
    "Application",
    "Caller",
    "ConnectAnswer",
    "ConnectEvent",
    "ConnectedEvent",
    "DisconnectEvent",
    "Hook",
    "Override",
    "PublishAnswer",
    "PublishEvent",
    "RefreshAnswer",
    "RefreshEvent",
    "RpcEvent",
    "SubRefreshEvent",
    "SubscribeAnswer",
    "SubscribeEvent",
]


class Hook(enum.StrEnum):
    """What an application can be asked, or told."""

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    RPC = "rpc"
    REFRESH = "refresh"
    SUB_REFRESH = "sub_refresh"
    DISCONNECT = "disconnect"


class Caller(NamedTuple):
    """The client whose doing it is.

    client: unique among all connections. transport: "websocket", "sse" ... encoding: "json" or "protobuf".
    user: who it is; "" is nobody known. meta: JSON that only the application sees, as it was answered to
        `on_connect`, or stood in the token; empty for none.
    headers: of its handshake, those that `Application.headers` names; names in lower case.
    """

    client: str
    transport: str
    encoding: str = "json"
    user: str = ""
    meta: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class ConnectEvent(NamedTuple):
    """A client connects.

    caller: its user and meta are those of its token; without a token it has none.
    info: JSON of the token, or empty. data: what the client sent along, JSON if its encoding is; or empty.
    name, version: of the client library, as it says. channels: those it wants to be subscribed to by the server.
    """

    caller: Caller
    info: bytes = b""
    data: bytes = b""
    name: str = ""
    version: str = ""
    channels: tuple[str, ...] = ()


class SubscribeAnswer(NamedTuple):
    """A client may subscribe.

    info: JSON of this subscription, for others to see, or empty. data: for the client, JSON if its encoding is; or
        empty. expire_at_s: when the subscription expires, seconds since 1970; 0: never.
    """

    info: bytes = b""
    data: bytes = b""
    expire_at_s: int = 0
    override: Override = Override()


class ConnectAnswer(NamedTuple):
    """A client may connect.

    user: who it is; None: as its token says, and nobody known without one.
    info: JSON of the connection, for others to see, or empty; None: as its token says.
    data: for the client, JSON if its encoding is; or empty. meta: see `Caller`; None: as its token says.
    channels: what the server subscribes the client to. expire_at_s: when the connection expires, seconds since 1970;
        0: never; None: as its token says.
    """

    user: str | None = None
    info: bytes | None = None
    data: bytes = b""
    meta: bytes | None = None
    channels: Mapping[str, SubscribeAnswer] = MappingProxyType({})
    expire_at_s: int | None = None


class SubscribeEvent(NamedTuple):
    """A client subscribes without a subscription token. data: what it sent along, JSON if its encoding is; or empty."""

    caller: Caller
    channel: str
    data: bytes = b""


class PublishEvent(NamedTuple):
    """A client publishes. data: JSON if its encoding is."""

    caller: Caller
    channel: str
    data: bytes


class PublishAnswer(NamedTuple):
    """A client may publish. data: what is published instead, JSON if the client's encoding is; None: what it sent."""

    data: bytes | None = None
    skip_history: bool = False


class RpcEvent(NamedTuple):
    """A client calls a procedure. data: JSON if its encoding is, or empty. method: empty for a message without one."""

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
    """A connection, or a subscription, goes on, or does not.

    expire_at_s: when it expires now, seconds since 1970; 0: never. is_expired: it ends.
    info: JSON, for others to see from now on; None: as before.
    """

    expire_at_s: int = 0
    is_expired: bool = False
    info: bytes | None = None


class ConnectedEvent(NamedTuple):
    """A client has connected."""

    caller: Caller


class DisconnectEvent(NamedTuple):
    """A client that was connected is gone. code, reason: the close code; 1006 if it vanished."""

    caller: Caller
    code: int
    reason: str


class Application(Protocol):
    """What the application says to what its clients want, and what it is told of them.

    What is asked here is asked once and never again by itself: an application that gave no answer may have acted.
    Methods that ask raise, beside what they say:
        ApplicationError: the request is answered with the application's own error.
        Refused: the connection ends.
        ClientError: 108 for a hook that is not handled; 111 while too much is being asked; 100 if the application gave
            no answer in time, or none that can be used. Whatever they have of an application's fault is in the log,
            and nothing of it in the error.
    """

    @property
    def handles(self) -> frozenset[Hook]:
        """Return what the application takes part in; nothing else is asked.

        Without CONNECT the token alone decides who connects, without RPC there is none (108), without SUBSCRIBE and
        PUBLISH namespaces and tokens decide, without REFRESH and SUB_REFRESH only tokens refresh.
        """

    @property
    def headers(self) -> frozenset[str]:
        """Return the headers of handshakes that `Caller.headers` must have, in lower case."""

    async def on_connect(self, event: ConnectEvent) -> ConnectAnswer:
        """Return who a client is and what it begins with. A client without a token is the application's to judge."""

    async def on_subscribe(self, event: SubscribeEvent) -> SubscribeAnswer:
        """Return what a subscription begins with, if the client may subscribe."""

    async def on_publish(self, event: PublishEvent) -> PublishAnswer:
        """Return what is published, if the client may publish."""

    async def on_rpc(self, event: RpcEvent) -> bytes:
        """Return what a procedure answers: JSON if the client's encoding is, or empty."""

    async def on_refresh(self, event: RefreshEvent) -> RefreshAnswer:
        """Return until when a connection goes on."""

    async def on_sub_refresh(self, event: SubRefreshEvent) -> RefreshAnswer:
        """Return until when a subscription goes on."""

    def on_connected(self, event: ConnectedEvent) -> None:
        """Tell that a client has connected: its `connect` was answered. Never waits.

        Delivery: see docs/applications.md; `on_disconnect` follows once the client is gone, unless the node was killed.
        """

    def on_disconnect(self, event: DisconnectEvent) -> None:
        """Tell that a client is gone for which `on_connected` was called. Never waits.

        Delivery: at most once to the Python handler: what waits for it when the node ends is given a second, what
            finds its queue full is dropped and counted. At least once as webhook, see docs/applications.md.
        """


class NoAnswer(Exception):  # noqa: N818  (what became of the question)
    """The application gave no answer, or none that can be used; `reason` is for the log, never for a client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Handlers(NamedTuple):
    """Who is asked, by `Hook`; None: nobody.

    Handlers raise what `Application` says, and NoAnswer in place of its ClientError 100; then the log has the reason.
    """

    connect: Callable[[ConnectEvent], Awaitable[ConnectAnswer]] | None = None
    subscribe: Callable[[SubscribeEvent], Awaitable[SubscribeAnswer]] | None = None
    publish: Callable[[PublishEvent], Awaitable[PublishAnswer]] | None = None
    rpc: Callable[[RpcEvent], Awaitable[bytes]] | None = None
    refresh: Callable[[RefreshEvent], Awaitable[RefreshAnswer]] | None = None
    sub_refresh: Callable[[SubRefreshEvent], Awaitable[RefreshAnswer]] | None = None
    disconnect: Callable[[DisconnectEvent], Awaitable[None]] | None = None

    def or_else(self, others: Handlers) -> Handlers:
        """Return these handlers, and the others' for the hooks that these have none for."""
        return Handlers(
            connect=self.connect or others.connect,
            subscribe=self.subscribe or others.subscribe,
            publish=self.publish or others.publish,
            rpc=self.rpc or others.rpc,
            refresh=self.refresh or others.refresh,
            sub_refresh=self.sub_refresh or others.sub_refresh,
            disconnect=self.disconnect or others.disconnect,
        )
