"""One node: its hub and its broker, and what a publication, a subscription and a connection mean to them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from service.errors import SHUTDOWN, BrokerUnavailable
from service.tasks import run_together

if TYPE_CHECKING:
    from service.brokers import Broker, Registry
    from service.connection import Connection
    from service.hub import Hub
    from service.messages import Publication

log = structlog.get_logger(__name__)

_REPORT_INTERVAL_S = 1.0
# How much of one client's messages may wait for Redis before nothing more is read from it.
_MAX_UNPUBLISHED_BYTES = 128 * 1024
# What a message that waits costs beside its payload: empty ones must count too.
_OVERHEAD_BYTES = 512
_SETTLE_TIMEOUT_S = 1.0
# Three missed reports and a node counts as dead.
_REPORT_TTL_S = 3 * _REPORT_INTERVAL_S


class Node:
    """The clients of one process, joined with those of all other nodes by the broker. Implements `brokers.Sink`."""

    def __init__(self, node_id: str, hub: Hub, broker: Broker, registry: Registry) -> None:
        self.id = node_id
        self.hub = hub
        self.broker = broker
        self.registry = registry
        self.counts: Counter[str] = Counter()
        self.close_codes: Counter[int] = Counter()

    async def run(self) -> None:
        """Keep the node in its cluster, through every outage of Redis; end only when cancelled."""
        await run_together(broker=self.broker.run(self), report=self._report_forever())

    def enter(self, connection: Connection) -> None:
        """Take in a connection; whoever calls this calls `leave` when it has ended, however it ends."""
        self.hub.add(connection)

    def leave(self, connection: Connection) -> None:
        """Let a connection go that has ended; nothing of it is left behind."""
        for channel in self.hub.remove(connection):
            self.broker.unsubscribe(channel)
        connection.closed()
        if connection.opened_at_s is None:  # its handshake was refused, or it went before it was answered
            log.debug("connection.refused", conn=connection.id, transport=connection.transport.name)
            return
        code = connection.transport.close_code()
        self.close_codes[code] += 1
        log.info(
            "connection.closed",
            conn=connection.id,
            transport=connection.transport.name,
            code=code,
            duration_s=round(time.monotonic() - connection.opened_at_s, 3),
        )
        connection.receiver.on_closed(connection)

    async def subscribe(self, connection: Connection, channel: str) -> None:
        """Subscribe a connection; return once every later publication of any node will reach it.

        Delivery: see `Broker.subscribe` and `Connection`.
        Raises: BrokerUnavailable, and the connection is not subscribed.
        """
        self.hub.subscribe(connection, channel)
        try:
            await self.broker.subscribe(channel)
        except BaseException:
            self.unsubscribe(connection, channel)
            raise

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """End a subscription, if it is there."""
        if self.hub.unsubscribe(connection, channel):
            self.broker.unsubscribe(channel)

    async def publish(self, publication: Publication) -> int:
        """Publish to the subscribers on every node, this one too; return how many nodes took it.

        Delivery: at most once per subscriber, in one order for all subscribers of the channel.
        Raises: BrokerUnavailable.
        """
        try:
            node_count = await self.broker.publish(publication)
        except BrokerUnavailable as exc:
            self._count_taken(exc)
            raise
        self._count_taken(node_count)
        return node_count

    def publish_for(self, connection: Connection, publication: Publication) -> None:
        """Publish, soon, what a client sent. While much of it waits for Redis, nothing more is read from that client.

        Delivery: at most once per subscriber, in the order of the calls. While Redis is away the publication is lost,
            and counted (publish_failures), and the connection lives on: plain frames have no way to say it.
        """
        size_bytes = len(publication.data) + _OVERHEAD_BYTES

        def taken(result: int | BrokerUnavailable) -> None:
            self._count_taken(result)
            before_bytes = connection.unpublished_bytes
            connection.unpublished_bytes -= size_bytes
            if connection.unpublished_bytes <= _MAX_UNPUBLISHED_BYTES < before_bytes:
                connection.transport.resume_reading()

        before_bytes = connection.unpublished_bytes
        connection.unpublished_bytes += size_bytes
        if before_bytes <= _MAX_UNPUBLISHED_BYTES < connection.unpublished_bytes:
            connection.transport.pause_reading()
        self.broker.submit(publication, taken)

    async def settle(self) -> None:
        """Wait a second at most until all was taken or refused: the last words for clients that left."""
        await self.broker.settle(within_s=_SETTLE_TIMEOUT_S)

    def _count_taken(self, result: int | BrokerUnavailable) -> None:
        self.counts["publish_failures" if isinstance(result, BrokerUnavailable) else "published"] += 1

    def reason_not_ready(self) -> str | None:
        """Return why this node cannot deliver now, or None when all is well."""
        return self.broker.reason_not_ready()

    def drain(self) -> None:
        """Ask every client to go; they may come back to another node."""
        log.info("node.drain", connections=len(self.hub.connections))
        self.hub.flush()
        self.hub.close_all(SHUTDOWN)

    def on_publication(self, publication: Publication) -> None:
        """Broadcast what the broker brought."""
        self.counts["received"] += 1
        self.hub.broadcast(publication)

    def on_malformed(self, channel: str, reason: str) -> None:
        """Count and log a Redis message that is no publication; nobody gets it."""
        self.counts["malformed"] += 1
        log.warning("broker.malformed_message", channel=channel, reason=reason)

    def on_gap(self, reason: str) -> None:
        """Count and log that publications may have been missed: without history they are lost, but not unsaid."""
        self.counts["gaps"] += 1
        log.warning("broker.gap", channels=self.hub.channel_count(), reason=reason)

    async def retire(self) -> None:
        """Leave the cluster, after `run` has ended; the others notice by themselves if Redis does not take it."""
        try:
            async with asyncio.timeout(_SETTLE_TIMEOUT_S):
                await self.registry.retire(self.id)
        except (BrokerUnavailable, TimeoutError):
            log.debug("node.retire_failed")

    async def _report_forever(self) -> None:
        while True:
            try:
                await self.registry.report(self.id, len(self.hub.connections), ttl_s=_REPORT_TTL_S)
            except BrokerUnavailable as exc:
                log.debug("node.report_failed", reason=exc.reason)  # the broker's own log line says it once
            await asyncio.sleep(_REPORT_INTERVAL_S)
