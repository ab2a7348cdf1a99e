"""A node: publications, connections, presence and gaps, on a fake broker."""

from __future__ import annotations

import pytest

from roomcast.connections.connection import Connection, State
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import SHUTDOWN, BrokerUnavailable
from roomcast.model.maps import Change
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication, Removal
from roomcast.node.node import Node
from tests.support.fakes import FakePresence, connection
from tests.support.nodes import make_node, subscribe

pytestmark = pytest.mark.anyio


async def test_a_publication_of_the_broker_reaches_the_subscribers_here() -> None:
    node, broker, turn = make_node()
    ada, to_ada = connection()

    with node.connected(ada):
        await subscribe(node, ada, "room:a")
        node.on_event(Publication("room:a", b"hi"))
        turn.run()

    assert broker.subscribed == ["room:a"]
    assert to_ada.written == [b"hi;"]


async def test_what_comes_in_a_channel_of_the_nodes_alone_goes_to_its_listener() -> None:
    node, _, _ = make_node()
    heard: list[bytes] = []
    node.listen(["control"], lambda publication: heard.append(publication.data))

    node.on_event(Publication("control", b"question"))

    assert heard == [b"question"]
    assert node.counts["received"] == 0, "it is no publication of a client's"


async def test_leaving_leaves_nothing_behind_and_the_broker_is_told_of_the_last_one() -> None:
    node, broker, _ = make_node()
    ada, _ = connection()
    bob, _ = connection()

    with node.connected(bob):
        await subscribe(node, bob, "room:a")
        with pytest.raises(RuntimeError, match="client vanished"), node.connected(ada):
            await subscribe(node, ada, "room:a")
            await subscribe(node, ada, "room:b")
            raise RuntimeError("client vanished")

        assert broker.unsubscribed == ["room:b"]
        assert ada.state is State.CLOSED

    assert broker.unsubscribed == ["room:b", "room:a"]
    assert node.hub.connections == set()
    assert len(node.hub.channels()) == 0


async def test_a_subscription_that_redis_does_not_confirm_is_none() -> None:
    node, broker, _ = make_node()
    broker.away = "Redis is away"
    ada, _ = connection()

    with node.connected(ada):
        with pytest.raises(BrokerUnavailable, match="Redis is away"):
            await subscribe(node, ada, "room:a")

        assert len(node.hub.channels()) == 0
        assert broker.unsubscribed == ["room:a"]


async def test_a_publication_that_redis_does_not_take_is_counted_and_said() -> None:
    node, broker, _ = make_node()

    await node.publish(Publication("room:a", b"1"))
    broker.away = "Redis is away"
    with pytest.raises(BrokerUnavailable):
        await node.publish(Publication("room:a", b"2"))

    assert node.counts == {"published": 1, "publish_failures": 1}


async def test_a_client_that_sends_nothing_but_empty_messages_is_held_back_too() -> None:
    node, broker, _ = make_node()
    ada, to_ada = connection()
    broker.is_slow = True

    with node.connected(ada):
        for _ in range(300):
            node.client_publisher.publish_for(ada, Publication("room:a", b""))
        assert not to_ada.is_reading
        broker.take()
        assert to_ada.is_reading


async def test_a_handshake_that_was_refused_is_no_connection_that_closed() -> None:
    node, _, _ = make_node()
    ada, _ = connection(is_open=False)

    with node.connected(ada):
        node.drain()

    assert node.close_codes == {}
    assert node.hub.connections == set()


async def test_malformed_messages_and_gaps_are_counted() -> None:
    node, _, _ = make_node()

    node.on_malformed("room:a", "not JSON")
    node.on_connected(is_again=True)

    assert node.counts == {"malformed": 1, "gaps": 1}


async def test_draining_asks_everyone_to_go_and_counts_the_code() -> None:
    node, _, _ = make_node()
    ada, to_ada = connection()

    with node.connected(ada):
        node.drain()

    assert to_ada.closed_with == [SHUTDOWN]
    assert node.close_codes == {3001: 1}


