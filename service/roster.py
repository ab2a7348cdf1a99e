"""The clients of this node as presence tells others of them: the hub's connections, by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.messages import ClientInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from service.connection import Connection
    from service.hub import Hub
    from service.namespaces import Namespaces


class HubRoster:
    """Implements `presence.Roster`. Keeps nothing: a member costs what its connection costs."""

    def __init__(self, hub: Hub, namespaces: Namespaces, node_id: str) -> None:
        self._hub = hub
        self._namespaces = namespaces
        self._node_id = node_id

    def channels(self) -> Collection[str]:
        """See `Roster.channels`."""
        return self._hub.channels()

    def members(self, channel: str) -> Iterator[ClientInfo]:
        """See `Roster.members`."""
        if self._namespaces.of(channel).presence:
            yield from map(self.info, self._hub.subscribers(channel))

    def info(self, connection: Connection) -> ClientInfo:
        """Return a connection as others see it."""
        return ClientInfo(f"{self._node_id}-{connection.id}", connection.user, connection.info)
