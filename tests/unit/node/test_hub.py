from __future__ import annotations

from roomcast.connections.connection import Subscription
from roomcast.connections.encoding import Encoding
from roomcast.model.errors import SHUTDOWN
from roomcast.model.namespaces import SlowPolicy
from roomcast.model.positions import Position
from roomcast.model.publications import Event, Publication, Resumption
from roomcast.node.hub import Hub
from tests.support.fakes import RAW, Schedule, connection


def publication(text: str, channel: str = "room:a") -> Publication:
    return Publication(channel, text.encode())


def test_everyone_in_the_channel_gets_a_publication_and_nobody_else() -> None:
    hub, turn = Hub(schedule := Schedule()), schedule
    ada, to_ada = connection()
    bob, to_bob = connection()
    eve, to_eve = connection()
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(bob, "room:a", Subscription(bob.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(eve, "room:b", Subscription(eve.encoding), SlowPolicy.DISCONNECT)

    hub.broadcast(publication("hi"))
    turn.run()

    assert to_ada.written == to_bob.written == [b"hi;"]
    assert to_eve.written == []


def test_what_was_read_together_is_one_write_each_in_order() -> None:
    hub = Hub(turn := Schedule())
    ada, to_ada = connection()
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(ada, "room:b", Subscription(ada.encoding), SlowPolicy.DISCONNECT)

    for text in ("1", "2", "3"):
        hub.broadcast(publication(text))
    hub.broadcast(publication("x", "room:b"))
    assert to_ada.written == []
    assert len(turn.calls) == 1
    turn.run()

    assert to_ada.written == [b"1;2;3;", b"x;"]
    assert hub.delivery_count == 4


def test_where_the_numbers_jump_what_waits_is_written_first() -> None:
    """A new subscriber would get an offset of the old epoch with the new epoch."""
    hub = Hub(turn := Schedule())
    ada, to_ada = connection()
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    hub.broadcast(publication("old")._replace(position=Position(100, "e")))

    hub.broadcast(Resumption("room:a", Position(95, "f"), is_recovered=False))

    assert hub.pending_floor("room:a", 95) == 95
    assert to_ada.written == [b"old;"]
    hub.broadcast(publication("new")._replace(position=Position(96, "f")))
    turn.run()
    assert to_ada.written == [b"old;", b"new;"]


def test_a_publication_is_encoded_once_per_encoding() -> None:
    encoded: list[bytes] = []

    def count(event: Event) -> bytes:
        assert isinstance(event, Publication)
        encoded.append(event.data)
        return event.data.upper()

    upper = Encoding(count, lambda count: b"")
    hub = Hub(turn := Schedule())
    clients = [connection(encoding=upper) for _ in range(3)] + [connection(encoding=RAW)]
    for client, _ in clients:
        hub.subscribe(client, "room:a", Subscription(client.encoding), SlowPolicy.DISCONNECT)

    hub.broadcast(publication("hi"))
    turn.run()

    assert encoded == [b"hi"]
    assert [transport.written for _, transport in clients] == [[b"HI"]] * 3 + [[b"hi;"]]


def test_who_subscribes_between_reading_and_writing_gets_what_waits_too_and_can_know_from_where() -> None:
    hub = Hub(turn := Schedule())
    ada, to_ada = connection()
    bob, to_bob = connection()
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    assert hub.pending_floor("room:a", 4) == 4

    hub.broadcast(Publication("room:a", b"5", position=Position(5, "e")))
    hub.broadcast(Publication("room:a", b"6", position=Position(6, "e")))
    assert hub.pending_floor("room:a", 6) == 4
    hub.subscribe(bob, "room:a", Subscription(bob.encoding), SlowPolicy.DISCONNECT)
    turn.run()

    assert to_ada.written == to_bob.written == [b"5;6;"]


def test_who_leaves_gets_nothing_more_and_makes_nobody_write_early() -> None:
    hub = Hub(turn := Schedule())
    ada, to_ada = connection()
    bob, to_bob = connection()
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(bob, "room:a", Subscription(bob.encoding), SlowPolicy.DISCONNECT)

    hub.broadcast(publication("1"))
    hub.unsubscribe(ada, "room:a")
    hub.broadcast(publication("2"))
    assert to_bob.written == []
    turn.run()

    assert to_ada.written == []
    assert to_bob.written == [b"1;2;"]


def test_a_removed_connection_leaves_nothing_behind() -> None:
    hub = Hub(Schedule())
    ada, _ = connection()
    bob, _ = connection()
    hub.add(ada)
    for channel in ("room:a", "room:b"):
        hub.subscribe(ada, channel, Subscription(ada.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(bob, "room:b", Subscription(bob.encoding), SlowPolicy.DISCONNECT)

    assert list(hub.remove(ada)) == ["room:a", "room:b"]

    assert hub.connections == set()
    assert len(hub.channels()) == 1
    assert ada.subscriptions == {}


def test_a_slow_connection_does_not_keep_others_from_their_publications() -> None:
    hub = Hub(turn := Schedule())
    slow, to_slow = connection(stalled=True, max_unsent_bytes=1)
    ada, to_ada = connection()
    hub.subscribe(slow, "room:a", Subscription(slow.encoding), SlowPolicy.DISCONNECT)
    hub.subscribe(ada, "room:a", Subscription(ada.encoding), SlowPolicy.DISCONNECT)

    for text in ("1", "2"):
        hub.broadcast(publication(text))
        turn.run()

    assert to_ada.written == [b"1;", b"2;"]
    assert [disconnect.code for disconnect in to_slow.closed_with] == [3008]
    assert to_slow.written == [b"1;"]


def test_a_slow_client_that_subscribes_again_gets_nothing_of_the_subscription_before() -> None:
    hub = Hub(Schedule())
    client, transport = connection(stalled=True)
    hub.add(client)
    hub.subscribe(client, "game:a", Subscription(RAW), SlowPolicy.LATEST)
    hub.broadcast(Publication("game:a", b"old"))
    hub.flush()

    hub.unsubscribe(client, "game:a")
    hub.subscribe(client, "game:a", Subscription(RAW), SlowPolicy.LATEST)
    client.on_drained()

    assert transport.written == []


def test_close_all_ends_every_connection() -> None:
    hub = Hub(Schedule())
    transports = []
    for _ in range(3):
        client, transport = connection()
        hub.add(client)
        transports.append(transport)

    hub.close_all(SHUTDOWN)

    assert [transport.closed_with for transport in transports] == [[SHUTDOWN]] * 3


def test_who_a_connection_is_can_be_said_later_and_anew() -> None:
    hub = Hub(Schedule())
    ada, _ = connection()
    hub.add(ada)
    assert (hub.of_user("ada"), hub.user_count()) == ((), 1)

    hub.identify(ada, "bob")
    hub.identify(ada, "ada")
    assert (hub.of_user("ada"), hub.of_user("bob"), hub.user_count()) == ((ada,), (), 1)
    hub.remove(ada)

    assert (hub.of_user("ada"), hub.user_count(), hub.connections) == ((), 0, set())


def test_who_is_gone_before_it_is_known_is_not_taken_in_again() -> None:
    hub = Hub(Schedule())
    ada, _ = connection()
    hub.add(ada)
    hub.remove(ada)

    hub.identify(ada, "ada")

    assert (hub.of_user("ada"), hub.connections) == ((), set())
