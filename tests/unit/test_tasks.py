from __future__ import annotations

import asyncio

import pytest

from roomcast.tasks import TaskSet, end, run_together

pytestmark = pytest.mark.anyio


async def forever() -> None:
    await asyncio.Event().wait()


async def stubborn() -> None:
    """Swallow the first cancellation, as asyncio.wait_for may on Python 3.11."""
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()


async def fail() -> None:
    raise ConnectionError("lost")


async def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    before = asyncio.all_tasks()

    with pytest.raises(ConnectionError, match="lost"):
        await run_together(a=forever(), b=fail(), c=stubborn())

    assert asyncio.all_tasks() == before


async def test_being_cancelled_ends_all_of_them() -> None:
    before = asyncio.all_tasks()
    together = asyncio.create_task(run_together(a=forever(), b=stubborn()))
    for _ in range(3):
        await asyncio.sleep(0)  # lets it start its tasks, and them wait
    await end(together)

    assert together.cancelled()
    assert asyncio.all_tasks() == before


async def test_a_task_set_holds_what_runs_and_ends_all_of_it() -> None:
    tasks = TaskSet("work")
    short, long, hard = (tasks.spawn(work) for work in (asyncio.sleep(0), forever(), stubborn()))

    await short
    await asyncio.sleep(0)

    assert (len(tasks), long.get_name()) == (2, "work")

    await tasks.end()

    assert (len(tasks), long.cancelled(), hard.cancelled()) == (0, True, True)