async def test_who_subscribes_is_present_until_it_leaves_where_the_namespace_has_presence() -> None:
    node, _, _ = make_node()
    assert isinstance(node.presence, FakePresence)
    ada, _ = connection()
    ada.user, ada.info = "ada", b"1"
    bob, _ = connection()

    with node.connected(bob):
        with node.connected(ada):
            for channel in ("room:a", "room:b", "notify:a"):
                await subscribe(node, ada, channel)
            await subscribe(node, bob, "room:a")
            assert node.presence.members["room:a"] == {
                f"n1-{ada.id}": ClientInfo(f"n1-{ada.id}", "ada", b"1"),
                f"n1-{bob.id}": ClientInfo(f"n1-{bob.id}", ""),
            }
            assert set(node.presence.members) == {"room:a", "room:b"}
            assert node.presence.occupied == {"room:a", "room:b", "notify:a"}
            node.unsubscribe(ada, "room:b")
            assert node.presence.members["room:b"] == {}

        assert set(node.presence.members["room:a"]) == {f"n1-{bob.id}"}
        assert node.presence.occupied == {"room:a"}

    assert node.presence.members["room:a"] == {}
    assert node.presence.occupied == set()


async def test_a_subscription_that_was_none_is_not_present() -> None:
    node, broker, _ = make_node()
    assert isinstance(node.presence, FakePresence)
    broker.away = "Redis is away"
    ada, _ = connection()

    with node.connected(ada), pytest.raises(BrokerUnavailable):
        await subscribe(node, ada, "room:a")

    assert (node.presence.members, node.presence.occupied) == ({}, set())


async def test_after_a_gap_presence_is_told_anew() -> None:
    node, _, _ = make_node()
    assert isinstance(node.presence, FakePresence)

    node.on_connected(is_again=False)
    assert node.presence.doubt_count == 0
    node.on_connected(is_again=True)
    assert node.presence.doubt_count == 1


async def test_subscribers_are_told_nothing_of_a_history_that_was_removed() -> None:
    node, _, turn = make_node()
    ada, to_ada = connection()

    with node.connected(ada):
        await subscribe(node, ada, "room:a")
        node.on_event(Removal("room:a"))
        node.on_event(Publication("room:a", b"hi"))
        turn.run()

    assert to_ada.written == [b"hi;"]


async def test_a_detached_connection_stays_until_its_transport_says_that_it_has_left() -> None:
    node, _, _ = make_node()
    ada, _ = connection()

    with node.connected(ada) as connected:
        connected.detach()

    assert node.hub.connections == {ada}

    node.leave(ada)

    assert (node.hub.connections, ada.state) == (set(), State.CLOSED)


class Leaving:
    """A receiver that leaves the channel in which something was lost."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.lost: list[str] = []

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        raise NotImplementedError

    def on_lost(self, connection: Connection, channel: str) -> None:
        self.lost.append(channel)
        self._node.unsubscribe(connection, channel)

    def on_closed(self, connection: Connection) -> None:
        pass


async def test_who_is_told_of_a_gap_may_leave_the_channel_for_it() -> None:
    node, broker, _ = make_node(Namespaces({"room": Namespace()}))
    receivers = []

    for channel in ("room:a", "room:b"):
        for _ in range(2):
            ada, _ = connection()
            node.hub.add(ada)
            ada.receiver = receiver = Leaving(node)
            receivers.append(receiver)
            await subscribe(node, ada, channel)
    node.on_connected(is_again=True)

    assert [receiver.lost for receiver in receivers] == [["room:a"], ["room:a"], ["room:b"], ["room:b"]]
    assert broker.unsubscribed == ["room:a", "room:b"]
    assert len(node.hub.channels()) == 0


@pytest.mark.parametrize(
    ("channel", "change"), [("state:a", None), ("room:a", Change("k"))], ids=["no key in a map", "a key elsewhere"]
)
async def test_what_no_node_has_published_is_counted_and_dropped(channel: str, change: Change | None) -> None:
    node, _, turn = make_node()
    ada, to_ada = connection()
    await subscribe(node, ada, channel)

    node.on_event(Publication(channel, b"1", position=Position(1, "e"), change=change))
    turn.run()

    assert node.counts["malformed"] == 1
    assert to_ada.written == []
