"""A model of Redis that loses data, with the real scripts, tracks and windows: every loss is announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomcast.brokers import history_commands
from roomcast.brokers.interface import ALWAYS, Published, Read, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication, Resumption
from roomcast.node.recovery import Window, catch_up_stream
from roomcast.node.track import Track
from roomcast.node.waiting import WaitingTotal
from roomcast.redis_access.scripts import Script, read_script

CHANNEL = "room:a"
ROOM = Namespace(history_size=1000, history_ttl_s=60.0)
META, STREAM = "{model:room:a}:meta", "{model:room:a}:stream"


def script_with_info(package: str, *names: str) -> Script:
    """Return a script for which INFO answers what the model says; the fake has no INFO."""
    text = read_script(package, *names).text.replace("redis.pcall('INFO', ", "redis.call('GET', 'info:' .. ")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Data(NamedTuple):
    """What a server holds."""

    meta: dict[Any, Any]  # Any: as redis-py takes them
    entries: list[tuple[bytes, dict[Any, Any]]]


class Client:
    """A client with envelopes: what it received, in order; None is the notice of a loss."""

    def __init__(self) -> None:
        self.heard: list[int | None] = []
        self.start: int | None = None  # publications up to this one were before its first subscription
        self.on_this_connection: list[int] = []
        self.position: Position | None = None
        self.node: ModelNode | None = None

    def receive(self, event: Publication | Resumption, *, is_start: bool = False) -> None:
        self.position = event.position
        if isinstance(event, Publication):
            self.heard.append(int(event.data))
            self.on_this_connection.append(int(event.data))
        elif not event.is_recovered and not is_start:
            self.heard.append(None)


class ModelNode:
    """A node: a broker, and a track with its subscribers. Live messages arrive when the model says so."""

    def __init__(self, server: FakeServer) -> None:
        self.broker = RedisBroker(FakeAsyncRedis(server=server), prefix="model:", node_id="n", max_message_bytes=1000)
        self.track = Track(CHANNEL, ROOM, WaitingTotal(1_000_000))
        self.clients: list[Client] = []
        self.inbox: list[Publication] = []
        self.knows: set[int] = set()

    def broadcast(self, event: Publication | Resumption) -> None:
        if isinstance(event, Publication):
            self.knows.add(int(event.data))
        for client in self.clients:
            client.receive(event)

    def receive_live(self, count: int) -> None:
        for publication in self.inbox[:count]:
            self.knows.add(int(publication.data))
            if self.track.accept(publication):
                self.broadcast(publication)
        del self.inbox[:count]


class LosingRedis(RuleBasedStateMachine):
    """Three nodes and their clients, on a server that restarts, is replaced and is emptied."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        patched = mock.patch.object(history_commands, "read_script", script_with_info)
        patched.start()
        self.unpatch = patched.stop
        self.server = FakeServer()
        self.redis = FakeAsyncRedis(server=self.server)
        self.nodes = [ModelNode(self.server) for _ in range(3)]
        self.snapshots: list[Data] = []
        self.all_clients: list[Client] = []
        self.numbers: dict[Position, int] = {}
        self.published = 0
        self.accepted: list[int] = []
        self.runs = 0
        self.has_lost = False
        self.other: tuple[Data, dict[str, bytes]] | None = None

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.unpatch()
            self.loop.close()

    def run(self, coroutine: Any) -> Any:  # Any: of any coroutine
        return self.loop.run_until_complete(coroutine)

    # The server.

    def begin_run(self, *, former: str = "0" * 40, replicated: int = 0) -> None:
        self.runs += 1
        self.id = f"{self.runs * 0x9E3779B97F4A7C15 & (1 << 64) - 1:040x}"[::-1]
        info = f"master_replid:{self.id}\r\nmaster_replid2:{former}\r\n"
        self.run(self.redis.set("info:replication", info))
        self.run(self.redis.set("info:stats", f"total_net_repl_input_bytes:{replicated}\r\n"))

    def info(self) -> dict[str, bytes]:
        return {name: self.run(self.redis.get(name)) for name in ("info:replication", "info:stats")}

    def data(self) -> Data:
        return Data(self.run(self.redis.hgetall(META)), self.run(self.redis.xrange(STREAM)))

    def load(self, data: Data) -> None:
        self.has_lost = self.has_lost or data != self.data()
        self.run(self.redis.delete(META, STREAM))
        if data.meta:
            self.run(self.redis.hset(META, mapping=data.meta))
        for entry_id, fields in data.entries:
            self.run(self.redis.xadd(STREAM, fields, id=entry_id))

    def disconnect(self, arriving: list[int]) -> None:
        """End all connections: of what is under way each node receives some more."""
        for node, count in zip(self.nodes, arriving, strict=True):
            node.receive_live(count)
            node.inbox.clear()
            node.track.disconnect()

    ARRIVING = st.lists(st.integers(0, 9), min_size=3, max_size=3)

    @initialize(target=clients, number=st.integers(0, 2))
    def first_client(self, number: int) -> Client:
        return self.begin(number)

    def begin(self, number: int) -> Client:
        self.begin_run()
        client = self.add_client()
        self.connect(client, number)
        self.publish_to_all(0, 2)
        self.save()
        self.publish_to_all(1, 2)
        return client

    @rule()
    def save(self) -> None:
        self.snapshots.append(self.data())

    @rule(arriving=ARRIVING)
    def restart(self, arriving: list[int]) -> None:
        self.load(self.data())
        self.begin_run()
        self.disconnect(arriving)

    @rule(number=st.integers(0, 9), arriving=ARRIVING)
    def restart_with_older_data(self, number: int, arriving: list[int]) -> None:
        self.load(self.snapshots[number % len(self.snapshots)])
        self.begin_run()
        self.disconnect(arriving)

    @rule(number=st.integers(0, 9), arriving=ARRIVING)
    def promote(self, number: int, arriving: list[int]) -> None:
        self.load(self.snapshots[number % len(self.snapshots)])
        self.has_lost = True  # an epoch ends at every promotion
        self.begin_run(former=self.id, replicated=99)
        self.disconnect(arriving)

    @rule()
    def flush(self) -> None:
        self.load(Data({}, []))
        self.has_lost = True
        self.disconnect([99, 99, 99])

    @rule(number=st.integers(0, 9), arriving=ARRIVING)
    def split(self, number: int, arriving: list[int]) -> None:
        """A replica is promoted, but the former master lives on."""
        self.other = self.data(), self.info()
        self.load(self.snapshots[number % len(self.snapshots)])
        self.has_lost = True
        self.begin_run(former=self.id, replicated=99)
        self.disconnect(arriving)

    @precondition(lambda self: self.other)
    @rule(arriving=ARRIVING)
    def turn_to_the_other_master(self, arriving: list[int]) -> None:
        assert self.other is not None
        (data, info), self.other = self.other, (self.data(), self.info())
        self.load(data)
        self.run(self.redis.mset(info))
        self.disconnect(arriving)

    # The nodes.

    @rule(number=st.integers(0, 2), count=st.integers(1, 3))
    def publish(self, number: int, count: int) -> None:
        node = self.nodes[number]
        for _ in range(count):
            self.published += 1
            publication = Publication(CHANNEL, b"%d" % self.published)
            (published,) = self.run(node.broker.publish_all([Submission(publication, ROOM, ALWAYS)]))
            assert isinstance(published, Published), published
            assert published.position is not None
            first = self.numbers.setdefault(published.position, self.published)
            assert first == self.published, "a position is given twice"
            self.accepted.append(self.published)
            node.knows.add(self.published)
            for receiver in self.nodes:
                receiver.inbox.append(publication._replace(position=published.position))

    @rule(number=st.integers(0, 2), count=st.integers(1, 3))
    def publish_to_all(self, number: int, count: int) -> None:
        self.publish(number, count)
        for node in self.nodes:
            node.receive_live(1000)

    @rule(number=st.integers(0, 2), count=st.integers(1, 9))
    def deliver(self, number: int, count: int) -> None:
        self.nodes[number].receive_live(count)

    @rule(number=st.integers(0, 2))
    def repair(self, number: int) -> None:
        node = self.nodes[number]
        track = node.track
        if track.is_resolved:
            track.doubt()
        request = track.request(1_000_000)
        (history,) = self.run(node.broker.read([request.read]))
        assert isinstance(history, History), history
        node.knows.update(int(publication.data) for publication in history.publications)
        if track.needs_sync(request, history):
            node.receive_live(1000)
        take = track.settle if request.target is None else track.page
        for event in take(request, history):
            node.broadcast(event)

    def resolved(self, number: int) -> Position:
        """Return the position of a node's track, once it is known."""
        while not self.nodes[number].track.is_resolved:
            self.repair(number)
        position = self.nodes[number].track.position
        assert position is not None
        return position

    @rule(number=st.integers(0, 2))
    def kill_node(self, number: int) -> None:
        for client in self.nodes[number].clients:
            client.node = None
        self.nodes[number] = ModelNode(self.server)

    # The clients.

    @rule(target=clients)
    def new_client(self) -> Client:
        return self.add_client()

    def add_client(self) -> Client:
        client = Client()
        self.all_clients.append(client)
        return client

    @rule(client=clients)
    def leave(self, client: Client) -> None:
        if client.node is not None:
            client.node.clients.remove(client)
            client.node = None

    @rule(client=clients, number=st.integers(0, 2))
    def connect(self, client: Client, number: int) -> None:
        node = self.nodes[number]
        if client.node is not None:
            return
        top = self.resolved(number)
        since = client.position
        if since is not None and (since.epoch != top.epoch or since > top):
            node.track.doubt()
            top = self.resolved(number)
        window = Window(top.offset, max_length=1000, now_s=0.0)
        (history,) = self.run(node.broker.read([Read(CHANNEL, ROOM, limit=1000, newest=True)]))
        if history.position.epoch == top.epoch:
            window.extend_back(history)
            client.on_this_connection.clear()
            for event in catch_up_stream(CHANNEL, since, top, window):
                client.receive(event, is_start=since is None)
            if client.start is None:
                client.start = self.published
            client.node = node
            node.clients.append(client)

    # The promises.

    @invariant()
    def nothing_is_received_twice_or_out_of_order_without_a_notice(self) -> None:
        for client in self.all_clients:
            for run in runs_between_notices(client.heard):
                assert run == sorted(set(run)), client.heard
            assert len(set(client.on_this_connection)) == len(client.on_this_connection), client.on_this_connection

    def settle(self) -> None:
        """Let everything arrive, and every client return: what a client has not received must have been announced."""
        if not self.runs:
            return
        for _ in range(3):  # every node repairs, and checks twice
            for number in range(3):
                self.deliver(number, 1000)
                self.repair(number)
                while not self.nodes[number].track.is_resolved:
                    self.repair(number)
        for client in self.all_clients:
            for number in (0, 1, 2):
                if client.start is not None:
                    self.connect(client, number)
        self.publish(0, 1)
        for number in range(3):
            self.deliver(number, 1000)
            while not self.nodes[number].track.is_resolved:
                self.repair(number)
        self.nothing_is_received_twice_or_out_of_order_without_a_notice()
        kept = {int(fields[b"d"]) for _, fields in self.data().entries}
        for client in self.all_clients:
            if client.start is not None:
                assert client.node is not None
                self.check_losses(client, client.start, kept)

    def check_losses(self, client: Client, start: int, kept: set[int]) -> None:
        known = kept.union(*[node.knows for node in self.nodes])
        for number in self.accepted:
            if number > start and number not in client.heard and number in known:
                assert is_announced(number, client.heard), f"{number} is lost in silence: {client.heard}"
        for place, heard in enumerate(client.heard):
            if heard is not None and heard not in kept:
                assert None in client.heard[place:], f"the loss of {heard} is not announced: {client.heard}"
        assert self.has_lost or None not in client.heard, "nothing is lost"


