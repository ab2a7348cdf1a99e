"""Differences: who has the publication before gets what changed, everybody else the whole."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from roomcast.connections.connection import Connection, Subscription
from roomcast.connections.encoding import Encoding
from roomcast.model.client_info import ClientInfo
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.publications import Event, Membership, Publication
from roomcast.node.hub import Hub
from tests.support.fakes import RAW, RecordingTransport, Schedule, connection

CHANNEL = "room:a"


def whole(event: Event) -> bytes:
    if isinstance(event, Publication):
        return b"whole %b;" % event.data
    return b"someone came;" if isinstance(event, Membership) else b""


def difference(before: Publication, publication: Publication) -> bytes | None:
    """A difference says what it builds on; data that is "big" is not worth one."""
    return None if publication.data == b"big" else b"%b->%b;" % (before.data, publication.data)


WHOLE = Encoding(whole, lambda count: b"missed %d;" % count)
DELTA = Encoding(whole, lambda count: b"missed %d;" % count, difference=difference)


class Room:
    """A hub with one channel."""

    def __init__(self, policy: SlowPolicy = SlowPolicy.DISCONNECT) -> None:
        self.policy = policy
        self.turn = Schedule()
        self.hub = Hub(self.turn)

    def join(self, encoding: Encoding = DELTA, *, is_open: bool = True) -> tuple[Connection, RecordingTransport]:
        client, transport = connection(encoding=encoding, max_unsent_bytes=40, is_open=is_open)
        self.hub.subscribe(client, CHANNEL, Subscription(encoding), self.policy)
        return client, transport

    def publish(self, *texts: str) -> None:
        for text in texts:
            self.hub.broadcast(Publication(CHANNEL, text.encode()))
        self.turn.run()


def test_the_first_publication_is_whole_and_those_after_it_are_differences() -> None:
    room = Room()
    _, to_ada = room.join()

    room.publish("1")
    room.publish("2")
    room.publish("3", "4")

    assert to_ada.written == [b"whole 1;", b"1->2;", b"2->3;3->4;"]


def test_a_newcomer_gets_whole_publications_while_others_get_differences() -> None:
    room = Room()
    _, to_ada = room.join()
    room.publish("1")
    _, to_bob = room.join()

    room.publish("2")
    room.publish("3")

    assert to_ada.written == [b"whole 1;", b"1->2;", b"2->3;"]
    assert to_bob.written == [b"whole 2;", b"2->3;"]


def test_the_first_write_of_several_is_whole_throughout() -> None:
    room = Room()
    _, to_ada = room.join()

    room.publish("1", "2")
    room.publish("3")

    assert to_ada.written == [b"whole 1;whole 2;", b"2->3;"]


def test_what_is_not_worth_a_difference_is_sent_whole_and_built_on() -> None:
    room = Room()
    _, to_ada = room.join()

    room.publish("1")
    room.publish("big")
    room.publish("2")

    assert to_ada.written == [b"whole 1;", b"whole big;", b"big->2;"]


def test_who_subscribes_anew_begins_anew() -> None:
    room = Room()
    ada, to_ada = room.join()
    _, to_bob = room.join()
    room.publish("1")

    room.hub.unsubscribe(ada, CHANNEL)
    room.publish("2")
    room.hub.subscribe(ada, CHANNEL, Subscription(DELTA), room.policy)
    room.publish("3")

    assert to_ada.written == [b"whole 1;", b"whole 3;"]
    assert to_bob.written == [b"whole 1;", b"1->2;", b"2->3;"]


def test_after_everyone_has_gone_nothing_old_is_built_on() -> None:
    room = Room()
    ada, _ = room.join()
    _, to_plain = room.join(RAW)
    room.publish("1")
    room.hub.unsubscribe(ada, CHANNEL)
    room.publish("2")

    _, to_bob = room.join()
    room.publish("3")
    room.publish("4")

    assert to_bob.written == [b"whole 3;", b"3->4;"]
    assert to_plain.written == [b"1;", b"2;", b"3;", b"4;"]


def test_what_is_no_publication_is_nothing_to_build_on() -> None:
    room = Room()
    _, to_ada = room.join()

    room.hub.broadcast(Membership(CHANNEL, (ClientInfo("n1-1", "ada"),), have_joined=True))
    room.turn.run()
    room.publish("1")
    room.hub.broadcast(Membership(CHANNEL, (ClientInfo("n1-2", "bob"),), have_joined=True))
    room.publish("2")

    assert to_ada.written == [b"someone came;", b"whole 1;", b"someone came;1->2;"]


def test_what_waits_for_the_handshake_is_a_basis_too() -> None:
    room = Room()
    ada, to_ada = room.join(is_open=False)

    room.publish("1")
    room.publish("2")
    ada.open()
    room.publish("3")

    assert to_ada.written == [b"whole 1;1->2;", b"2->3;"]


def test_a_congested_client_of_a_channel_that_drops_never_gets_a_difference_to_what_it_did_not_get() -> None:
    room = Room(SlowPolicy.LATEST)
    ada, to_ada = room.join()
    room.publish("1")

    ada.on_congested()
    room.publish("2")
    room.publish("3")
    ada.on_drained()
    room.publish("4")
    room.publish("5")

    assert to_ada.written == [b"whole 1;", b"whole 3;", b"whole 4;", b"4->5;"]


@pytest.mark.parametrize("encoding", [DELTA, WHOLE], ids=["differences", "whole"])
def test_who_comes_and_goes_takes_the_newest_publication_from_no_congested_client(encoding: Encoding) -> None:
    room = Room(SlowPolicy.LATEST)
    ada, to_ada = room.join(encoding)

    ada.on_congested()
    room.publish("1", "2")
    room.hub.broadcast(Membership(CHANNEL, (ClientInfo("n1-1", "bob"),), have_joined=True))
    room.turn.run()
    room.hub.broadcast(Publication(CHANNEL, b"3"))
    room.hub.broadcast(Membership(CHANNEL, (ClientInfo("n1-1", "bob"),), have_joined=False))
    room.turn.run()
    ada.on_drained()

    assert to_ada.written == [b"someone came;whole 3;someone came;"]
    assert room.hub.dropped_count == 2


def test_a_congested_client_of_a_channel_that_drops_nothing_still_gets_differences() -> None:
    room = Room(SlowPolicy.DISCONNECT)
    ada, to_ada = room.join()
    room.publish("1")

    ada.on_congested()
    room.publish("2")

    assert to_ada.written == [b"whole 1;", b"1->2;"]


class Reader:
    """A client that puts together what it gets, as the SDKs do. owed: what was published while it was there."""

    def __init__(self, room: Room) -> None:
        self.client, self._transport = room.join()
        self.owed: list[bytes] = []
        self._has: bytes | None = None

    def read(self) -> list[bytes]:
        """Return the new publications, whole. Raises: AssertionError for a difference to one that it does not have."""
        frames = b"".join(self._transport.written).split(b";")[:-1]
        self._transport.written.clear()
        return [self._put_together(frame) for frame in frames if not frame.startswith(b"missed")]

    def _put_together(self, frame: bytes) -> bytes:
        if frame.startswith(b"whole "):
            self._has = frame.removeprefix(b"whole ")
        else:
            before, _, after = frame.partition(b"->")
            assert before == self._has, f"{frame!r} for a client that has {self._has!r}"
            self._has = after
        return self._has


class Crowd(RuleBasedStateMachine):
    """Clients that come, go and lag at random always put together what was published, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Room()
        self.readers: list[Reader] = []
        self.published = 0

    @initialize(policy=st.sampled_from(SlowPolicy))
    def begin(self, policy: SlowPolicy) -> None:
        self.room = Room(policy)

    @rule()
    def publish(self) -> None:
        self.published += 1
        data = b"%d" % self.published
        self.room.hub.broadcast(Publication(CHANNEL, data))
        for reader in self.readers:
            reader.owed.append(data)

    @rule()
    def flush(self) -> None:
        self.room.turn.run()

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def come(self) -> None:
        self.room.turn.run()
        self.readers.append(Reader(self.room))

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 2))
    def congest(self, which: int) -> None:
        self.room.turn.run()
        self._reader(which).client.on_congested()

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 2))
    def catch_up(self, which: int) -> None:
        reader = self._reader(which)
        self.room.turn.run()
        reader.client.on_drained()
        new, owed = reader.read(), list(reader.owed)
        reader.owed.clear()
        if self.room.policy is SlowPolicy.DISCONNECT:
            assert new == owed
        else:
            rest = iter(owed)
            assert all(each in rest for each in new), "in order, and nothing else"
            assert new[-1:] == owed[-1:], "the newest in any case"

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 2))
    def go(self, which: int) -> None:
        self.catch_up(which)
        reader = self._reader(which)
        self.room.hub.unsubscribe(reader.client, CHANNEL)
        self.readers.remove(reader)

    def teardown(self) -> None:
        for which in range(len(self.readers)):
            self.catch_up(which)

    def _reader(self, which: int) -> Reader:
        return self.readers[which % len(self.readers)]


TestCrowd = Crowd.TestCase
