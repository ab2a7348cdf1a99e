"""Who answers: one handler a hook, in Python or over HTTP, and what is raised where none answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from roomcast.hooks import (
        ConnectAnswer,
        ConnectEvent,
        DisconnectEvent,
        PublishAnswer,
        PublishEvent,
        RefreshAnswer,
        RefreshEvent,
        RpcEvent,
        SubRefreshEvent,
        SubscribeAnswer,
        SubscribeEvent,
    )


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
