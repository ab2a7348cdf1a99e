"""`Node.subscribing`: the start that a subscriber receives, and races with publications and disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from roomcast.brokers.interface import Read
from roomcast.connections.encoding import Encoding
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace, Namespaces, Recovery
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication, Resumption
from roomcast.node.hub import Hub
from roomcast.node.node import Node, SubscribeSuperseded
from roomcast.node.tracker import Tracker
from roomcast.tasks import end
from tests.support.fakes import RAW, FakeBroker, FakePresence, Schedule, connection
from tests.support.fakes import node as fake_node
from tests.support.nodes import Start, make_node, subscribe
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio
TOLD = Encoding(RAW.encode, RAW.missed, tells_positions=True)


class Gate(FakeBroker):
    """A broker whose subscriptions wait until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()

    async def subscribe(self, channel: str) -> None:
        await super().subscribe(channel)
        await self.opened.wait()


@asynccontextmanager
async def tracking(node: Node) -> AsyncIterator[None]:
    node.tracker.connected()
    task = asyncio.create_task(node.tracker.run())
    try:
        yield
    finally:
        await end(task)


def numbered(*offsets: int) -> list[Publication]:
    return [Publication("room:a", b"%d" % offset, position=Position(offset, "e")) for offset in offsets]


async def test_a_newcomer_is_told_where_it_is_and_hears_what_comes_after_it() -> None:
    node, broker, turn = make_node()
    broker.histories["room:a"] = History(Position(2, "e"), 0, numbered(1, 2))
    ada, to_ada = connection(encoding=TOLD)
    starts: list[Start] = []

    async with tracking(node):
        with node.connected(ada):
            starts.append(await subscribe(node, ada, "room:a", wants_missed=False))
            node.on_event(numbered(3)[0])
            turn.run()

    assert starts == [[Resumption("room:a", Position(2, "e"), is_recovered=None)]]
    assert to_ada.written == [b"3;"], "the greeting was taken, so nothing of it is sent"


@pytest.mark.parametrize("epoch", ["e", ""])
async def test_who_comes_back_is_greeted_with_what_it_missed(epoch: str) -> None:
    node, broker, _ = make_node()
    broker.histories["room:a"] = History(Position(3, "e"), 0, numbered(1, 2, 3))
    ada, to_ada = connection(encoding=TOLD)
    starts: list[Start] = []

    async with tracking(node):
        with node.connected(ada):
            starts.append(await subscribe(node, ada, "room:a", since=Position(1, epoch)))

    assert starts == [[Resumption("room:a", Position(1, "e"), is_recovered=True), *numbered(2, 3)]]
    assert to_ada.written == []


async def test_where_only_the_newest_counts_everyone_is_greeted_with_it_who_wants_it() -> None:
    node, broker, _ = make_node()
    newest = Publication("metrics:a", b"7", position=Position(7, "e"))
    broker.histories["metrics:a"] = History(Position(7, "e"), 0, [newest])
    starts: list[Start] = []

    async with tracking(node):
        for wants_missed in (True, False):
            ada, _ = connection(encoding=TOLD)
            with node.connected(ada):
                starts.append(await subscribe(node, ada, "metrics:a", wants_missed=wants_missed))

    assert starts == [
        [Resumption("metrics:a", Position(6, "e"), is_recovered=None), newest],
        [Resumption("metrics:a", Position(7, "e"), is_recovered=None)],
    ]


async def test_without_recovery_the_greeting_is_empty() -> None:
    node, _, _ = make_node(Namespaces({"room": Namespace()}))
    ada, _ = connection(encoding=TOLD)
    starts: list[Start] = []

    with node.connected(ada):
        starts.append(await subscribe(node, ada, "room:a"))

    assert starts == [()]


async def test_the_greeting_and_what_is_broadcast_fit_together_also_while_something_waits_to_be_written() -> None:
    node, broker, turn = make_node()
    broker.histories["room:a"] = History(Position(0, "e"), 0, [])
    ada, _ = connection(encoding=TOLD)
    bob, to_bob = connection(encoding=TOLD)
    starts: list[Start] = []

    async with tracking(node):
        with node.connected(ada), node.connected(bob):
            await subscribe(node, ada, "room:a")
            for publication in numbered(1, 2):
                node.on_event(publication)
            starts.append(await subscribe(node, bob, "room:a", wants_missed=False))
            turn.run()

    ((resumption,),) = starts
    assert isinstance(resumption, Resumption)
    assert resumption.position == Position(0, "e")
    assert to_bob.written == [b"1;2;"]


async def test_whose_greeting_is_refused_is_not_subscribed() -> None:
    node, broker, _ = make_node(Namespaces({"room": Namespace()}))
    ada, _ = connection()

    def refuse(_: Start) -> None:
        raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "too long ago")

    with node.connected(ada):
        with pytest.raises(ClientError):
            async with node.subscribing(ada, "room:a") as start:
                refuse(start)

        assert (ada.subscriptions, len(node.hub.channels())) == ({}, 0)
        assert broker.unsubscribed == ["room:a"]


class Eager(FakeBroker):
    """A broker that has a publication for the node in the turn of the loop after it confirms a subscription."""

    def __init__(self) -> None:
        super().__init__()
        self.bring: Callable[[], None]

    async def subscribe(self, channel: str) -> None:
        await asyncio.sleep(0)
        await super().subscribe(channel)
        asyncio.get_running_loop().call_soon(self.bring)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})])
