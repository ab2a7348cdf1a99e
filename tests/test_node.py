from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from service.brokers import Read
from service.connection import Connection, State
from service.errors import SHUTDOWN, BrokerUnavailable, ClientError, ErrorCode
from service.hub import Hub
from service.messages import ClientInfo, History, Position, Publication, Removal
from service.namespaces import DEFAULTS, Namespace, Namespaces
from service.node import Node
from service.tasks import end
from service.tracker import Tracker
from tests.fakes import FakeBroker, FakePresence, Schedule, connection
from tests.fakes import node as fake_node

pytestmark = pytest.mark.anyio


@contextmanager
def entered(node: Node, connection: Connection) -> Iterator[None]:
    node.enter(connection)
    try:
        yield
    finally:
        node.leave(connection)


def make_node() -> tuple[Node, FakeBroker, Schedule]:
    broker, turn = FakeBroker(), Schedule()
    return fake_node(Hub(turn), broker), broker, turn


async def test_a_publication_of_the_broker_reaches_the_subscribers_here() -> None:
    node, broker, turn = make_node()
    ada, to_ada = connection()

    with entered(node, ada):
        await node.subscribe(ada, "room:a")
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

    with entered(node, bob):
        await node.subscribe(bob, "room:a")
        with pytest.raises(RuntimeError, match="client vanished"), entered(node, ada):
            await node.subscribe(ada, "room:a")
            await node.subscribe(ada, "room:b")
            raise RuntimeError("client vanished")

        assert broker.unsubscribed == ["room:b"]
        assert ada.state is State.CLOSED

    assert broker.unsubscribed == ["room:b", "room:a"]
    assert node.hub.connections == set()
    assert node.hub.channel_count() == 0


async def test_a_subscription_that_redis_does_not_confirm_is_none() -> None:
    node, broker, _ = make_node()
    broker.away = "Redis is away"
    ada, _ = connection()

    with entered(node, ada):
        with pytest.raises(BrokerUnavailable, match="Redis is away"):
            await node.subscribe(ada, "room:a")

        assert node.hub.channel_count() == 0
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

    with entered(node, ada):
        for _ in range(300):
            node.publish_for(ada, Publication("room:a", b""))
        assert not to_ada.is_reading
        broker.take()
        assert to_ada.is_reading


async def test_a_handshake_that_was_refused_is_no_connection_that_closed() -> None:
    node, _, _ = make_node()
    ada, _ = connection(is_open=False)

    with entered(node, ada):
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

    with entered(node, ada):
        node.drain()

    assert to_ada.closed_with == [SHUTDOWN]
    assert node.close_codes == {3001: 1}


async def test_who_subscribes_is_present_until_it_leaves_where_the_namespace_has_presence() -> None:
    node, _, _ = make_node()
    assert isinstance(node.presence, FakePresence)
    ada, _ = connection()
    ada.user, ada.info = "ada", b"1"
    bob, _ = connection()

    with entered(node, bob):
        with entered(node, ada):
            for channel in ("room:a", "room:b", "notify:a"):
                await node.subscribe(ada, channel)
            await node.subscribe(bob, "room:a")
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

    with entered(node, ada), pytest.raises(BrokerUnavailable):
        await node.subscribe(ada, "room:a")

    assert (node.presence.members, node.presence.occupied) == ({}, set())


async def test_after_a_gap_presence_is_told_anew() -> None:
    node, _, _ = make_node()
    assert isinstance(node.presence, FakePresence)

    node.on_connected(is_again=False)
    assert node.presence.doubt_count == 0
    node.on_connected(is_again=True)
    assert node.presence.doubt_count == 1


async def test_a_history_is_read_on_from_a_position_and_back_from_it() -> None:
    node, broker, _ = make_node()
    room, here = DEFAULTS["room"], Position(0, "e")

    for newest in (False, True):
        await node.history("room:a", limit=7, since=here, newest=newest)
        await node.history("room:a", limit=7, since=None, newest=newest)

    assert broker.reads == [
        Read("room:a", room, since=here, limit=7),
        Read("room:a", room, limit=7),
        Read("room:a", room, before=here, limit=7, newest=True),
        Read("room:a", room, limit=7, newest=True),
    ]


@pytest.mark.parametrize("newest", [False, True])
async def test_of_another_epoch_no_history_is_read_in_either_direction(newest: bool) -> None:
    node, _, _ = make_node()

    with pytest.raises(ClientError) as caught:
        await node.history("room:a", limit=7, since=Position(0, "other"), newest=newest)

    assert caught.value.error is ErrorCode.UNRECOVERABLE_POSITION


async def test_a_history_is_removed_where_there_is_one() -> None:
    node, broker, _ = make_node()
    node.namespaces = Namespaces({"room": DEFAULTS["room"], "none": Namespace()})

    await node.remove_history("room:a")
    with pytest.raises(ClientError) as caught:
        await node.remove_history("none:a")

    assert broker.removed == ["room:a"]
    assert caught.value.error is ErrorCode.NOT_AVAILABLE


async def test_subscribers_are_told_nothing_of_a_history_that_was_removed() -> None:
    node, _, turn = make_node()
    ada, to_ada = connection()

    with entered(node, ada):
        await node.subscribe(ada, "room:a")
        node.on_event(Removal("room:a"))
        node.on_event(Publication("room:a", b"hi"))
        turn.run()

    assert to_ada.written == [b"hi;"]


class SlowHistories(FakeBroker):
    """A broker that answers reads only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().read(reads)


async def test_a_plain_subscriber_is_there_only_once_the_node_knows_what_comes_next() -> None:
    """What was published after its handshake was dropped: a read that came late had it, and told no more of it."""
    broker, turn = SlowHistories(), Schedule()
    node = fake_node(Hub(turn), broker)
    node.tracker = Tracker(broker, node.hub.broadcast, lambda: 0.0)
    node.tracker.connected()
    repairing = asyncio.create_task(node.tracker.run())
    ada, to_ada = connection()

    with entered(node, ada):
        subscribing = asyncio.create_task(node.subscribe(ada, "room:a"))
        await broker.is_asked.wait()
        done, _ = await asyncio.wait({subscribing}, timeout=0.05)
        assert not done, "a publication now would be the first that it has a right to"

        broker.histories["room:a"] = History(Position(1, "e"), 0, [])
        broker.may_answer.set()
        await subscribing
        node.on_event(Publication("room:a", b"late", position=Position(1, "e")))
        node.on_event(Publication("room:a", b"next", position=Position(2, "e")))
        turn.run()

    assert to_ada.written == [b"next;"]
    await end(repairing)
