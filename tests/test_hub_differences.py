"""Differences: who has the publication before gets what changed, everybody else the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from service.connection import Connection, Encoding, Subscription
from service.hub import Hub
from service.messages import ClientInfo, Event, Membership, Publication
from service.namespaces import SlowPolicy
from tests.fakes import RAW, RecordingTransport, Schedule, connection

CHANNEL = "room:a"


def whole(event: Event) -> bytes:
    if isinstance(event, Publication):
        return b"whole %b;" % event.data
    return b"someone came;" if isinstance(event, Membership) else b""


def difference(before: Publication, publication: Publication) -> bytes | None:
    """A difference says what it builds on; data that is "big" is not worth one."""
    return None if publication.data == b"big" else b"%b->%b;" % (before.data, publication.data)


DELTA = Encoding("delta", whole, lambda count: b"missed %d;" % count, difference=difference)


class Room:
    """A hub with one channel."""

    def __init__(self, policy: SlowPolicy = SlowPolicy.DISCONNECT) -> None:
        self.policy = policy
        self.turn = Schedule()
        self.hub = Hub(self.turn)

    def join(self, encoding: Encoding = DELTA, *, is_open: bool = True) -> tuple[Connection, RecordingTransport]:
        client, transport = connection(encoding=encoding, max_unsent_bytes=20, is_open=is_open)
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

    ada.congested()
    room.publish("2")
    room.publish("3")
    ada.relieved()
    room.publish("4")
    room.publish("5")

    assert to_ada.written == [b"whole 1;", b"whole 3;", b"whole 4;", b"4->5;"]


def test_a_congested_client_of_a_channel_that_drops_nothing_still_gets_differences() -> None:
    room = Room(SlowPolicy.DISCONNECT)
    ada, to_ada = room.join()
    room.publish("1")

    ada.congested()
    room.publish("2")

    assert to_ada.written == [b"whole 1;", b"1->2;"]


@dataclass
class Reader:
    """A client that puts together what it gets, as the SDKs do."""

    client: Connection
    transport: RecordingTransport
    has: bytes | None = None
    seen: list[bytes] = field(default_factory=list)

    def read(self) -> list[bytes]:
        """Return what is new, put together. Raises: AssertionError for a difference to what it has not."""
        frames = [frame for frame in b"".join(self.transport.written).split(b";") if frame]
        self.transport.written.clear()
        new = []
        for frame in frames:
            if frame.startswith(b"missed"):
                continue
            if frame.startswith(b"whole "):
                self.has = frame.removeprefix(b"whole ")
            else:
                before, _, after = frame.partition(b"->")
                assert before == self.has, f"{frame!r} for a client that has {self.has!r}"
                self.has = after
            new.append(self.has)
        self.seen += new
        return new


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["come", "go", "congest", "relieve"]), st.integers(0, 2)),
        st.tuples(st.just("flush"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS, policy=st.sampled_from(SlowPolicy))
def test_clients_that_come_go_and_lag_always_put_together_what_was_published(
    steps: list[tuple[str, int]], policy: SlowPolicy
) -> None:
    room = Room(policy)
    readers: list[Reader | None] = [None, None, None]
    owed: list[list[bytes]] = [[], [], []]
    published = 0

    def check(place: int) -> None:
        reader = readers[place]
        assert reader is not None
        room.turn.run()
        if reader.client.is_congested:
            return
        new = reader.read()
        if policy is SlowPolicy.DISCONNECT:
            assert new == owed[place], "in order, and all of it"
        else:
            rest = iter(owed[place])
            assert all(each in rest for each in new), "in order, and nothing else"
            assert new[-1:] == owed[place][-1:], "the newest in any case"
        owed[place].clear()

    for step, argument in steps:
        reader = None if step == "publish" else readers[argument]
        if step == "publish":
            for _ in range(argument):
                published += 1
                room.hub.broadcast(Publication(CHANNEL, b"%d" % published))
                for place, each in enumerate(readers):
                    if each is not None:
                        owed[place].append(b"%d" % published)
        elif step == "flush":
            room.turn.run()
        elif step == "come" and reader is None:
            room.turn.run()
            readers[argument] = Reader(*room.join())
        elif reader is None:
            continue
        elif step == "go":
            reader.client.relieved()
            check(argument)
            room.hub.unsubscribe(reader.client, CHANNEL)
            readers[argument] = None
        elif step == "congest":
            reader.client.congested()
        elif step == "relieve":
            room.turn.run()
            reader.client.relieved()
            check(argument)

    for place, reader in enumerate(readers):
        if reader is not None:
            room.turn.run()
            reader.client.relieved()
            check(place)
