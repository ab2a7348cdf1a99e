"""The commands that wait to be sent: they go to Redis in pipelines, and while one is under way the next one gathers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, Client, outage_reason
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.scripts import Command, Script

_PIPELINE_LENGTH = 1000
# The memory of a waiting command beside its payload (measured: 480 for a PUBLISH).
_OVERHEAD_BYTES = 512


# Receives the server's reply to a command, or the reason why it is unknown. Any: redis-py's replies.
OnDone = Callable[[Any | BrokerUnavailable], None]


class _Waiting(NamedTuple):
    command: Command
    size_bytes: int
    on_done: OnDone


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
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._flushed = asyncio.Event()  # nothing waits and nothing is under way
        self._flushed.set()

    def submit(self, command: Command, payload_bytes: int, on_done: OnDone) -> None:
        """Send soon; `on_done` is called once, now or later. After a failure the command may have been executed."""
        size_bytes = payload_bytes + _OVERHEAD_BYTES
        if self._waiting_bytes + size_bytes > self._max_unsent_bytes:
            on_done(BrokerUnavailable("Redis takes publications too slowly"))
            return
        self._waiting.append(_Waiting(command, size_bytes, on_done))
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
            if not self._waiting:
                self._flushed.set()
            await self._filled.wait()
            batch = self._drain(_PIPELINE_LENGTH)
            try:
                replies = await run_pipeline(self._client, [waiting.command for waiting in batch], self._scripts)
            except OUTAGES as exc:
                # The commands behind these would only wait for the same failure, each pipeline for a whole timeout.
                for waiting in (*batch, *self._drain(len(self._waiting))):
                    waiting.on_done(BrokerUnavailable(outage_reason(exc)))
                continue
            for waiting, reply in zip(batch, replies, strict=True):
                if isinstance(reply, BaseException):
                    waiting.on_done(BrokerUnavailable(outage_reason(reply)))
                else:
                    waiting.on_done(reply)

    def _drain(self, count: int) -> list[_Waiting]:
        batch = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._waiting_bytes -= sum(waiting.size_bytes for waiting in batch)
        if not self._waiting:
            self._filled.clear()
        return batch
