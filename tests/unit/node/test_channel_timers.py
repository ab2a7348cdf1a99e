"""Timers of channels, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.node.channel_timers import ChannelTimers
from roomcast.tasks import end
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, object]]:
    return BACKEND


class Work:
    """Notes when it is called for which channel; returns or raises what `answers` has next, else None."""

    def __init__(self, *answers: float | Exception | None, takes_s: float = 0.0) -> None:
        self.calls: list[tuple[float, str]] = []
        self.takes_s = takes_s
        self._answers = list(answers)

    async def __call__(self, channel: str) -> float | None:
        self.calls.append((round(asyncio.get_running_loop().time(), 3), channel))
        await asyncio.sleep(self.takes_s)
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def times_s(self) -> list[float]:
        return [at_s for at_s, _ in self.calls]


@asynccontextmanager
async def running(work: Work, *, random_s: Callable[[], float] = lambda: 0.0) -> AsyncIterator[ChannelTimers]:
    """Yield timers whose task runs."""
    timers = ChannelTimers(work, random_s=random_s)
    task = asyncio.create_task(timers.run())
    try:
        yield timers
    finally:
        await end(task)


async def test_a_channel_is_called_at_once_and_so_long_after_as_it_says() -> None:
    work = Work(5.0, 0.1, 0, None)
    async with running(work) as timers:
        timers.call_in("a", 0)
        await asyncio.sleep(1000)

    assert work.times_s() == [0, 5, 5.25, 5.25], "0.25 s at least, unless there is more to do"


async def test_the_earliest_time_counts_also_one_that_is_given_during_a_call() -> None:
    work = Work(60.0, takes_s=1.0)
    async with running(work) as timers:
        timers.call_in("a", 3)
        timers.call_in("a", 10)
        timers.call_in("a", 2)
        await asyncio.sleep(2.5)
        timers.call_in("a", 4)
        await asyncio.sleep(1000)

    assert work.times_s() == [2, 6.5]


async def test_a_channel_that_is_called_is_called_again_only_after_that() -> None:
    work = Work(takes_s=1.0)
    async with running(work) as timers:
        timers.call_in("a", 0)
        await asyncio.sleep(0.5)
        timers.call_in("a", 0)
        timers.call_in("a", 0)
        await asyncio.sleep(1000)

    assert work.times_s() == [0, 1]


async def test_a_forgotten_channel_is_not_called() -> None:
    work = Work()
    async with running(work) as timers:
        timers.call_in("a", 0)
        timers.call_in("b", 1)
        timers.call_in("c", 1)
        timers.forget("a")
        timers.forget("b")
        timers.forget("unknown")
        await asyncio.sleep(1000)

    assert work.calls == [(1, "c")]


async def test_a_failed_call_is_repeated_after_growing_delays_up_to_a_limit() -> None:
    refused, away = ClientError(ErrorCode.NOT_AVAILABLE, "foreign key"), BrokerUnavailable("away")
    work = Work(away, refused, *[away] * 6, 5.0, away)
    async with running(work) as timers:
        timers.call_in("a", 0)
        await asyncio.sleep(1000)

    assert work.times_s() == [0, 0.5, 1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5, 18.5, 19]


async def test_channels_do_not_wait_for_each_other_and_many_wait_for_their_turn() -> None:
    work = Work(takes_s=1.0)
    async with running(work) as timers:
        for number in range(401):
            timers.call_in(f"c{number}", 0)
        await asyncio.sleep(1000)

    assert [work.times_s().count(at_s) for at_s in (0, 1, 2)] == [200, 200, 1]
    assert len({channel for _, channel in work.calls}) == 401


async def test_delays_differ_from_node_to_node_but_the_first_call_is_at_once() -> None:
    work = Work(1.0)
    async with running(work, random_s=lambda: 0.07) as timers:
        timers.call_in("a", 0)
        await asyncio.sleep(1000)

    assert work.times_s() == [0, 1.07]


async def test_an_unexpected_failure_ends_the_task() -> None:
    timers = ChannelTimers(Work(RuntimeError("a bug")))
    timers.call_in("a", 0)

    with pytest.raises(RuntimeError, match="a bug"):
        await timers.run()