async def test_nothing_of_the_loop_runs_between_the_start_and_the_subscription() -> None:
    broker = Eager()
    node = fake_node(Hub(asyncio.get_running_loop().call_soon), broker)
    ada, to_ada = connection()
    order: list[str] = []

    def bring() -> None:
        order.append("publication")
        node.on_event(Publication("room:a", b"first"))

    broker.bring = bring
    with node.connected(ada):
        async with node.subscribing(ada, "room:a"):
            ada.send(b"reply;")
            order.append("body")
        order.append("subscribed")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert order == ["body", "subscribed", "publication"]
    assert to_ada.written == [b"reply;", b"first;"]


async def test_a_body_that_awaits_is_an_error_and_subscribes_nothing() -> None:
    node, broker, _ = make_node()
    ada, _ = connection()

    with node.connected(ada):
        with pytest.raises(RuntimeError, match="awaited"):
            async with node.subscribing(ada, "room:a"):
                await asyncio.sleep(0)

        assert (ada.subscriptions, len(node.hub.channels())) == ({}, 0)
        assert broker.unsubscribed == ["room:a"]


async def test_a_client_that_goes_while_it_is_being_subscribed_is_not_and_leaves_nothing() -> None:
    broker = Gate()
    node = fake_node(Hub(Schedule()), broker)
    node.namespaces = Namespaces({"room": Namespace(presence=True)})
    ada, _ = connection()
    starts: list[Start] = []

    async def begin() -> None:
        async with node.subscribing(ada, "room:a") as start:
            starts.append(start)

    with node.connected(ada):
        subscribing = asyncio.create_task(begin())
        await asyncio.sleep(0)
    broker.opened.set()
    with pytest.raises(SubscribeSuperseded):
        await subscribing

    assert isinstance(node.presence, FakePresence)
    assert (starts, ada.subscriptions, len(node.hub.channels()), node.presence.members) == ([], {}, 0, {})
    assert broker.unsubscribed == ["room:a"]


async def test_of_two_subscriptions_made_at_once_one_counts() -> None:
    broker, turn = Gate(), Schedule()
    node = fake_node(Hub(turn), broker)
    node.namespaces = Namespaces({"room": Namespace()})
    ada, to_ada = connection()

    with node.connected(ada):
        both = [
            asyncio.create_task(subscribe(node, ada, "room:a", encoding=encoding))
            for encoding in (RAW, Encoding(RAW.encode, RAW.missed))
        ]
        await asyncio.sleep(0)
        broker.opened.set()
        first, second = await asyncio.gather(*both, return_exceptions=True)
        node.on_event(Publication("room:a", b"hi"))
        turn.run()

    assert first == ()
    assert isinstance(second, SubscribeSuperseded)
    assert to_ada.written == [b"hi;"]
    assert broker.unsubscribed == ["room:a"], "after the last one, and then only"


async def test_an_option_of_one_subscription_holds_for_it_alone() -> None:
    node, broker, _ = make_node()
    assert isinstance(node.presence, FakePresence)
    broker.histories["room:a"] = History(Position(2, "e"), 0, numbered(1, 2))
    ada, _ = connection(encoding=TOLD)
    bob, _ = connection(encoding=TOLD)
    starts: list[Start] = []
    plain = Namespace(history_size=10, history_ttl_s=10.0)

    async with tracking(node):
        with node.connected(ada), node.connected(bob):
            starts.append(await subscribe(node, ada, "room:a", namespace=plain, info=b"1"))
            starts.append(await subscribe(node, bob, "room:a", info=b"2", wants_missed=False))

            assert plain.recovery is not Recovery.STREAM
            assert [len(start) for start in starts] == [0, 1]
            assert node.presence.members["room:a"] == {f"n1-{bob.id}": ClientInfo(f"n1-{bob.id}", "", b"", b"2")}


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
    """A publication after its handshake was dropped, because a late read already had it."""
    broker, turn = SlowHistories(), Schedule()
    hub = Hub(turn)
    node = fake_node(hub, broker, tracker=Tracker(broker, hub.broadcast, lambda: 0.0))
    node.tracker.connected()
    repairing = asyncio.create_task(node.tracker.run())
    ada, to_ada = connection()

    with node.connected(ada):
        subscribing = asyncio.create_task(subscribe(node, ada, "room:a"))
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


async def test_a_client_alone_in_its_channel_returns_for_the_window_that_is_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each try of a client on a node with a slow link began the read again."""
    monkeypatch.setattr("roomcast.node.tracker._WINDOW_WAIT_S", 0.01)
    monkeypatch.setattr("roomcast.node.interest._RETURN_S", 0.05)
    may_answer = asyncio.Event()

    class Slow(FakeBroker):
        async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
            found = await super().read(reads)
            if reads[0].newest:
                await may_answer.wait()
            return found

    broker = Slow()
    broker.histories["room:a"] = History(Position(2, "e"), 0, numbered(1, 2))
    node = fake_node(Hub(Schedule()), broker)
    async with tracking(node):
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await subscribe(node, connection(encoding=TOLD)[0], "room:a", since=Position(1, "e"))
        may_answer.set()
        ada, _ = connection(encoding=TOLD)
        start = await subscribe(node, ada, "room:a", since=Position(1, "e"))

        assert start == [Resumption("room:a", Position(1, "e"), is_recovered=True), *numbered(2)]
        assert [read.newest for read in broker.reads].count(True) == 1
        node.unsubscribe(ada, "room:a")

        async def is_left() -> bool:
            return broker.unsubscribed == ["room:a"]

        await eventually(is_left)
