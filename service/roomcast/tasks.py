"""Background tasks that end together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

_PATIENCE_S = 0.1


async def run_together(**coroutines: Coroutine[Any, Any, object]) -> None:  # Any: yielded to the loop
    """Run coroutines as tasks of these names until the first one ends, end the others, and raise its exception.

    Not a TaskGroup: that cancels each task once, and on Python 3.11 `asyncio.wait_for`, which redis-py uses, swallows
    a cancellation that arrives as its wait ends (cpython #86296). The group would then wait forever
    (tests/contract/test_broker.py::test_coming_back_right_after_the_unsubscription_is_confirmed_anew hung).
    """
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)
    for task in done:
        task.result()


async def run_until_signal(coroutine: Coroutine[Any, Any, None], *signals: signal.Signals) -> bool:  # Any: the loop's
    """Run a coroutine until it ends or the process receives one of the signals. Returns: whether it received one.

    The coroutine may be cancelled repeatedly, as by `end`. Until the loop closes, further signals are ignored, so the
    caller can clean up.

    Ctrl-C is not left to Python's KeyboardInterrupt: Python does not raise it if SIGINT was ignored when the process
    started, as `nohup` and a script's `&` do.
    """
    is_signalled, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, is_signalled.set)
    await run_together(work=coroutine, signals=is_signalled.wait())
    return is_signalled.is_set()


async def end(*tasks: asyncio.Task[Any]) -> None:  # Any: of every type
    """Cancel tasks until each has ended; their exceptions are not raised here.

    If `end` itself is cancelled, the cancellation is raised after all tasks have ended.
    """
    interruption: asyncio.CancelledError | None = None
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=_PATIENCE_S)
        except asyncio.CancelledError as exc:
            interruption = exc
        running = {task for task in running if not task.done()}
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved: otherwise asyncio logs it
    if interruption is not None:
        raise interruption


class TaskSet:
    """Tasks that end by themselves, or together at `end`. All have the same name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many tasks are running."""
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:  # Any: as in `run_together`
        """Run a coroutine as a task of this set."""
        task = asyncio.create_task(work, name=self._name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def end(self) -> None:
        """Cancel the tasks that are running, and wait until each has ended."""
        await end(*self._running)
