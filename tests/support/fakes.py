"""Fakes that a test can drive, for boundaries of our own: the transport, the broker, the registry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from roomcast.brokers.interface import ALWAYS, Once, Published, Read, Sink, Submission
from roomcast.connections.connection import Connection
from roomcast.connections.encoding import Encoding
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError, Disconnect
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication
from roomcast.node.hub import Hub
from roomcast.node.node import Node
from roomcast.node.roster import HubRoster
from roomcast.node.track import Track
from roomcast.node.tracker import Tracker
from roomcast.presence.interface import Counts, LeaseState, Page
from roomcast.redis_access.work_queue import StreamCounts
from roomcast.rooms.receivers import Feed
from tests.support.map_store import FakeMapStore

RAW = Encoding(
    lambda event: event.data + b";" if isinstance(event, Publication) else b"",
    lambda count: b"missed %d;" % count,
)


_IDS = itertools.count(1)

EMPTY = History(Position(0, "e"), 0, [])


class RecordingTransport:
    """Keeps written bytes; `stalled` makes all of them count as unsent. `on_write` is called after each write."""

    name = "recording"

    def __init__(self, *, stalled: bool = False) -> None:
        self.written: list[bytes] = []
        self.closed_with: list[Disconnect] = []
        self.stalled = stalled
        self.is_reading = True
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.on_write()

    def unsent_bytes(self) -> int:
        return sum(map(len, self.written)) if self.stalled else 0

    def close(self, disconnect: Disconnect) -> None:
        self.closed_with.append(disconnect)

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close_code(self) -> int:
        return self.closed_with[0].code if self.closed_with else 1006


def connection(
    *, encoding: Encoding = RAW, stalled: bool = False, max_unsent_bytes: int = 1000, is_open: bool = True
) -> tuple[Connection, RecordingTransport]:
    """Return a connection on a recording transport, open unless said otherwise."""
    transport = RecordingTransport(stalled=stalled)
    made = Connection(next(_IDS), transport, encoding, Feed(), max_unsent_bytes=max_unsent_bytes)
    if stalled:
        made.on_congested()
    if is_open:
        made.open()
    return made, transport


class Schedule:
    """Stands for `loop.call_soon`: `run` is the loop's next turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Clock:
    """A clock that the test turns."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FakeBroker:
    """A broker in memory that can be away."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.published: list[Publication] = []
        self.reads: list[Read] = []
        self.removed: list[str] = []
        self.away: str | None = None
        self.refused: dict[str, int] = {}
        self.histories: dict[str, History | BrokerUnavailable] = {}
        self.is_slow = False  # submitted publications wait for `take`
        self._waiting: list[Callable[[], None]] = []

    def take(self) -> None:
        """Accept the waiting publications."""
        waiting, self._waiting = self._waiting, []
        for taken in waiting:
            taken()

    async def run(self, sink: Sink) -> None:
        raise NotImplementedError

    def reason_not_ready(self) -> str | None:
        return self.away

    def refusals(self) -> dict[str, int]:
        return self.refused

    async def subscribe(self, channel: str) -> None:
        if self.away:
            raise BrokerUnavailable(self.away)
        self.subscribed.append(channel)

    def unsubscribe(self, channel: str) -> None:
        self.unsubscribed.append(channel)

    async def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        seen: Sequence[Position] = (),
        once: Once = ALWAYS,
        skip_history: bool = False,
    ) -> Published:
        if self.away:
            raise BrokerUnavailable(self.away)
        self.published.append(publication)
        return Published(None, 1)

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        taken: Callable[[Published | BrokerUnavailable], None],
        *,
        seen: Sequence[Position] = (),
    ) -> None:
        if self.away:
            taken(BrokerUnavailable(self.away))
        else:
            self.published.append(publication)
            if self.is_slow:
                self._waiting.append(lambda: taken(Published(None, 1)))
            else:
                taken(Published(None, 1))

    def shard_of(self, channel: str) -> str:
        return ""

    async def publish_all(self, submissions: Sequence[Submission]) -> list[Published | ClientError | BrokerUnavailable]:
        raise NotImplementedError

    async def flush(self, *, within_s: float) -> None:
        raise NotImplementedError

    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        self.reads += reads
        return [self.histories.get(read.channel, EMPTY) for read in reads]

    async def sync(self, channels: set[str]) -> set[str]:
        return channels

    async def remove_history(self, channel: str) -> None:
        self.removed.append(channel)


class FakeRegistry:
    """A registry in memory."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    async def report(self, lease: str, connection_count: int, *, ttl_s: float) -> LeaseState:
        self.counts[lease] = connection_count
        return LeaseState.ALIVE

    async def end(self, lease: str, last_report: bytes) -> bool:
        raise NotImplementedError

    async def retire(self, lease: str) -> None:
        self.counts.pop(lease, None)

    async def connection_counts(self) -> dict[str, int]:
        return self.counts

    async def reports(self) -> dict[str, bytes]:
        raise NotImplementedError

    async def ingest_counts(self) -> StreamCounts:
        return StreamCounts(0, 0)


class FakePresence:
    """Presence in memory, of one node."""

    lease = "n1.1"
    fault_count = 0

    def __init__(self) -> None:
        self.members: dict[str, dict[str, ClientInfo]] = {}
        self.occupied: set[str] = set()
        self.doubt_count = 0

    async def run(self) -> None:
        raise NotImplementedError

    def join(self, channel: str, info: ClientInfo) -> None:
        self.members.setdefault(channel, {})[info.client] = info

    def leave(self, channel: str, client: str) -> None:
        del self.members[channel][client]

    def occupy(self, channel: str) -> None:
        self.occupied.add(channel)

    def vacate(self, channel: str) -> None:
        self.occupied.remove(channel)

    def doubt(self) -> None:
        self.doubt_count += 1

    def reported(self, state: LeaseState) -> None: ...

    async def retire(self) -> None:
        raise NotImplementedError

    async def page(self, channel: str, *, cursor: str = "", limit: int = 100) -> Page:
        return Page(list(self.members.get(channel, {}).values()), "")

    async def count(self, channel: str) -> Counts:
        raise NotImplementedError


class SettledTracker(Tracker):
    """Knows at once where a channel is: the task that would ask for it does not run, as a rule."""

    def open(self, channel: str, namespace: Namespace) -> Track:
        track = super().open(channel, namespace)
        assert isinstance(self._broker, FakeBroker)
        history = self._broker.histories.get(channel, EMPTY)
        assert isinstance(history, History)
        track.settle(track.request(0), history)
        self._repairs.forget(track)
        return track


def node(
    hub: Hub,
    broker: FakeBroker,
    namespaces: Namespaces | None = None,
    *,
    tracker: Tracker | None = None,
    map_store: FakeMapStore | None = None,
) -> Node:
    """Return a node on fakes, with the default namespaces unless others are given; its tasks do not run."""
    tracker = tracker or SettledTracker(broker, hub.broadcast, lambda: 0.0)
    return Node(
        "n1",
        hub,
        broker,
        namespaces=namespaces or Namespaces(),
        tracker=tracker,
        presence=FakePresence(),
        roster=HubRoster(hub, "n1"),
        map_store=map_store or FakeMapStore(),
    )
