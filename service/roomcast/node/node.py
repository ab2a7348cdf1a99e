"""One node: it connects the hub, the broker and presence for publications, subscriptions and connections."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from typing_extensions import override

from roomcast.brokers.interface import ALWAYS, Broker, Once, Published, Sink
from roomcast.brokers.map_interface import MapStore
from roomcast.connections.connection import Connection, State, Subscription
from roomcast.connections.encoding import Encoding
from roomcast.model.errors import SHUTDOWN, BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace, Namespaces, Recovery, SlowPolicy
from roomcast.model.positions import Position
from roomcast.model.publications import BrokerEvent, Publication, Removal, Resumption
from roomcast.node.client_log import Rejections, log_closed
from roomcast.node.client_publisher import ClientPublisher
from roomcast.node.connected import Connected
from roomcast.node.histories import Histories
from roomcast.node.hub import Hub
from roomcast.node.interest import Interest
from roomcast.node.map_differences import Bases
from roomcast.node.map_load import MapLoad
from roomcast.node.map_presence import MapPresence
from roomcast.node.maps import Maps
from roomcast.node.recovery import catch_up_cache, catch_up_stream
from roomcast.node.roster import HubRoster
from roomcast.node.tracker import Tracker
from roomcast.presence.interface import Presence
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)


class SubscribeSuperseded(ClientError):  # noqa: N818  (as BrokerUnavailable)
    """The client disconnected, or was subscribed by another command, while it was being subscribed."""

    def __init__(self, channel: str) -> None:
        super().__init__(ErrorCode.ALREADY_SUBSCRIBED, channel)


class Node(Sink):
    """The clients of one process, connected by the broker with those of all other nodes."""

    def __init__(
        self,
        node_id: str,
        hub: Hub,
        broker: Broker,
        *,
        namespaces: Namespaces,
        tracker: Tracker,
        presence: Presence,
        roster: HubRoster,
        map_store: MapStore,
    ) -> None:
        self.id = node_id
        self.hub = hub
        self.broker = broker
        self.namespaces = namespaces
        self.tracker = tracker
        self.presence = presence
        self.roster = roster
        self.histories = Histories(broker, namespaces)
        self.counts: Counter[str] = Counter()
        self.close_codes: Counter[int] = Counter()
        self.rejections = Rejections()
        self.map_presence = MapPresence(map_store, namespaces, hub, roster)
        self.client_publisher = ClientPublisher(
            broker, map_store, namespaces, tracker, self.counts, on_write=self.map_presence.wrote
        )
        self.interest = Interest(broker, tracker, namespaces, map_store)
        self.maps = Maps(
            map_store, broker, self.interest, tracker, namespaces, clock=time.monotonic, counts=self.counts
        )
        self._listeners: dict[str, Callable[[Publication], None]] = {}  # by channel

    async def run(self) -> None:
        """Keep the node in its cluster, also through outages of Redis; end only when cancelled."""
        await run_together(
            broker=self.broker.run(self),
            tracker=self.tracker.run(),
            presence=self.presence.run(),
            interest=self.interest.run(),
            map_presence=self.map_presence.run(),
        )

    def connected(self, connection: Connection) -> Connected:
        """Return a context in which a connection is one of the node's; `leave` is called at its end."""
        return Connected(self.hub, self.leave, connection)

    def leave(self, connection: Connection) -> None:
        """Remove a connection that has ended, with its subscriptions and presence."""
        subscriptions = self.hub.remove(connection)
        for channel, subscription in subscriptions.items():
            self._subscription_ended(connection, channel, subscription)
        self.map_presence.left(connection)
        connection.on_closed()
        connection.receiver.on_closed(connection)
        if connection.opened_at_s is None:  # the handshake was refused, or the client left before the answer
            log.debug("connection.refused", conn=connection.id, transport=connection.transport.name)
            return
        code = connection.transport.close_code()
        self.close_codes[code] += 1
        log_closed(connection, code, subscriptions)

    def listen(self, channels: Sequence[str], listener: Callable[[Publication], None]) -> None:
        """Send the publications of channels that only nodes use, such as `control`, to a listener and not to the hub.

        Args:
            listener: called in the broker's reader: must not block, await or raise.
        """
        self._listeners.update(dict.fromkeys(channels, listener))

    def subscribing(
        self,
        connection: Connection,
        channel: str,
        *,
        namespace: Namespace | None = None,
        encoding: Encoding | None = None,
        info: bytes = b"",
        since: Position | None = None,
        wants_missed: bool = True,
        load: MapLoad | None = None,
    ) -> Subscribing:
        """Subscribe a connection. The body sends it the start; every publication after that follows once the body ends.

        The start: with recovery the position, for encodings that tell it, and the publications missed `since`; in mode
        `cache` the newest publication, for all. The body must not await: a publication meanwhile would be lost.
        Args:
            namespace, encoding: of this subscription; None: the channel's, the connection's.
            info: JSON about the client in this channel, or empty.
            since: the client's position; with an empty epoch: in the present one.
            wants_missed: False: the start is the position alone.
            load: of a map: the start is the position, and the changes after `since`.
        Delivery: see docs/guarantees.md.
        Raises: ClientError, SubscribeSuperseded, BrokerUnavailable. Nothing is subscribed then, or if the body raises.
        """
        of_channel = self.namespaces.of(channel)
        namespace = namespace or of_channel
        encoding = encoding or connection.encoding
        recovery = namespace.recovery
        if not encoding.tells_positions and recovery is not Recovery.CACHE:
            recovery = None
        is_silent = not namespace.join_leave and of_channel.join_leave
        subscription = Subscription(encoding, info, namespace.presence, is_silent)
        if load is not None:
            start = self._start_of_load(connection, channel, load, since or load.position)
        else:
            start = self._start(connection, channel, recovery, since, wants_missed=wants_missed)
        return Subscribing(self, connection, channel, subscription, namespace.slow, start)

    async def _start(
        self,
        connection: Connection,
        channel: str,
        recovery: Recovery | None,
        since: Position | None,
        *,
        wants_missed: bool,
    ) -> Sequence[Publication | Resumption]:
        """Return the start of a subscription; it is up to date until the loop continues."""
        await self.interest.receive(channel)
        window = None
        if recovery is not None and since is not None and not since.epoch:
            await self.tracker.wait_resolved(channel)
            present = self.tracker.position(channel)
            since = None if present is None else Position(since.offset, present.epoch)
        if recovery is not None and wants_missed and (recovery is Recovery.CACHE or since is not None):
            window = await self.tracker.window(channel, since)
        else:
            # Without recovery too: until then the next publication may be taken for an earlier one, and dropped.
            await self.tracker.wait_resolved(channel)
        self._check_unsubscribed(connection, channel)
        position = self.tracker.position(channel)
        if recovery is None or position is None:
            return ()
        # The newest publication that is written to the channel's subscribers.
        floor = self.hub.pending_floor(channel, position.offset)
        if since is not None and since.epoch == position.epoch and since.offset > floor:
            self.hub.flush_channel(channel)
            floor = position.offset
        top = Position(floor, position.epoch)
        catch_up = catch_up_cache if recovery is Recovery.CACHE else catch_up_stream
        return catch_up(channel, since, top, window)

    async def _start_of_load(
        self, connection: Connection, channel: str, load: MapLoad, since: Position
    ) -> Sequence[Publication | Resumption]:
        """Return the start of a subscription to a map that the client has loaded, up to date as of `_start`."""
        await self.interest.receive(channel)
        await self.tracker.wait_resolved(channel)
        self._check_unsubscribed(connection, channel)
        # Of each key the client gets the last change: one that waits would build on an earlier one, which it lacks.
        self.hub.flush_channel(channel)
        changes = load.changes(since.offset)
        return [Resumption(channel, load.copy.position, is_recovered=None), *changes]

    def _check_unsubscribed(self, connection: Connection, channel: str) -> None:
        if connection.state is State.CLOSED or channel in connection.subscriptions:
            raise SubscribeSuperseded(channel)

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
            skip_history: do not store it: clients that reconnect will not get it.
        Raises: ClientError 102 for a channel without a namespace, 107 for a map; BrokerUnavailable.
        """
        namespace = self.namespaces.of(publication.channel)
        if namespace.map is not None:
            raise ClientError(ErrorCode.BAD_REQUEST, "this channel is a map: write its keys")
        seen = self.tracker.seen(publication.channel)
        try:
            published = await self.broker.publish(
                publication, namespace, seen=seen, once=once, skip_history=skip_history
            )
        except BrokerUnavailable:
            self.counts["publish_failures"] += 1
            raise
        self.counts["published"] += 1
        return published

    def reason_not_ready(self) -> str | None:
        """Return why this node cannot deliver now, or None."""
        return self.broker.reason_not_ready() or self.tracker.reason_not_ready()

    def drain(self) -> None:
        """Close every connection with a code that lets the clients reconnect to another node."""
        log.info("node.drain", connections=len(self.hub.connections))
        self.hub.flush()
        self.hub.close_all(SHUTDOWN)

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if isinstance(event, Publication):
            listener = self._listeners.get(event.channel)
            if listener is not None:
                listener(event)
                return
            self.counts["received"] += 1
            try:
                self.tracker.accept(event)
            except ValueError as exc:
                self.on_malformed(event.channel, str(exc))
        elif isinstance(event, Removal):
            self.tracker.removed(event.channel)
        else:
            self.hub.broadcast(event)

    @override
    def on_malformed(self, channel: str, reason: str) -> None:
        self.counts["malformed"] += 1
        log.warning("broker.malformed_message", channel=channel, reason=reason)

    @override
    def on_disconnected(self) -> None:
        self.tracker.disconnected()

    @override
    def on_connected(self, *, is_again: bool) -> None:
        self.tracker.connected()
        if is_again:
            self.presence.doubt()
            self.counts["gaps"] += 1
            log.warning("broker.gap", channels=len(self.hub.channels()))
            # Channels without history: nothing can be repaired. A copy: a client that is notified may unsubscribe.
            for channel in tuple(self.interest.channels()):
                if self.tracker.track(channel) is None:
                    self.hub.broadcast(Resumption(channel, None, is_recovered=False))

    def _subscription_began(
        self, connection: Connection, channel: str, subscription: Subscription, slow: SlowPolicy, bases: Bases | None
    ) -> None:
        if channel not in self.hub.channels():
            self.presence.occupy(channel)
        self.hub.subscribe(connection, channel, subscription, slow, bases)
        if subscription.is_present:
            self.presence.join(channel, self.roster.info(connection, channel))
        self.map_presence.began(connection, channel)

    def _subscription_ended(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        if subscription.is_present:
            self.presence.leave(channel, self.roster.client_id(connection))
        self.map_presence.ended(connection, channel)
        if channel not in self.hub.channels():
            self.presence.vacate(channel)
        self.interest.lose(channel)


@dataclass(slots=True, eq=False)
class Subscribing:
    """The context of `Node.subscribing`. Not a generator: it would triple the cost of a subscription."""

    _node: Node
    _connection: Connection
    _channel: str
    _subscription: Subscription
    _slow: SlowPolicy
    _start: Coroutine[Any, Any, Sequence[Publication | Resumption]]  # Any: as in tasks.py
    _turns: list[None] = field(default_factory=list)  # of the loop, since the body began
    _turn: asyncio.Handle = field(init=False)
    bases: Bases | None = None  # of a map's client that gets differences: the body sets the values that it has

    async def __aenter__(self) -> Sequence[Publication | Resumption]:
        self._node.interest.add(self._channel)
        try:
            start = await self._start
        except BaseException:
            self._node.interest.lose_after_failure(self._channel)
            raise
        self._turn = asyncio.get_running_loop().call_soon(self._turns.append, None)
        return start

    async def __aexit__(self, _: object, exc: BaseException | None, __: object) -> None:
        self._turn.cancel()
        if exc is None and not self._turns:
            self._node._subscription_began(self._connection, self._channel, self._subscription, self._slow, self.bases)
            return
        self._node.interest.lose(self._channel)
        if exc is None:
            raise RuntimeError("the body of Node.subscribing awaited: publications may be lost")
