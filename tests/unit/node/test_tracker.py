from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from roomcast.brokers.interface import Read
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import Event, History, Publication, Resumption
from roomcast.node.tracker import Tracker
from roomcast.tasks import end
from tests.support.fakes import FakeBroker
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio

ROOM = DEFAULTS["room"]


def pub(offset: int) -> Publication:
    return Publication("room:a", b"%d" % offset, position=Position(offset, "e"))


def history(top: int, *offsets: int) -> History:
    return History(Position(top, "e"), 0, [pub(offset) for offset in offsets])


class Reader(FakeBroker):
    """A broker whose reads the test sees and can hold up."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        found = await super().read(reads)
        await self.may_answer.wait()
        return found


class Tracked:
    def __init__(self) -> None:
        self.broker = Reader()
        self.heard: list[Event] = []
        self.now_s = 0.0
        self.tracker = Tracker(self.broker, self.heard.append, lambda: self.now_s)

    async def until_heard(self, *events: Event) -> None:
        async def is_heard() -> bool:
            return self.heard == list(events)

        await eventually(is_heard)


@asynccontextmanager
async def tracking(top: int = 5) -> AsyncIterator[Tracked]:
    """Give a tracker that is at an offset of room:a."""
    tracked = Tracked()
    tracked.broker.histories["room:a"] = history(top)
    running = asyncio.create_task(tracked.tracker.run())
    tracked.tracker.connected()
    tracked.tracker.open("room:a", ROOM)
    try:
        await tracked.tracker.wait_resolved("room:a")
        yield tracked
    finally:
        await end(running)


async def test_a_gap_is_read_once_and_told_in_order() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(8, 6, 7, 8)
        tracked.tracker.accept(pub(8))
        tracked.tracker.accept(pub(9))
        await tracked.until_heard(pub(6), pub(7), pub(8), pub(9))

        assert tracked.tracker.position("room:a") == Position(9, "e")
        assert tracked.tracker.repaired_count == 4
        assert tracked.broker.reads[1:] == [
            Read("room:a", ROOM, (Position(5, "e"), Position(9, "e")), Position(5, "e"), 2, before=Position(8, "e"))
        ]


async def test_nothing_is_told_while_redis_is_away_and_all_of_it_afterwards() -> None:
    async with tracking() as tracked:
        tracked.tracker.disconnected()
        tracked.tracker.accept(pub(7))
        tracked.broker.histories["room:a"] = BrokerUnavailable("Redis is away")
        tracked.tracker.connected()

        async def has_read_again() -> bool:
            return len(tracked.broker.reads) >= 3

        await eventually(has_read_again)
        assert tracked.heard == []
        tracked.broker.histories["room:a"] = history(7, 6, 7)
        await tracked.until_heard(pub(6), pub(7))


async def test_what_is_lost_for_good_is_told_and_counted() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(400, 399, 400)
        tracked.tracker.accept(pub(401))
        lost = Resumption("room:a", Position(398, "e"), is_recovered=False)
        await tracked.until_heard(lost, pub(399), pub(400), pub(401))

        assert tracked.tracker.unrecovered_count == 1


async def test_a_loss_without_any_sign_is_found_by_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.node.tracker._CHECK_INTERVAL_S", 0.05)
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(6, 6)
        await tracked.until_heard(pub(6))


async def test_a_herd_shares_one_read_of_the_window_and_what_comes_meanwhile_is_in_it() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(5, 3, 4, 5)
        before = len(tracked.broker.reads)
        tracked.broker.may_answer.clear()
        herd = [asyncio.create_task(tracked.tracker.window("room:a")) for _ in range(100)]

        async def is_read() -> bool:
            return len(tracked.broker.reads) > before

        await eventually(is_read)
        tracked.tracker.accept(pub(6))
        tracked.broker.may_answer.set()
        windows = await asyncio.gather(*herd)

        assert len(tracked.broker.reads) == before + 1
        for window in windows:
            assert window is not None
            assert window.after(2) == [pub(3), pub(4), pub(5), pub(6)]
            assert window.after(1) is None


async def test_a_window_that_cannot_be_read_at_once_is_read_in_smaller_pages() -> None:
    async with tracking() as tracked:

        async def read(reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
            (wanted,) = reads
            assert wanted.before is not None
            limits.append(wanted.limit)
            if wanted.limit > 40:  # takes longer than the timeout
                return [BrokerUnavailable("timeout")]
            newest = wanted.before.offset - 1
            return [history(100, *range(max(1, newest - wanted.limit + 1), newest + 1))]

        limits: list[int] = []
        tracked.broker.histories["room:a"] = history(100, *range(6, 101))
        tracked.tracker.accept(pub(100))
        await tracked.until_heard(*[pub(offset) for offset in range(6, 101)])
        tracked.broker.read = read  # type: ignore[method-assign]
        window = await tracked.tracker.window("room:a")

        assert limits == [300, 37, 37, 37]
        assert window is not None
        assert window.after(0) == [pub(offset) for offset in range(1, 101)]


async def test_a_window_that_cannot_be_read_at_all_is_an_outage() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = BrokerUnavailable("away")
        with pytest.raises(BrokerUnavailable):
            await tracked.tracker.window("room:a")


async def test_a_window_that_nobody_wants_any_more_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.node.tracker._CHECK_INTERVAL_S", 0.02)
    async with tracking() as tracked:
        assert await tracked.tracker.window("room:a") is not None
        tracked.now_s += 60
        looked = len(tracked.broker.reads)

        async def has_looked() -> bool:
            return len(tracked.broker.reads) > looked + 1

        await eventually(has_looked)
        await tracked.tracker.window("room:a")
        assert [read.newest for read in tracked.broker.reads].count(True) == 2


async def test_a_window_is_kept_while_it_is_read_and_for_those_that_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomcast.node.tracker._CHECK_INTERVAL_S", 0.02)
    async with tracking() as tracked:
        tracked.broker.may_answer.clear()
        monkeypatch.setattr("roomcast.node.tracker._WINDOW_WAIT_S", 0.0)
        with pytest.raises(BrokerUnavailable):
            await tracked.tracker.window("room:a")
        tracked.now_s += 60
        looked = len(tracked.broker.reads)

        async def has_looked() -> bool:
            return len(tracked.broker.reads) > looked + 1

        tracked.broker.may_answer.set()
        await eventually(has_looked)
        await tracked.tracker.window("room:a")
        assert [read.newest for read in tracked.broker.reads].count(True) == 1


async def test_a_window_of_a_removed_history_is_let_go() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(5, 3, 4, 5)
        assert await tracked.tracker.window("room:a") is not None
        tracked.broker.histories["room:a"] = history(5)
        tracked.tracker.removed("room:a")
        tracked.tracker.removed("room:unknown")
        window = await tracked.tracker.window("room:a")

        assert window is not None
        assert window.after(4) is None
        assert window.after(5) == []


async def test_a_window_that_is_being_read_while_the_history_is_removed_is_read_again() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(5, 3, 4, 5)
        before = len(tracked.broker.reads)
        tracked.broker.may_answer.clear()
        coming = asyncio.create_task(tracked.tracker.window("room:a"))

        async def is_read() -> bool:
            return len(tracked.broker.reads) > before

        await eventually(is_read)
        tracked.tracker.removed("room:a")
        tracked.broker.histories["room:a"] = history(6, 6)
        tracked.tracker.accept(pub(6))
        tracked.broker.may_answer.set()
        window = await coming

        assert window is not None
        assert window.after(4) is None
        assert window.after(5) == [pub(6)]
        assert len(tracked.broker.reads) == before + 2


async def test_a_window_from_before_an_outage_is_let_go_as_the_history_may_have_been_removed_meanwhile() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = history(5, 3, 4, 5)
        assert await tracked.tracker.window("room:a") is not None
        tracked.tracker.disconnected()
        tracked.broker.histories["room:a"] = history(5)
        tracked.tracker.connected()
        window = await tracked.tracker.window("room:a")

        assert window is not None
        assert window.after(4) is None


async def test_who_comes_back_while_redis_is_away_is_refused_and_the_next_one_reads_again() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = BrokerUnavailable("Redis is away")
        with pytest.raises(BrokerUnavailable):
            await tracked.tracker.window("room:a")
        tracked.broker.histories["room:a"] = history(5, 5)
        window = await tracked.tracker.window("room:a")

        assert window is not None
        assert window.after(4) == [pub(5)]


async def test_nothing_is_left_of_a_closed_channel() -> None:
    async with tracking() as tracked:
        tracked.tracker.close("room:a")

        assert tracked.tracker.position("room:a") is None
        tracked.tracker.accept(pub(9))
        assert tracked.heard == [pub(9)], "whoever subscribed in the meantime decides"


async def test_who_comes_back_while_the_epoch_ends_is_told_of_the_new_one_alone() -> None:
    async with tracking() as tracked:
        tracked.broker.histories["room:a"] = History(Position(5, "f"), 5, [])
        window = await tracked.tracker.window("room:a", Position(3, "e"))

        assert tracked.tracker.position("room:a") == Position(5, "f")
        assert window is not None
        assert window.floor == 5
        assert tracked.heard == [Resumption("room:a", Position(5, "f"), is_recovered=False)]
