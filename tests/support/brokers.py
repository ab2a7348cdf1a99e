"""A broker with a sink that records, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import (
    BrokerEvent,
    Membership,
    Publication,
    Removal,
)
from roomcast.redis_access.client import Client
from roomcast.tasks import end
from tests.support.processes import DEADLINE_S


class RecordingSink:
    """Keeps the events of a broker, and wakes waiting tests."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.removals: list[Removal] = []
        self.malformed: list[tuple[str, str]] = []
        self.connections: list[bool] = []  # of each whether it was made again
        self.disconnection_count = 0
        self._arrived = asyncio.Event()

    def on_event(self, event: BrokerEvent) -> None:
        assert not isinstance(event, Membership)
        if isinstance(event, Removal):
            self.removals.append(event)
        else:
            self.publications.append(event)
        self._arrived.set()

    def on_malformed(self, channel: str, reason: str) -> None:
        self.malformed.append((channel, reason))
        self._arrived.set()

    def on_disconnected(self) -> None:
        self.disconnection_count += 1

    def on_connected(self, *, is_again: bool) -> None:
        self.connections.append(is_again)
        self._arrived.set()

    async def until_connected(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not self.connections:
                self._arrived.clear()
                await self._arrived.wait()

    async def until_texts(self, texts: list[bytes]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while [publication.data for publication in self.publications] != texts:
                self._arrived.clear()
                await self._arrived.wait()


async def publish(broker: RedisBroker, publication: Publication) -> int:
    """Publish to a channel without a history; return how many connections took it."""
    return (await broker.publish(publication, Namespace())).receiver_count


@asynccontextmanager
async def running(
    server: Client, prefix: str, *, linger_s: float = 1.0, timeout_s: float = 5.0
) -> AsyncIterator[tuple[RedisBroker, RecordingSink]]:
    broker = RedisBroker(
        server, prefix=prefix, node_id="n1", max_message_bytes=1000, linger_s=linger_s, timeout_s=timeout_s
    )
    sink = RecordingSink()
    task = asyncio.create_task(broker.run(sink))
    try:
        await sink.until_connected()
        yield broker, sink
    finally:
        await end(task)