def is_announced(number: int, heard: list[int | None]) -> bool:
    """Return whether a notice came after the last publication before this one."""
    before = max((place for place, other in enumerate(heard) if other is not None and other < number), default=-1)
    return None in heard[before + 1 :]


def runs_between_notices(heard: list[int | None]) -> Iterator[list[int]]:
    run: list[int] = []
    for number in (*heard, None):
        if number is None:
            yield run
            run = []
        else:
            run.append(number)


@contextmanager
def scene() -> Iterator[tuple[LosingRedis, Client]]:
    """Give a model with a client on the first node, that has four publications; two of them are saved."""
    model = LosingRedis()
    client = model.begin(0)
    yield model, client
    model.teardown()
    assert model.has_lost
    assert None in client.heard


def test_a_start_with_all_data_disturbs_nobody() -> None:
    model = LosingRedis()
    client = model.begin(0)
    model.publish(1, 1)
    model.restart([0, 0, 0])
    model.publish(2, 1)
    model.leave(client)
    model.connect(client, 1)
    model.restart([0, 0, 0])
    model.teardown()
    assert client.heard == list(range(1, 8))


def test_only_a_client_has_heard_what_is_lost() -> None:
    with scene() as (model, client):
        model.leave(client)
        for number in range(3):
            model.kill_node(number)
        model.restart_with_older_data(0, [0, 0, 0])
        model.publish(0, 1)
    assert client.heard == [1, 2, 3, 4, None, 6]


def test_two_masters_answer_in_turn() -> None:
    with scene() as (model, client):
        model.split(0, [0, 0, 0])
        model.repair(0)
        for _ in range(4):
            model.publish_to_all(0, 1)
            model.turn_to_the_other_master([0, 0, 0])
            model.repair(0)
    assert [number for number in client.heard if number] == list(range(1, 10))


def test_an_epoch_is_lost_as_a_whole() -> None:
    with scene() as (model, _):
        model.save()
        model.flush()
        model.publish(1, 1)
        model.restart_with_older_data(1, [0, 0, 0])


def test_a_node_that_has_only_heard_what_is_lost_proves_it_to_those_that_were_away() -> None:
    with scene() as (model, _):
        away = model.add_client()
        model.connect(away, 2)
        model.leave(away)
        model.save()
        model.publish_to_all(1, 1)
        model.kill_node(1)
        model.kill_node(2)
        model.restart_with_older_data(1, [0, 0, 0])
        model.publish_to_all(2, 1)
        model.connect(away, 2)
        assert away.heard == [6], "it is not known yet"
    assert away.heard == [6, None, 7]


TestLosingRedis = LosingRedis.TestCase
TestLosingRedis.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
