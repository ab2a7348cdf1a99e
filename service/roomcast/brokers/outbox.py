"""What waits to be published: it goes to Redis in pipelines, and while one is under way the next one gathers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, outage_reason
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.scripts import Command, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roomcast.redis_access.client import Client

_PIPELINE_LENGTH = 1000
# What Python keeps for a command that waits, beside its payload (measured: 480 for a PUBLISH).
_OVERHEAD_BYTES = 512


# What becomes of a command: the server's reply, or why nobody can say so. Any: redis-py's replies.
Taken = Callable[[Any | BrokerUnavailable], None]


class _Waiting(NamedTuple):
    command: Command
    size_bytes: int
    taken: Taken


class Outbox:
    """Sends commands in the order in which they were given, many to a round trip.

    Args:
        scripts: the Lua scripts that commands may call.
        max_unsent_bytes: how much may wait before more is refused, with what Python keeps beside the payloads.
    """

    def __init__(self, client: Client, scripts: Sequence[Script], *, max_unsent_bytes: int) -> None:
        self._client = client
        self._scripts = scripts
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()  # nothing waits and nothing is under way
        self._settled.set()

    def submit(self, command: Command, payload_bytes: int, taken: Taken) -> None:
        """Send soon; `taken` is called once, now or later: the command may have been carried out in any case."""
        size_bytes = payload_bytes + _OVERHEAD_BYTES
        if self._waiting_bytes + size_bytes > self._max_unsent_bytes:
            taken(BrokerUnavailable("Redis takes publications too slowly"))
            return
        self._waiting.append(_Waiting(command, size_bytes, taken))
        self._waiting_bytes += size_bytes
        self._filled.set()
        self._settled.clear()

    async def send(self, command: Command, payload_bytes: int) -> Any:  # Any: redis-py's reply
        """Return the server's reply to a command.

        Raises: BrokerUnavailable; the command may have been carried out all the same.
        """
        settled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def taken(result: Any | BrokerUnavailable) -> None:
            if settled.done():  # its caller was cancelled
                return
            if isinstance(result, BrokerUnavailable):
                settled.set_exception(result)
            else:
                settled.set_result(result)

        self.submit(command, payload_bytes, taken)
        return await settled

    async def settle(self, *, within_s: float) -> None:
        """Wait until every command was carried out or refused, `within_s` at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._settled.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Send what is given; end only when cancelled."""
        while True:
            if not self._waiting:
                self._settled.set()
            await self._filled.wait()
            batch = self._take(_PIPELINE_LENGTH)
            try:
                replies = await run_pipeline(self._client, [waiting.command for waiting in batch], self._scripts)
            except OUTAGES as exc:
                # What waits behind would only wait for the same failure, each pipeline for a whole timeout.
                for waiting in (*batch, *self._take(len(self._waiting))):
                    waiting.taken(BrokerUnavailable(outage_reason(exc)))
                continue
            for waiting, reply in zip(batch, replies, strict=True):
                if isinstance(reply, BaseException):
                    waiting.taken(BrokerUnavailable(outage_reason(reply)))
                else:
                    waiting.taken(reply)

    def _take(self, count: int) -> list[_Waiting]:
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._waiting_bytes -= sum(waiting.size_bytes for waiting in taken)
        if not self._waiting:
            self._filled.clear()
        return taken
