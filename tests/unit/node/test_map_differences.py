"""Differences in maps: each subscriber ends with the map, whatever it has and however slowly it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping

from centrifuge.fossil import apply_delta
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.map_encodings import MapView
from roomcast.centrifuge.wire import Wire
from roomcast.connections.connection import Connection, Subscription
from roomcast.model.maps import Change
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication
from roomcast.node.hub import Hub
from roomcast.node.map_differences import Bases
from tests.support.fakes import RecordingTransport, Schedule, connection

CHANNEL = "board:a"
WIRE = Wire("json", JsonCodec(), lambda message: message + b"\n")
VIEW = MapView(tells_offsets=True, is_delta=True)
DELTA = WIRE.maps.encoding_of(VIEW, b"")
WHOLE = WIRE.maps.encoding_of(MapView(tells_offsets=True), b"")
# Long enough for differences.
PAD = "x" * 60
Values = dict[str, object]


class Client:
    """Applies what it receives, as the SDK does."""

    def __init__(self, values: Mapping[str, Publication]) -> None:
        self.connection: Connection
        self.transport: RecordingTransport
        self.connection, self.transport = connection(encoding=DELTA, max_unsent_bytes=1_000_000)
        self.texts = {key: each.data for key, each in values.items() if each.data}
        self.values: Values = {key: json.loads(each.data or b"null") for key, each in values.items()}
        self.patch_count = 0

    def read(self) -> None:
        for line in b"".join(self.transport.written).splitlines():
            self.apply(json.loads(line)["push"]["pub"])
        self.transport.written.clear()

    def apply(self, pub: dict[str, object]) -> None:
        key, data = str(pub["key"]), str(pub["data"])
        if pub.get("removed"):
            assert data == "null", "the SDK for JavaScript parses it"
            self.texts.pop(key, None)
            self.values.pop(key, None)
            return
        if pub.get("delta"):
            self.patch_count += 1
            self.texts[key] = apply_delta(self.texts[key], data.encode())
        else:
            self.texts[key] = data.encode()
        self.values[key] = json.loads(self.texts[key])

    def forget_bases(self, kept: set[str]) -> None:
        """Keep the values alone of what it recovered: so does an SDK that begins its differences with the recovery."""
        self.texts = {key: text for key, text in self.texts.items() if key in kept}


class Board:
    """A hub with one map, and the map itself."""

    def __init__(self, policy: SlowPolicy = SlowPolicy.DISCONNECT) -> None:
        self.policy = policy
        self.turn = Schedule()
        self.hub = Hub(self.turn)
        self.log: list[Publication] = []

    @property
    def flushed(self) -> int:
        """Return the offset up to which the changes are written; without a subscriber none waits."""
        return self.hub.pending_floor(CHANNEL, len(self.log))

    def change(self, key: str, value: object = None, *, is_removed: bool = False) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        position = Position(len(self.log) + 1, "e")
        self.log.append(Publication(CHANNEL, data, Kind.JSON, position, change=Change(key, is_removed)))
        self.hub.broadcast(self.log[-1])

    def flush(self) -> None:
        self.turn.run()

    def entries(self, up_to: int | None = None) -> dict[str, Publication]:
        found: dict[str, Publication] = {}
        for publication in self.log[:up_to]:
            assert publication.change is not None
            found.pop(publication.change.key, None)
            if not publication.change.is_removed:
                found[publication.change.key] = publication
        return found

    def values(self) -> Values:
        return {key: json.loads(each.data or b"null") for key, each in self.entries(self.flushed).items()}

    def load(self) -> Client:
        """Return a client that goes live with the map up to the last flush; the node's copy is newer."""
        client = Client(self.entries(self.flushed))
        self._subscribe(client, Bases(self.entries(), is_whole=True))
        return client

    def watch_whole(self) -> None:
        """Add a subscriber without differences: changes wait for the next flush although no other one is there."""
        client, _ = connection(encoding=WHOLE)
        self.hub.subscribe(client, CHANNEL, Subscription(WHOLE), self.policy)

    def leave(self, client: Client) -> None:
        self.hub.unsubscribe(client.connection, CHANNEL)
        client.connection.forget_backlog(CHANNEL)

    def recover(self, client: Client, since: int) -> None:
        """Subscribe a client again: its reply has what it missed, the first of each key whole."""
        missed = self.log[since : self.flushed]
        for members in WIRE.maps.publications(missed, VIEW):
            text = {**members, "data": json.loads(members["data"]) if "data" in members else "null"}
            client.apply(text)
        last = {each.change.key: each for each in missed if each.change is not None}
        client.forget_bases(set(last))
        self._subscribe(client, Bases(last, is_whole=False))

    def _subscribe(self, client: Client, bases: Bases) -> None:
        self.hub.subscribe(client.connection, CHANNEL, Subscription(DELTA), self.policy, bases)


