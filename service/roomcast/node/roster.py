"""The clients of this node as presence tells others of them: the hub's connections, by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.model.publications import ClientInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from roomcast.connections.connection import Connection
    from roomcast.node.hub import Hub


class HubRoster:
    """Implements `presence.Roster`. Keeps nothing: a member costs what its connection costs."""

    def __init__(self, hub: Hub, node_id: str) -> None:
        self._hub = hub
        self._node_id = node_id

    def channels(self) -> Collection[str]:
        """See `Roster.channels`."""
        return self._hub.channels()

    def members(self, channel: str) -> Iterator[ClientInfo]:
        """See `Roster.members`."""
        for connection in self._hub.subscribers(channel):
            if connection.subscriptions[channel].is_present:
                yield self.info(connection, channel)

    def info(self, connection: Connection, channel: str) -> ClientInfo:
        """Return a connection as the others in a channel see it."""
        info = ClientInfo(self.client_id(connection), connection.user, connection.info)
        subscription = connection.subscriptions.get(channel)
        if subscription is None:
            return info
        return info._replace(channel_info=subscription.info, is_silent=subscription.is_silent)

    def named(self, user: str, client: str) -> list[Connection]:
        """Return the connections here of a user, or of "" those that are nobody known; of one client id unless ""."""
        return [connection for connection in self._hub.of_user(user) if client in {"", self.client_id(connection)}]

    def client_id(self, connection: Connection) -> str:
        """Return what names a connection in the cluster."""
        return f"{self._node_id}-{connection.id}"
