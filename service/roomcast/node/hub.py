"""The subscriptions of this node, and broadcasting to them: encode once, write many. Synchronous, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain

from roomcast.connections.connection import Connection, State, Subscription
from roomcast.connections.encoding import Encoding
from roomcast.model.errors import Disconnect
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.publications import Event, Publication, Resumption
from roomcast.node.map_differences import Bases, MapDifferences

_OPEN = State.OPEN


@dataclass(slots=True)
class _Subscribers:
    """The subscribers of one channel, grouped by encoding, and the publications since the last flush.

    based: the subscribers that have `previous`, the newest publication that was written: they can get differences.
    differences: of a map, whose subscribers get differences to the value before of the same key; else None.
    """

    channel: str
    policy: SlowPolicy
    by_encoding: dict[Encoding, set[Connection]] = field(default_factory=dict)
    pending: list[Event] = field(default_factory=list)
    based: set[Connection] = field(default_factory=set)
    previous: Publication | None = None
    differences: MapDifferences | None = None


class Hub:
    """The connections of one node and their subscriptions.

    Broadcasting needs no task, queue or await: publications gather until the reader of Redis has nothing more to read,
    then each connection gets one write with all of them (measured in tests/bench/README.md).

    Args:
        schedule: calls a function once, in a later turn of the loop: `Pace.schedule`. The broker's reader does not
            await while it has data, so a flush has all publications of one read.
    """

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        self._schedule = schedule
        self._channels: dict[str, _Subscribers] = {}
        self._dirty: list[_Subscribers] = []
        self._by_user: dict[str, set[Connection]] = {}
        self.connections: set[Connection] = set()
        self.delivery_count = 0
        self.dropped_count = 0

    def add(self, connection: Connection) -> None:
        """Add a connection, until `remove`."""
        self.connections.add(connection)
        if connection.user:
            self._by_user.setdefault(connection.user, set()).add(connection)

    def remove(self, connection: Connection) -> dict[str, Subscription]:
        """Remove a connection, and return its subscriptions."""
        self.connections.discard(connection)
        self._forget_user(connection)
        subscriptions = dict(connection.subscriptions)
        for channel in subscriptions:
            self.unsubscribe(connection, channel)
        return subscriptions

    def identify(self, connection: Connection, user: str) -> None:
        """Set the user of a connection that authenticates later, if it is still open."""
        if connection in self.connections:
            self._forget_user(connection)
            connection.user = user
            self.add(connection)

    def of_user(self, user: str) -> tuple[Connection, ...]:
        """Return the connections of a user on this node; for "" the anonymous ones, by a search through all."""
        if not user:
            return tuple(connection for connection in self.connections if not connection.user)
        return tuple(self._by_user.get(user, ()))

    def user_count(self) -> int:
        """Return how many users have a connection on this node; all anonymous clients count as one."""
        has_anonymous = any(not connection.user for connection in self.connections)
        return len(self._by_user) + has_anonymous

    def subscribe(
        self,
        connection: Connection,
        channel: str,
        subscription: Subscription,
        policy: SlowPolicy,
        bases: Bases | None = None,
    ) -> None:
        """Add a subscription. It also gets the events that wait for the next flush: see `pending_floor`.

        Args:
            bases: of a map, for an encoding with differences: the values that the client has.
        """
        subscribers = self._channels.get(channel)
        if subscribers is None:
            subscribers = self._channels[channel] = _Subscribers(channel, policy)
        subscribers.by_encoding.setdefault(subscription.encoding, set()).add(connection)
        connection.subscriptions[channel] = subscription
        if bases is not None:
            if subscribers.differences is None:
                subscribers.differences = MapDifferences()
            subscribers.differences.add(connection, bases, subscribers.pending)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Remove a subscription, if it is there."""
        subscription = connection.subscriptions.pop(channel, None)
        if subscription is None:
            return
        connection.forget_backlog(channel)
        subscribers = self._channels[channel]
        subscribers.based.discard(connection)
        if subscribers.differences is not None:
            subscribers.differences.discard(connection)
            if not subscribers.differences:
                subscribers.differences = None
        group = subscribers.by_encoding[subscription.encoding]
        group.discard(connection)
        if not group:
            del subscribers.by_encoding[subscription.encoding]
        if not subscribers.by_encoding:
            del self._channels[channel]

    def broadcast(self, event: Event) -> None:
        """Send an event to every subscriber of its channel on this node.

        Delivery: at most once per subscriber, in the order of the calls; written at the next flush.
        """
        subscribers = self._channels.get(event.channel)
        if subscribers is None:
            return
        if not subscribers.pending:
            if not self._dirty:
                self._schedule(self.flush)
            self._dirty.append(subscribers)
        subscribers.pending.append(event)
        if type(event) is Resumption:
            # At once: `pending_floor` would confuse the offsets before a gap with those after it.
            self._flush_channel(subscribers)
            if event.is_recovered is False:
                for connection in tuple(self.subscribers(event.channel)):
                    connection.receiver.on_lost(connection, event.channel)

    def flush(self) -> None:
        """Write to every connection the events since the last flush, in one write each."""
        dirty, self._dirty = self._dirty, []
        for subscribers in dirty:
            self._flush_channel(subscribers)

    def pending_floor(self, channel: str, offset: int) -> int:
        """Return the offset before the first publication that waits for the next flush; `offset` if none does."""
        subscribers = self._channels.get(channel)
        for event in subscribers.pending if subscribers is not None else ():
            if type(event) is Publication and event.position is not None:
                return event.position.offset - 1
        return offset

    def flush_channel(self, channel: str) -> None:
        """Write the waiting events of one channel now."""
        subscribers = self._channels.get(channel)
        if subscribers is not None:
            self._flush_channel(subscribers)

    def close_all(self, disconnect: Disconnect) -> None:
        """Begin to close every connection of this node."""
        for connection in tuple(self.connections):
            connection.close(disconnect)

    def channels(self) -> Collection[str]:
        """Return a view of the channels that have a subscriber on this node."""
        return self._channels.keys()

    def subscribers(self, channel: str) -> Iterator[Connection]:
        """Return the subscribers of a channel on this node; not to be iterated across an await."""
        subscribers = self._channels.get(channel)
        return chain.from_iterable(subscribers.by_encoding.values() if subscribers is not None else ())

    def subscriber_count(self, channel: str) -> int:
        """Return how many connections of this node are subscribed to a channel."""
        subscribers = self._channels.get(channel)
        return 0 if subscribers is None else sum(map(len, subscribers.by_encoding.values()))

    def _forget_user(self, connection: Connection) -> None:
        of_user = self._by_user.get(connection.user)
        if of_user is not None:
            of_user.discard(connection)
            if not of_user:
                del self._by_user[connection.user]

    def _flush_channel(self, subscribers: _Subscribers) -> None:
        pending, subscribers.pending = subscribers.pending, []
        if not pending:  # flushed early, by a new subscription
            return
        for encoding, connections in subscribers.by_encoding.items():
            if encoding.difference is not None:
                self._flush_differences(subscribers, encoding, connections, pending)
                continue
            encode = encoding.encode
            # Plain frames can express publications only.
            frames = [frame for event in pending if (frame := encode(event))]
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            if not data:
                continue
            # A connection that closes here is removed from the set in a later turn of the loop, not during it.
            congested = []
            for connection in connections:
                if connection.is_congested:
                    congested.append(connection)
                elif connection.state is _OPEN:
                    connection.transport.write(data)  # `send` without its call: 2 % of a delivery
                else:
                    connection.send(data)
            if congested:
                self._send_congested(subscribers, encoding, congested, pending, frames)
            self.delivery_count += len(frames) * len(connections)
        if subscribers.differences is not None:
            subscribers.differences.written(pending)
        elif subscribers.based:
            subscribers.previous = next(
                (event for event in reversed(pending) if type(event) is Publication), subscribers.previous
            )

    def _flush_differences(
        self, subscribers: _Subscribers, encoding: Encoding, connections: set[Connection], pending: list[Event]
    ) -> None:
        """Write differences to clients that have the previous publication, whole ones to the others."""
        if subscribers.differences is not None:
            self._flush_map_differences(subscribers, subscribers.differences, encoding, connections, pending)
            return
        assert encoding.difference is not None  # noqa: S101  (for the type checker)
        whole: list[bytes] = []
        differences: list[bytes] = []
        previous = subscribers.previous
        for event in pending:
            frame = encoding.encode(event)
            if not frame:
                continue
            whole.append(frame)
            difference = None
            if isinstance(event, Publication):
                difference = encoding.difference(previous, event) if previous is not None else None
                previous = event
            differences.append(difference or frame)
        if not whole:
            return
        has_publication = previous is not subscribers.previous
        may_drop = subscribers.policy is not SlowPolicy.DISCONNECT
        congested = []
        for connection in connections:
            is_based = connection in subscribers.based
            if connection.is_congested and may_drop:
                # It may miss publications, so it cannot get differences to them.
                subscribers.based.discard(connection)
                congested.append(connection)
            else:
                connection.send(b"".join(differences if is_based else whole))
                if has_publication:
                    subscribers.based.add(connection)
        if congested:
            self._send_congested(subscribers, encoding, congested, pending, whole)
        self.delivery_count += len(whole) * len(connections)

    def _flush_map_differences(
        self,
        subscribers: _Subscribers,
        differences: MapDifferences,
        encoding: Encoding,
        connections: set[Connection],
        pending: list[Event],
    ) -> None:
        """Write differences between the values of a key to clients that have the value before."""
        steps = differences.steps(encoding, pending)
        if not steps:
            return
        newest = b"".join(step.difference for step in steps)
        may_drop = subscribers.policy is not SlowPolicy.DISCONNECT
        congested = []
        for connection in connections:
            if connection.is_congested and may_drop:
                differences.forget(connection)
                congested.append(connection)
            else:
                connection.send(differences.frames(connection, steps, newest))
        if congested:
            self._send_congested(subscribers, encoding, congested, pending, [step.whole for step in steps])
        self.delivery_count += len(steps) * len(connections)

    def _send_congested(
        self,
        subscribers: _Subscribers,
        encoding: Encoding,
        connections: list[Connection],
        pending: list[Event],
        frames: list[bytes],
    ) -> None:
        """Send to congested clients by the channel's policy; `frames` are those of `pending`."""
        channel, policy = subscribers.channel, subscribers.policy
        memberships: list[bytes] = []
        keys: list[str] | None = None
        if policy is SlowPolicy.LATEST:
            # The newest publication replaces those before it, of a map those of its key, but no join or leave.
            events = [(event, frame) for event in pending if (frame := encoding.encode(event))]
            frames = [frame for event, frame in events if type(event) is Publication]
            memberships = [frame for event, frame in events if type(event) is not Publication]
            changes = [event.change for event, _ in events if type(event) is Publication]
            if None not in changes:
                keys = [change.key for change in changes if change is not None] or None
        for connection in connections:
            self.dropped_count += connection.send_congested(channel, frames, policy, keys)
            if memberships:
                self.dropped_count += connection.send_congested(channel, memberships, SlowPolicy.DROP_OLDEST)
