"""The clients of this node as presence shows them: the hub's connections, by channel."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from typing_extensions import override

from roomcast.connections.connection import Connection
from roomcast.model.client_info import ClientInfo
from roomcast.node.hub import Hub
from roomcast.presence.interface import Roster


class HubRoster(Roster):
    """Reads the hub: a member costs no memory beside its connection."""

    def __init__(self, hub: Hub, node_id: str) -> None:
        self._hub = hub
        self._node_id = node_id

    @override
    def channels(self) -> Collection[str]:
        return self._hub.channels()

    @override
    def members(self, channel: str) -> Iterator[ClientInfo]:
        for connection in self._hub.subscribers(channel):
            if connection.subscriptions[channel].is_present:
                yield self.info(connection, channel)

    @override
    def member_count(self, channel: str) -> int:
        return sum(connection.subscriptions[channel].is_present for connection in self._hub.subscribers(channel))

    def info(self, connection: Connection, channel: str) -> ClientInfo:
        """Return a connection as other clients in a channel see it."""
        info = ClientInfo(self.client_id(connection), connection.user, connection.info)
        subscription = connection.subscriptions.get(channel)
        if subscription is None:
            return info
        return info._replace(channel_info=subscription.info, is_silent=subscription.is_silent)

    def named(self, user: str, client: str) -> list[Connection]:
        """Return the connections here of a user ("": anonymous); only the one with this client id unless it is ""."""
        return [connection for connection in self._hub.of_user(user) if client in {"", self.client_id(connection)}]

    def client_id(self, connection: Connection) -> str:
        """Return the id of a connection in the cluster."""
        return f"{self._node_id}-{connection.id}"
