"""The interfaces between the broker and its listener: one, or in a cluster one for each shard."""

from __future__ import annotations

from typing import Protocol

from roomcast.model.errors import BrokerUnavailable


class ListenerSink(Protocol):
    """Receives the events of a listener. Called in its task: must not block, await or raise."""

    __slots__ = ()

    def on_message(self, channel: str, message: bytes) -> None:
        """Receive a message of a wanted channel."""

    def on_connected(self, *, is_again: bool) -> None:
        """All wanted channels are subscribed; `is_again`: after a connection was lost."""

    def on_disconnected(self) -> None:
        """The connection is lost: nothing is received until `on_connected`."""


class Subscriptions(Protocol):
    """Keeps channels subscribed; `subscribe`, `unsubscribe` and `reason_not_ready` are those of `Broker`."""

    __slots__ = ()

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be received now, or None."""

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel; return once the server has confirmed it. Raises: BrokerUnavailable."""

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel, a little later."""

    async def run(self) -> None:
        """Listen through every outage; end only when cancelled."""


class ChannelMoved(BrokerUnavailable):
    """Another shard of the cluster has the channel's slot."""