def test_each_key_has_its_own_differences_from_the_state_on() -> None:
    board = Board()
    board.change("a", [PAD, 1])
    board.change("b", [PAD, 1])
    board.flush()
    client = board.load()

    board.change("a", [PAD, 2, PAD[::-1] + "y" * 60])
    board.change("b", [PAD, 2])
    board.change("a", ["y" * 60, 3])
    board.flush()
    client.read()

    assert client.values == board.values() == {"a": ["y" * 60, 3], "b": [PAD, 2]}
    assert client.patch_count == 3


def test_the_first_value_of_a_key_and_the_first_after_a_removal_are_whole() -> None:
    board = Board()
    client = board.load()

    board.change("a", [PAD, 1])
    board.change("a", is_removed=True)
    board.change("a", [PAD, 2])
    board.flush()
    client.read()
    assert (client.values, client.patch_count) == ({"a": [PAD, 2]}, 0)

    for value in (None, [PAD, 3]):
        board.change("a", value)
        board.flush()
    client.read()
    assert (client.values, client.patch_count) == ({"a": [PAD, 3]}, 0), "nothing builds on a value without data"

    board.change("a", is_removed=True)
    board.flush()
    board.change("a", [PAD, 4])
    board.flush()
    client.read()
    assert (client.values, client.patch_count) == ({"a": [PAD, 4]}, 0)


def test_differences_build_on_what_was_written_and_not_on_what_waits() -> None:
    board = Board()
    board.watch_whole()
    board.change("a", [PAD, 1])
    board.flush()
    board.change("a", [PAD, 2])
    client = board.load()

    assert client.values == {"a": [PAD, 1]}
    board.flush()
    client.read()
    assert client.values == {"a": [PAD, 2]}


def test_a_client_that_may_have_missed_changes_gets_each_value_whole_once() -> None:
    board = Board(SlowPolicy.LATEST)
    slow, quick = board.load(), board.load()
    board.change("a", [PAD, 1])
    board.flush()
    slow.connection.on_congested()
    for number in range(2, 5):
        board.change("a", [PAD, number])
        board.flush()
    slow.connection.on_drained()

    board.change("a", [PAD, 5])
    board.change("a", [PAD, 6])
    board.flush()
    for client in (slow, quick):
        client.read()

    assert slow.values == quick.values == {"a": [PAD, 6]}
    assert quick.patch_count == 5
    assert slow.patch_count == 1


class Delivery(RuleBasedStateMachine):
    """Clients come, go, return and are slow, while keys change."""

    keys = st.sampled_from("abc")

    @initialize(policy=st.sampled_from([SlowPolicy.DISCONNECT, SlowPolicy.LATEST]))
    def begin(self, policy: SlowPolicy) -> None:
        self.board = Board(policy)
        self.board.watch_whole()
        self.clients: list[Client] = []
        self.away: list[tuple[Client, int]] = []

    @rule(key=keys, number=st.integers(0, 3), pad=st.sampled_from([PAD, "", "y" * 70]))
    def set(self, key: str, number: int, pad: str) -> None:
        self.board.change(key, [pad, number])

    @rule(key=keys)
    def set_without_data(self, key: str) -> None:
        self.board.change(key)

    @rule(key=keys)
    def remove(self, key: str) -> None:
        self.board.change(key, is_removed=True)

    @rule()
    def flush(self) -> None:
        self.board.flush()

    @rule()
    def load(self) -> None:
        if len(self.clients) < 3:
            self.clients.append(self.board.load())

    @rule(number=st.integers(0, 5))
    def leave(self, number: int) -> None:
        if self.clients:
            client = self.clients.pop(number % len(self.clients))
            if client.connection.is_congested:
                return  # what it has read is unknown: it would load again
            client.read()
            self.away.append((client, self.board.flushed))
            self.board.leave(client)

    @rule()
    def recover(self) -> None:
        if self.away:
            client, since = self.away.pop()
            self.board.recover(client, since)
            self.clients.append(client)

    @rule(number=st.integers(0, 5))
    def stall(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].connection.on_congested()

    @rule(number=st.integers(0, 5))
    def drain(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].connection.on_drained()

    @invariant()
    def every_client_that_reads_has_the_map(self) -> None:
        for client in self.clients if hasattr(self, "clients") else ():
            if not client.connection.is_congested:
                client.read()
                assert client.values == self.board.values()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=50, deadline=None)
