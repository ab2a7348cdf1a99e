"""The repair of gaps against a model of Redis: one channel, one node, and a subscriber that checks what it receives."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomcast.brokers.interface import Read
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication, Resumption
from roomcast.node.repair import Repairs
from roomcast.node.track import Request, Track

CHANNEL = "room:a"
PATIENCE_S = 30.0
MAX_WAITING_BYTES = 12 * 256


@dataclass
class Stream:
    """A channel in Redis as read.lua and publish.lua treat it, and the connection on which a node listens.

    order: every message ever published, by its number. live: those on their way to the node.
    """

    epoch: str = "e0"
    top: int = 0
    base: int = 0
    entries: dict[int, int] = field(default_factory=dict)  # number of the message by offset
    order: int = 0
    live: deque[Publication] = field(default_factory=deque)
    is_connected: bool = True
    read_count: int = 0

    def publish(self, *, has_position: bool) -> Publication:
        self.order += 1
        position = None
        if has_position:
            self.top += 1
            self.entries[self.top] = self.order
            position = Position(self.top, self.epoch)
        published = Publication(CHANNEL, b"%d" % self.order, position=position)
        if self.is_connected:
            self.live.append(published)
        return published

    def renew(self, base: int) -> None:
        """Start an epoch that continues after `base`."""
        self.epoch = f"e{int(self.epoch[1:]) + 1}"
        self.top = self.base = base
        self.entries = {offset: number for offset, number in self.entries.items() if offset <= base}

    def read(self, read: Read) -> History:
        if any(seen.epoch == self.epoch and seen.offset > self.top for seen in read.seen):
            self.renew(self.top)
        first, last = 0, self.top
        if read.since is not None:
            first = read.since.offset if read.since.epoch == self.epoch else min(self.base, read.since.offset)
        if read.before is not None:
            last = read.before.offset - 1 if read.before.epoch == self.epoch else -1
        found = [
            Publication(CHANNEL, b"%d" % number, position=Position(offset, self.epoch))
            for offset, number in sorted(self.entries.items())
            if first < offset <= last
        ][: read.limit]
        self.read_count += len(found)
        return History(Position(self.top, self.epoch), self.base, found)


class Gaps(RuleBasedStateMachine):
    """Redis, a link that is slow and breaks, and a node."""

    @initialize()
    def begin(self) -> None:
        self.redis = Stream()
        self.now_s = 0.0
        self.repairs = Repairs(patience_s=PATIENCE_S, max_waiting_bytes=MAX_WAITING_BYTES)
        self.track = Track(CHANNEL, DEFAULTS["room"], self.repairs.waiting)
        self.requests: list[Request] = []
        self.histories: list[History] = []
        self.to_sync = 0  # so many live ones were on their way when Redis was read
        self.is_subscribed = self.is_node_connected = True
        self.may_lose = False
        # The subscriber's position, and the messages that came live.
        self.position: Position | None = None
        self.newest = 0
        self.received_count = {True: 0, False: 0}  # by whether they have a position
        self.received: set[bytes] = set()
        self.unplaced = 0
        self.repairs.ask(self.track, self.now_s)
        self.finish_round()
        self.position = self.track.position

    def send(self, events: list[Publication | Resumption]) -> None:
        for event in events:
            if isinstance(event, Resumption):
                assert event.position is not None
                assert self.may_lose, "a loss was announced and there was none"
                assert self.position is not None
                assert event.position.epoch != self.position.epoch or event.position >= self.position
                self.position = event.position
                continue
            number = int(event.data)
            assert number > self.newest, "out of order, or twice"
            self.newest = number
            if event.position is not None:
                assert self.position is not None
                assert event.position == self.position._replace(offset=self.position.offset + 1), "a silent loss"
                self.position = event.position
            self.received_count[event.position is not None] += 1

    # Redis.

    @rule(has_position=st.sampled_from([True, True, False]), count=st.integers(1, 4))
    def publish(self, has_position: bool, count: int) -> None:
        for _ in range(count):
            self.redis.publish(has_position=has_position)

    @rule()
    def flush(self) -> None:
        self.redis.renew(0)
        self.may_lose = True

    @rule(lost=st.integers(0, 3))
    def fail_over(self, lost: int) -> None:
        self.lose_connection()
        self.redis.renew(max(0, self.redis.top - lost))
        self.may_lose = True

    @rule(kept=st.integers(0, 3))
    def trim(self, kept: int) -> None:
        entries = self.redis.entries
        self.redis.entries = {offset: entries[offset] for offset in entries if offset > self.redis.top - kept}
        self.may_lose = True

    # The link.

    @precondition(lambda self: self.redis.live)
    @rule(count=st.integers(1, 6))
    def receive(self, count: int) -> None:
        for _ in range(min(count, len(self.redis.live))):
            self.receive_one()

    def receive_one(self) -> None:
        publication = self.redis.live.popleft()
        self.to_sync = max(0, self.to_sync - 1)
        self.unplaced += publication.position is None
        if self.track.accept(publication):
            self.send([publication])
        elif not self.track.is_resolved:
            self.received.add(publication.data)
            self.repairs.ask(self.track, self.now_s)
            self.may_lose |= self.repairs.waiting.is_exceeded()
            self.send(self.repairs.make_space(self.track, self.now_s))

    @rule()
    def lose_connection(self) -> None:
        """Lose what is on its way; the node notices."""
        self.redis.is_connected = self.is_node_connected = False
        self.redis.live.clear()
        self.to_sync = -1
        self.track.disconnect()

    @precondition(lambda self: not self.redis.is_connected)
    @rule()
    def subscribe(self) -> None:
        self.redis.is_connected = True

    @precondition(lambda self: self.redis.is_connected and not self.is_node_connected)
    @rule()
    def connect(self) -> None:
        self.is_node_connected = True
        self.track.doubt()
        self.repairs.ask(self.track, self.now_s)
        self.repairs.connect(self.now_s)

    @rule(missed=st.lists(st.booleans(), max_size=4), live=st.lists(st.booleans(), max_size=4), count=st.integers(0, 6))
    def interrupt(self, missed: list[bool], live: list[bool], count: int) -> None:
        """Lose the connection and make another one, while others publish with and without positions."""
        self.lose_connection()
        for has_position in missed:
            self.redis.publish(has_position=has_position)
        self.subscribe()
        for has_position in live:
            self.redis.publish(has_position=has_position)
        for _ in range(min(count, len(self.redis.live))):
            self.receive_one()
        self.connect()

    @precondition(lambda self: self.track.is_resolved)
    @rule()
    def lose_one(self) -> None:
        """Lose one message without any sign but the next one: Redis does not, and no place is promised after it."""
        live = self.redis.live
        if len(live) > 1 and live[0].position is not None and live[1].position is not None:
            live.popleft()
            self.to_sync = max(0, self.to_sync - 1)

    @rule()
    def check(self) -> None:
        """Doubt, as the check of all positions does, and clients that know more."""
        if self.track.is_resolved:
            self.track.doubt()
            self.repairs.ask(self.track, self.now_s)

    # The node.

    @precondition(lambda self: not self.requests and self.repairs.has_asked and self.is_node_connected)
    @rule()
    def begin_round(self) -> None:
        self.requests = self.repairs.next_round()
        before = self.redis.epoch
        self.histories = [self.redis.read(request.read) for request in self.requests]
        self.may_lose |= self.redis.epoch != before
        for request, history in zip(self.requests, self.histories, strict=True):
            if request.target is not None and not self.may_lose:
                for publication in history.publications:
                    assert publication.data not in self.received, "read, although it came live"
        self.to_sync = len(self.redis.live)

    @precondition(lambda self: self.requests)
    @rule(took_s=st.sampled_from([0.01, 2.0]))
    def finish_round(self, took_s: float = 0.01) -> None:
        """Take the replies, synced if the link has not lost what was on its way."""
        if not self.requests:
            self.begin_round()
        synced = set()
        if self.repairs.to_sync(self.requests, self.histories):
            while self.to_sync > 0:
                self.receive_one()
            synced = {CHANNEL} if self.to_sync == 0 and self.is_node_connected else set()
        self.take(self.histories, synced, took_s)

    @precondition(lambda self: self.requests)
    @rule()
    def fail_round(self) -> None:
        self.take([BrokerUnavailable("too slow")] * len(self.requests), set(), 5.0)

    def take(self, histories: list[History] | list[BrokerUnavailable], synced: set[str], took_s: float) -> None:
        requests, self.requests = self.requests, []
        self.send(self.repairs.take(requests, histories, synced=synced, took_s=took_s, now_s=self.now_s))

    @precondition(lambda self: self.is_node_connected)
    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        before = self.track.position
        found = self.repairs.give_up(self.now_s)
        self.may_lose |= bool(found) or before != self.track.position
        self.send(found)

    @invariant()
    def waiting_is_bounded(self) -> None:
        assert 0 <= self.repairs.waiting.used_bytes <= MAX_WAITING_BYTES + 300
        assert self.track.is_resolved or self.repairs.has_asked or self.requests or not self.is_node_connected

    def teardown(self) -> None:
        """Once the link works, few rounds are enough, and everything was received or announced."""
        if not hasattr(self, "redis"):
            return
        self.redis.is_connected = True
        if not self.is_node_connected:
            self.connect()
        for _ in range(20 + len(self.redis.entries)):
            while self.redis.live:
                self.receive_one()
            if not self.repairs.has_asked and not self.requests:
                break
            self.finish_round()
        assert self.track.is_resolved
        assert self.repairs.reason_not_ready(self.now_s + PATIENCE_S) is None
        assert self.repairs.waiting.used_bytes == 0
        assert self.received_count[False] + self.repairs.waiting.unplaced_count == self.unplaced
        self.check()
        while self.repairs.has_asked:
            self.finish_round()
        assert self.position == self.track.position == Position(self.redis.top, self.redis.epoch)


Gaps.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGaps = Gaps.TestCase
