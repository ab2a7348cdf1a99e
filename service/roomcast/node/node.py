"""One node: its hub and its broker, and what a publication, a subscription and a connection mean to them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from roomcast.brokers import ALWAYS, Once, Published
from roomcast.connections.connection import Pause, State, Subscription
from roomcast.model.errors import SHUTDOWN, BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Recovery
from roomcast.model.publications import Position, Publication, Removal, Resumption
from roomcast.node.histories import Histories
from roomcast.node.recovery import catch_up_cache, catch_up_stream
from roomcast.tasks import run_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roomcast.brokers import Broker
    from roomcast.connections.connection import Connection
    from roomcast.connections.encoding import Encoding
    from roomcast.model.namespaces import Namespace, Namespaces, SlowPolicy
    from roomcast.model.publications import BrokerEvent
    from roomcast.node.hub import Hub
    from roomcast.node.recovery import Window
    from roomcast.node.roster import HubRoster
    from roomcast.node.tracker import Tracker
    from roomcast.presence import Presence, Registry
    from roomcast.redis_access.work_queue import StreamCounts

log = structlog.get_logger(__name__)

_REPORT_INTERVAL_S = 1.0
# How much of one client's messages may wait for Redis before nothing more is read from it.
_MAX_UNPUBLISHED_BYTES = 128 * 1024
# What a message that waits costs beside its payload: empty ones must count too.
_OVERHEAD_BYTES = 512
_SETTLE_TIMEOUT_S = 1.0
# Three missed reports and a node counts as dead.
_REPORT_TTL_S = 3 * _REPORT_INTERVAL_S


class Overtaken(ClientError):  # noqa: N818  (as BrokerUnavailable)
    """While a subscription was being made its client was gone, or was subscribed in another way."""

    def __init__(self, channel: str) -> None:
        super().__init__(ErrorCode.ALREADY_SUBSCRIBED, channel)


class Node:
    """The clients of one process, joined with those of all other nodes by the broker. Implements `brokers.Sink`."""

    def __init__(
        self,
        node_id: str,
        hub: Hub,
        broker: Broker,
        registry: Registry,
        *,
        namespaces: Namespaces,
        tracker: Tracker,
        presence: Presence,
        roster: HubRoster,
    ) -> None:
        self.id = node_id
        self.hub = hub
        self.broker = broker
        self.registry = registry
        self.namespaces = namespaces
        self.tracker = tracker
        self.presence = presence
        self.roster = roster
        self.histories = Histories(broker, namespaces)
        self.counts: Counter[str] = Counter()
        self.close_codes: Counter[int] = Counter()
        self.ingest: StreamCounts | None = None  # as of the last second; None while nobody knows
        self._listeners: dict[str, Callable[[Publication], None]] = {}  # by channel
        self._interest: Counter[str] = Counter()  # subscriptions here, those that are being made too, by channel

    async def run(self) -> None:
        """Keep the node in its cluster, through every outage of Redis; end only when cancelled."""
        await run_together(
            broker=self.broker.run(self),
            tracker=self.tracker.run(),
            presence=self.presence.run(),
            report=self._report_forever(),
        )

    def enter(self, connection: Connection) -> None:
        """Take in a connection; whoever calls this calls `leave` when it has ended, however it ends."""
        self.hub.add(connection)

    def leave(self, connection: Connection) -> None:
        """Let a connection go that has ended; nothing of it is left behind."""
        for channel, subscription in self.hub.remove(connection).items():
            self._subscription_ended(connection, channel, subscription)
        connection.closed()
        connection.receiver.on_closed(connection)
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

    def listen(self, channels: Sequence[str], listener: Callable[[Publication], None]) -> None:
        """Give what comes in channels of the nodes alone, such as `control`, to a listener and not to the hub.

        Args:
            listener: called in the broker's reader: must not block, await or raise.
        """
        self._listeners.update(dict.fromkeys(channels, listener))

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        namespace: Namespace | None = None,
        encoding: Encoding | None = None,
        info: bytes = b"",
        since: Position | None = None,
        wants_missed: bool = True,
        greet: Callable[[Sequence[Publication | Resumption]], None] | None = None,
    ) -> None:
        """Subscribe a connection; return once every later publication of any node will reach it.

        In a channel with recovery, a client whose encoding tells positions is first told where it is, and given what it
        missed `since`; where only the newest publication counts (mode `cache`), everyone gets that first.
        Args:
            namespace: what the channel has for this client; None: what it has for everyone.
            encoding: of this subscription; None: the connection's.
            info: JSON about the client in this channel, or empty.
            since: what the client has; with an empty epoch: of the present one.
            wants_missed: False: it is told where it is, no more.
            greet: takes what the client is told first, when it hears everything from then on; None: it is sent.
        Delivery: see docs/guarantees.md.
        Raises: ClientError, Overtaken among them; BrokerUnavailable; then this has not subscribed the connection.
        """
        namespace = namespace or self.namespaces.of(channel)
        encoding = encoding or connection.encoding
        self._gain_interest(channel)
        try:
            await self.broker.subscribe(channel)
            window = None
            is_cache = namespace.recovery is Recovery.CACHE
            is_told = namespace.recovery is not None and (is_cache or encoding.tells_positions)
            if is_told and since is not None and not since.epoch:
                since = await self._present(channel, since)
            if is_told and wants_missed and (is_cache or since is not None):
                window = await self.tracker.window(channel, since)
            else:
                # Also who is not told: until it is settled, what comes may be taken for what was there before.
                await self.tracker.settle(channel)
            if connection.state is State.CLOSED or channel in connection.subscriptions:
                raise Overtaken(channel)
            # Nothing waits from here on: what is missed ends where what is broadcast begins.
            greeting = self._greeting(channel, namespace, since, window) if is_told else ()
            if greet is not None:
                greet(greeting)
            else:
                for event in greeting:
                    connection.send(encoding.encode(event))
        except BaseException:
            self._lose_interest(channel)
            raise
        is_silent = not namespace.join_leave and self.namespaces.of(channel).join_leave
        subscription = Subscription(encoding, info, namespace.presence, is_silent)
        self._subscription_began(connection, channel, subscription, namespace.slow)

    def _greeting(
        self, channel: str, namespace: Namespace, since: Position | None, window: Window | None
    ) -> Sequence[Publication | Resumption]:
        """Return what a new subscriber is told first."""
        position = self.tracker.position(channel)
        if position is None:
            return ()
        if since is not None and since.epoch == position.epoch and since.offset > self._floor(channel, position):
            self.hub.flush_channel(channel)
        top = Position(self._floor(channel, position), position.epoch)
        catch_up = catch_up_cache if namespace.recovery is Recovery.CACHE else catch_up_stream
        return catch_up(channel, since, top, window)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """End a subscription, if it is there."""
        subscription = connection.subscriptions.get(channel)
        if subscription is not None:
            self.hub.unsubscribe(connection, channel)
            self._subscription_ended(connection, channel, subscription)

    async def publish(self, publication: Publication, *, once: Once = ALWAYS, skip_history: bool = False) -> Published:
        """Publish to the subscribers on every node, this one too.

        Delivery: in one order for all subscribers of the channel; see docs/guarantees.md.
        Args:
            skip_history: as in a channel without a history: who is not there now never gets it.
        Raises: ClientError for a channel that no namespace has, BrokerUnavailable.
        """
        namespace = self.namespaces.of(publication.channel)
        seen = self.tracker.position(publication.channel)
        try:
            published = await self.broker.publish(
                publication, namespace, seen=seen, once=once, skip_history=skip_history
            )
        except BrokerUnavailable as exc:
            self._count_taken(exc)
            raise
        self._count_taken(published)
        return published

    def publish_for(
        self,
        connection: Connection,
        publication: Publication,
        taken: Callable[[Published | BrokerUnavailable], None] | None = None,
    ) -> None:
        """Publish, soon, what a client sent. While much of it waits for Redis, nothing more is read from that client.

        Args:
            taken: told once, now or later, what became of it.
        Delivery: in the order of the calls. While Redis is away the publication is lost, and counted
            (publish_failures), and the connection lives on.
        """
        namespace = self.namespaces.of(publication.channel)
        size_bytes = len(publication.data) + _OVERHEAD_BYTES

        def count(result: Published | BrokerUnavailable) -> None:
            self._count_taken(result)
            if taken is not None:
                taken(result)
            before_bytes = connection.unpublished_bytes
            connection.unpublished_bytes -= size_bytes
            if connection.unpublished_bytes <= _MAX_UNPUBLISHED_BYTES < before_bytes:
                connection.resume_reading(Pause.UNPUBLISHED)

        before_bytes = connection.unpublished_bytes
        connection.unpublished_bytes += size_bytes
        if before_bytes <= _MAX_UNPUBLISHED_BYTES < connection.unpublished_bytes:
            connection.pause_reading(Pause.UNPUBLISHED)
        self.broker.submit(publication, namespace, count, seen=self.tracker.position(publication.channel))

    async def settle(self) -> None:
        """Wait a second at most until all was taken or refused: the last words for clients that left."""
        await self.broker.flush(within_s=_SETTLE_TIMEOUT_S)

    def _count_taken(self, result: Published | BrokerUnavailable) -> None:
        self.counts["publish_failures" if isinstance(result, BrokerUnavailable) else "published"] += 1

    def reason_not_ready(self) -> str | None:
        """Return why this node cannot deliver now, or None when all is well."""
        return self.broker.reason_not_ready()

    def drain(self) -> None:
        """Ask every client to go; they may come back to another node."""
        log.info("node.drain", connections=len(self.hub.connections))
        self.hub.flush()
        self.hub.close_all(SHUTDOWN)

    def on_event(self, event: BrokerEvent) -> None:
        """Broadcast what the broker brought, publications with a position in their order."""
        if isinstance(event, Publication):
            listener = self._listeners.get(event.channel)
            if listener is not None:
                listener(event)
                return
            self.counts["received"] += 1
            self.tracker.take(event)
        elif isinstance(event, Removal):
            self.tracker.removed(event.channel)
        else:
            self.hub.broadcast(event)

    def on_malformed(self, channel: str, reason: str) -> None:
        """Count and log a Redis message that is no publication; nobody gets it."""
        self.counts["malformed"] += 1
        log.warning("broker.malformed_message", channel=channel, reason=reason)

    def on_disconnected(self) -> None:
        """Keep back what comes in channels with history, until it is known what is missing."""
        self.tracker.disconnected()

    def on_connected(self, *, is_again: bool) -> None:
        """Repair the gap in channels with history; without one it is counted, logged, and told to who can be told."""
        self.tracker.connected()
        if is_again:
            self.presence.doubt()
            self.counts["gaps"] += 1
            log.warning("broker.gap", channels=self.hub.channel_count())
            # Who is told may leave the channel for it.
            for channel in tuple(self._interest):
                if not self.tracker.is_tracked(channel):
                    self.hub.broadcast(Resumption(channel, None, is_recovered=False))

    async def _present(self, channel: str, since: Position) -> Position | None:
        """Return a position in the present epoch of an open channel. Raises: BrokerUnavailable."""
        await self.tracker.settle(channel)
        position = self.tracker.position(channel)
        return None if position is None else Position(since.offset, position.epoch)

    def _subscription_began(
        self, connection: Connection, channel: str, subscription: Subscription, slow: SlowPolicy
    ) -> None:
        if channel not in self.hub.channels():
            self.presence.occupy(channel)
        self.hub.subscribe(connection, channel, subscription, slow)
        if subscription.is_present:
            self.presence.join(channel, self.roster.info(connection, channel))

    def _subscription_ended(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        if subscription.is_present:
            self.presence.leave(channel, self.roster.client_id(connection))
        if channel not in self.hub.channels():
            self.presence.vacate(channel)
        self._lose_interest(channel)

    def _gain_interest(self, channel: str) -> None:
        namespace = self.namespaces.of(channel)
        self._interest[channel] += 1
        if self._interest[channel] == 1 and namespace.history_size:
            self.tracker.open(channel, namespace)

    def _lose_interest(self, channel: str) -> None:
        self._interest[channel] -= 1
        if not self._interest[channel]:
            del self._interest[channel]
            self.tracker.close(channel)
            self.broker.unsubscribe(channel)

    def _floor(self, channel: str, position: Position) -> int:
        """Return the offset of the newest publication that has been written to the channel's subscribers."""
        return self.hub.pending_floor(channel, position.offset)

    async def retire(self) -> None:
        """Leave the cluster, after `run` has ended; the others notice by themselves if Redis does not take it."""
        try:
            async with asyncio.timeout(_SETTLE_TIMEOUT_S):
                # First, so that others go on with it if the rest takes too long.
                await self.registry.retire(self.presence.lease)
                await self.presence.retire()
        except (BrokerUnavailable, TimeoutError):
            log.debug("node.retire_failed")

    async def _report_forever(self) -> None:
        is_new = True
        while True:
            try:
                lease, count = self.presence.lease, len(self.hub.connections)
                is_new = not await self.registry.report(lease, count, ttl_s=_REPORT_TTL_S, is_new=is_new)
                if is_new:
                    self.presence.renew()
                    continue
                self.ingest = await self.registry.ingest_counts()
            except BrokerUnavailable as exc:
                self.ingest = None
                log.debug("node.report_failed", reason=exc.reason)  # the broker's own log line says it once
            await asyncio.sleep(_REPORT_INTERVAL_S)
