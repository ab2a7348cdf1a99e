from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from roomcast.deadlines import Deadlines
from roomcast.tasks import end
from tests.support.fakes import Clock

pytestmark = pytest.mark.anyio


class Ticket:
    """Something that expires: it notes when it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def on_deadline(self, now_s: float, grace_s: float) -> None:
        self.calls.append((now_s, grace_s))


def test_a_unix_time_is_due_after_its_grace_and_a_delay_at_its_end() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=25.0)
    token, greeting = Ticket(), Ticket()
    deadlines.add(1010.0, token)
    deadlines.add_in(10.0, greeting)

    for clock.now_s in (1009.9, 1010.0, 1034.9):
        deadlines.tick()
    assert (token.calls, greeting.calls) == ([], [(1010.0, 25.0)])
    clock.now_s = 1035.0
    deadlines.tick()

    assert token.calls == [(1035.0, 25.0)]


def test_never_is_never() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    ticket = Ticket()

    deadlines.add(0, ticket)
    clock.now_s = 1e12
    deadlines.tick()

    assert ticket.calls == []


def test_what_is_due_is_called_once_in_the_order_of_the_times() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    order: list[int] = []

    class Numbered(Ticket):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def on_deadline(self, now_s: float, grace_s: float) -> None:
            order.append(self.number)

    for number in (3, 1, 2):
        deadlines.add(1000.0 + number, Numbered(number))
    for number in (4, 5):
        deadlines.add(1004.0, Numbered(number))
    clock.now_s = 1010.0
    deadlines.tick()
    deadlines.tick()

    assert order == [1, 2, 3, 4, 5]


def test_of_many_times_of_one_the_earliest_counts() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    ticket = Ticket()

    for unix_s in (1050.0, 1020.0, 1090.0):
        deadlines.add(unix_s, ticket)
    for clock.now_s in (1019.0, 1020.0, 1050.0, 1090.0):
        deadlines.tick()

    assert ticket.calls == [(1020.0, 0.0)]


def test_what_is_put_off_as_it_is_called_is_called_again() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=5.0)

    class Refreshed(Ticket):
        def on_deadline(self, now_s: float, grace_s: float) -> None:
            super().on_deadline(now_s, grace_s)
            if len(self.calls) < 3:
                deadlines.add(now_s + 10.0, self)

    refreshed = Refreshed()
    deadlines.add(1000.0, refreshed)
    for second in range(100):
        clock.now_s = 1000.0 + second
        deadlines.tick()

    assert refreshed.calls == [(1005.0, 5.0), (1020.0, 5.0), (1035.0, 5.0)]


def test_what_is_added_again_for_now_is_called_at_the_next_tick() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)

    class Stubborn(Ticket):
        def on_deadline(self, now_s: float, grace_s: float) -> None:
            super().on_deadline(now_s, grace_s)
            deadlines.add(1000.0, self)

    stubborn, other = Stubborn(), Ticket()
    deadlines.add(1000.0, stubborn)
    deadlines.add(1001.0, other)
    clock.now_s = 2000.0
    deadlines.tick()
    assert (len(stubborn.calls), len(other.calls)) == (1, 1)
    deadlines.tick()

    assert len(stubborn.calls) == 2


def test_what_is_forgotten_is_not_called_and_not_kept() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    ticket, other = Ticket(), Ticket()
    for unix_s in (5000.0, 2000.0):
        deadlines.add(unix_s, ticket)
    deadlines.add(2000.0, other)

    deadlines.forget(ticket)
    deadlines.forget(ticket)
    gone = weakref.ref(ticket)
    del ticket
    gc.collect()
    clock.now_s = 9000.0
    deadlines.tick()

    assert gone() is None
    assert len(other.calls) == 1


def test_what_is_forgotten_by_what_is_called_before_it_is_not_called() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    other = Ticket()

    class Ending(Ticket):
        def on_deadline(self, now_s: float, grace_s: float) -> None:
            deadlines.forget(other)

    deadlines.add(1001.0, Ending())
    deadlines.add(1002.0, other)
    clock.now_s = 2000.0
    deadlines.tick()

    assert other.calls == []


def test_a_client_that_refreshes_without_end_costs_no_more() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    ticket = Ticket()

    for number in range(10_000):
        deadlines.add(2000.0 + number, ticket)
    for clock.now_s in (2000.0, 99_999.0):
        deadlines.tick()

    assert len(ticket.calls) == 1


def test_clients_that_come_and_go_long_before_their_time_cost_no_more() -> None:
    deadlines = Deadlines(clock := Clock(), grace_s=0.0)
    due, late = Ticket(), Ticket()
    deadlines.add(3000.0, late)
    deadlines.add(2000.0, due)

    for number in range(20_000):
        ticket = Ticket()
        deadlines.add(1e9 + number, ticket)
        deadlines.forget(ticket)

    assert sum(type(each).__name__ == "_Entry" for each in gc.get_objects()) < 5000
    clock.now_s = 2500.0
    deadlines.tick()
    assert (len(due.calls), len(late.calls)) == (1, 0)
    clock.now_s = 2e9
    deadlines.tick()
    assert len(late.calls) == 1


async def test_it_ticks_by_itself() -> None:
    called = asyncio.Event()

    class Telling(Ticket):
        def on_deadline(self, now_s: float, grace_s: float) -> None:
            called.set()

    deadlines = Deadlines(Clock(), grace_s=0.0)
    deadlines.add_in(0.0, Telling())
    running = asyncio.create_task(deadlines.run())
    try:
        async with asyncio.timeout(5):
            await called.wait()
    finally:
        await end(running)
