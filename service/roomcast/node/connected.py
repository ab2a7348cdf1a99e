"""The context in which a connection is one of a node's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roomcast.connections.connection import Connection
from roomcast.node.hub import Hub


@dataclass(slots=True, eq=False)
class Connected:
    """The context of `Node.connected`."""

    _hub: Hub
    _leave: Callable[[Connection], None]
    connection: Connection
    _is_detached: bool = False

    def __enter__(self) -> Connected:
        self._hub.add(self.connection)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_detached:
            self._leave(self.connection)

    def detach(self) -> None:
        """Keep the connection when the body ends: its transport calls `Node.leave` when the client has left."""
        self._is_detached = True
