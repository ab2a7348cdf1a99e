"""Nodes in this process on a real Redis, whose clients are recording transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from typing_extensions import override

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Event, Publication
from roomcast.node.hub import Hub
from roomcast.node.node import Node
from roomcast.node.roster import HubRoster
from roomcast.node.tracker import Tracker
from roomcast.redis_access.client import connect
from roomcast.tasks import end
from tests.support.fakes import FakePresence, connection
from tests.support.nodes import subscribe


class _IdlePresence(FakePresence):
    @override
    async def run(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def live_node(redis_url: str, prefix: str, node_id: str, namespaces: Namespaces) -> AsyncIterator[Node]:
    """Run a node. At the end its clients leave nothing behind but what is in Redis, as if it was killed."""
    async with connect(redis_url, timeout_s=5.0, client_name=node_id) as client:
        broker = RedisBroker(client, prefix=prefix, node_id=node_id, max_message_bytes=65536)
        hub = Hub(asyncio.get_running_loop().call_soon)
        node = Node(
            node_id,
            hub,
            broker,
            namespaces=namespaces,
            tracker=Tracker(broker, hub.broadcast, monotonic),
            presence=_IdlePresence(),
            roster=HubRoster(hub, node_id),
            map_store=broker.maps,
        )
        running = asyncio.create_task(node.run())
        try:
            yield node
        finally:
            await end(running)


class Watcher:
    """A subscriber that keeps what it receives."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self._received = asyncio.Event()
        encoding = Encoding(self._take, lambda _: b"")
        self.connection: Connection = connection(encoding=encoding)[0]

    @classmethod
    async def of(cls, node: Node, channel: str) -> Watcher:
        """Return a subscriber of a channel on a node."""
        watcher = cls()
        node.hub.add(watcher.connection)
        await subscribe(node, watcher.connection, channel)
        return watcher

    def changes(self) -> list[str]:
        """Return the keys that were set, and with a minus those that were removed."""
        changes = [publication.change for publication in self.publications if publication.change is not None]
        return [f"-{change.key}" if change.is_removed else change.key for change in changes]

    async def until(self, *changes: str) -> None:
        """Wait until exactly these changes have arrived."""
        async with asyncio.timeout(10):
            while self.changes() != list(changes):
                self._received.clear()
                await self._received.wait()

    async def until_count(self, count: int) -> None:
        """Wait until so many publications have arrived."""
        async with asyncio.timeout(10):
            while len(self.publications) < count:
                self._received.clear()
                await self._received.wait()

    def _take(self, event: Event) -> bytes:
        if isinstance(event, Publication):
            self.publications.append(event)
            self._received.set()
        return b"."
