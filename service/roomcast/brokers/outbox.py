"""The commands that wait to be sent: they go to Redis in pipelines, and while one is under way the next one gathers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from roomcast.brokers.moving_slots import MovingSlots, OnDone, Waiting
from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, Client, outage_reason
from roomcast.redis_access.cluster_pipeline import is_moving
from roomcast.redis_access.pipeline import QUICK, run_pipeline
from roomcast.redis_access.scripts import Command, Script

_PIPELINE_LENGTH = 1000
# The memory of a waiting command beside its payload (measured: 480 for a PUBLISH).
_OVERHEAD_BYTES = 512
_MOVING = "the slot moves between two shards of the cluster"


class Outbox:
    """Sends commands in the order in which they were given, many to a round trip.

    Args:
        scripts: the Lua scripts that commands may call.
        max_unsent_bytes: the most that may wait before more is refused, overhead included.
    """

    def __init__(self, client: Client, scripts: Sequence[Script], *, max_unsent_bytes: int) -> None:
        self._client = client
        self._scripts = scripts
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[Waiting] = deque()
        self._moving = MovingSlots(max_bytes=max_unsent_bytes // 4)
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._flushed = asyncio.Event()  # nothing waits and nothing is under way
        self._flushed.set()

    def submit(self, command: Command, payload_bytes: int, on_done: OnDone) -> None:
        """Send soon; `on_done` is called once, now or later. After a failure the command may have been executed."""
        size_bytes = payload_bytes + _OVERHEAD_BYTES
        if self._waiting_bytes + self._moving.size_bytes + size_bytes > self._max_unsent_bytes:
            on_done(BrokerUnavailable("Redis takes publications too slowly"))
            return
        self._waiting.append(Waiting(command, size_bytes, on_done))
        self._waiting_bytes += size_bytes
        self._filled.set()
        self._flushed.clear()

    async def send(self, command: Command, payload_bytes: int) -> Any:  # Any: redis-py's reply
        """Return the reply to a command. Raises: BrokerUnavailable; the command may have been executed anyway."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_done(result: Any | BrokerUnavailable) -> None:
            if done.done():  # its caller was cancelled
                return
            if isinstance(result, BrokerUnavailable):
                done.set_exception(result)
            else:
                done.set_result(result)

        self.submit(command, payload_bytes, on_done)
        return await done

    async def flush(self, *, within_s: float) -> None:
        """Wait until every command was executed or refused, `within_s` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._flushed.wait()

    async def run(self) -> None:
        """Send commands; end only when cancelled."""
        while True:
            if not self._waiting and not self._moving:
                self._flushed.set()
            await self._wait_for_commands()
            batch = self._next_batch()
            try:
                commands = [waiting.command for waiting in batch]
                replies = await run_pipeline(self._client, commands, self._scripts, attempts=QUICK)
            except OUTAGES as exc:
                # The commands behind these would only wait for the same failure, each pipeline for a whole timeout.
                fresh = [waiting for waiting in batch if not self._moving.is_first(waiting)]
                for waiting in (*self._moving.clear(), *fresh, *self._drain(len(self._waiting))):
                    waiting.on_done(BrokerUnavailable(outage_reason(exc)))
                continue
            for waiting, reply in zip(batch, replies, strict=True):
                if self._moving or is_moving(reply):
                    self._settle_moving(waiting, reply)
                else:
                    _finish(waiting, reply)

    async def _wait_for_commands(self) -> None:
        """Wait until there are commands to send, or to retry."""
        if not self._moving:
            await self._filled.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._moving.retry_in_s(time.monotonic())):
                await self._filled.wait()

    def _next_batch(self) -> list[Waiting]:
        batch = self._drain(_PIPELINE_LENGTH)
        if not self._moving:
            return batch
        now_s = time.monotonic()
        found = self._moving.due(now_s)
        for waiting in batch:
            if not self._moving.follows(waiting):
                found.append(waiting)
            elif not self._moving.put(waiting, now_s):
                waiting.on_done(BrokerUnavailable(_MOVING))
        return found

    def _settle_moving(self, waiting: Waiting, reply: Any) -> None:  # Any: redis-py's reply
        """Settle a command while slots move: its own one may, or has moved now."""
        now_s, is_first = time.monotonic(), self._moving.is_first(waiting)
        if not is_first:
            if not is_moving(reply):
                _finish(waiting, reply)
            elif not self._moving.put(waiting, now_s):
                waiting.on_done(BrokerUnavailable(_MOVING))
        elif not is_moving(reply):
            behind = self._moving.end(waiting)
            self._waiting.extendleft(reversed(behind))
            self._waiting_bytes += sum(each.size_bytes for each in behind)
            if behind:
                self._filled.set()
            _finish(waiting, reply)
        elif self._moving.is_stuck(waiting, now_s):
            for each in (waiting, *self._moving.end(waiting)):
                each.on_done(BrokerUnavailable(_MOVING))

    def _drain(self, count: int) -> list[Waiting]:
        batch = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._waiting_bytes -= sum(waiting.size_bytes for waiting in batch)
        if not self._waiting:
            self._filled.clear()
        return batch


def _finish(waiting: Waiting, reply: Any) -> None:  # Any: redis-py's reply
    if not isinstance(reply, BaseException):
        waiting.on_done(reply)
        return
    refusal = BrokerUnavailable(outage_reason(reply))
    refusal.__cause__ = reply
    waiting.on_done(refusal)
