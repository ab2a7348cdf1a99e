"""Publishing the messages of clients, with backpressure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from roomcast.brokers.interface import Broker, Published
from roomcast.brokers.map_interface import MapStore, Written
from roomcast.connections.connection import Connection, Pause
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespaces
from roomcast.model.publications import Publication
from roomcast.node.tracker import Tracker

_MAX_UNPUBLISHED_BYTES = 128 * 1024
# The cost of a waiting message beside its payload, so that empty messages count too.
_OVERHEAD_BYTES = 512


# Of a publication, or of a write into a map.
Result = Published | Written | ClientError | BrokerUnavailable


class ClientPublisher:
    """Publishes the messages of clients, and makes their writes into maps.

    While more than 128 KiB of a client's messages wait for Redis, nothing more is read from that client.
    Args:
        counts: `published` and `publish_failures` are counted in it.
        on_write: called after each write of a client into a map.
    """

    def __init__(
        self,
        broker: Broker,
        map_store: MapStore,
        namespaces: Namespaces,
        tracker: Tracker,
        counts: Counter[str],
        *,
        on_write: Callable[[Connection, Publication], None],
    ) -> None:
        self._broker = broker
        self._map_store = map_store
        self._namespaces = namespaces
        self._tracker = tracker
        self._counts = counts
        self._on_write = on_write
        self._settling: dict[Connection, asyncio.Future[None]] = {}

    async def settled(self, connection: Connection) -> None:
        """Wait until Redis has accepted or refused what a client has published. One call at a time per connection."""
        if not connection.unpublished_bytes:
            return
        self._settling[connection] = asyncio.get_running_loop().create_future()
        try:
            await self._settling[connection]
        finally:
            self._settling.pop(connection, None)

    def publish_for(
        self,
        connection: Connection,
        publication: Publication,
        on_result: Callable[[Result], None] | None = None,
    ) -> None:
        """Publish a client's message soon.

        Args:
            publication: one with a change is written into its map.
            on_result: called once, now or later.
        Delivery: in the order of the calls. While Redis is away the publication is lost, and counted
            (publish_failures), and the connection stays open.
        """
        namespace = self._namespaces.of(publication.channel)
        size_bytes = len(publication.data) + _OVERHEAD_BYTES

        def finish(result: Result) -> None:
            self._counts["publish_failures" if isinstance(result, Exception) else "published"] += 1
            if on_result is not None:
                on_result(result)
            before_bytes = connection.unpublished_bytes
            connection.unpublished_bytes -= size_bytes
            if self._settling and not connection.unpublished_bytes:
                settled = self._settling.pop(connection, None)
                if settled is not None and not settled.done():
                    settled.set_result(None)
            if connection.unpublished_bytes <= _MAX_UNPUBLISHED_BYTES < before_bytes:
                connection.resume_reading(Pause.UNPUBLISHED)

        before_bytes = connection.unpublished_bytes
        connection.unpublished_bytes += size_bytes
        if before_bytes <= _MAX_UNPUBLISHED_BYTES < connection.unpublished_bytes:
            connection.pause_reading(Pause.UNPUBLISHED)
        seen = self._tracker.seen(publication.channel)
        if publication.change is None:
            self._broker.submit(publication, namespace, finish, seen=seen)
        else:
            self._map_store.submit(publication, namespace, finish, seen=seen)
            self._on_write(connection, publication)
