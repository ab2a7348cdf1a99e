"""What waits to be published: it goes to Redis in pipelines, and while one is under way the next one gathers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from service.brokers.client import OUTAGES, outage_reason
from service.errors import BrokerUnavailable

if TYPE_CHECKING:
    import redis.asyncio

_PIPELINE_LENGTH = 1000
# What Python keeps for a message that waits, beside its bytes (measured: 480).
_OVERHEAD_BYTES = 512


# What becomes of a message: how many connections took it, or why nobody can say so.
Taken = Callable[[int | BrokerUnavailable], None]


class _Waiting(NamedTuple):
    topic: str
    message: bytes
    taken: Taken


class Outbox:
    """Publishes messages in the order in which they were given, many to a round trip.

    Args:
        max_unsent_bytes: how much may wait before publishing is refused, with what Python keeps beside the messages.
    """

    def __init__(self, client: redis.asyncio.Redis, *, max_unsent_bytes: int) -> None:
        self._client = client
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()  # nothing waits and nothing is under way
        self._settled.set()

    def submit(self, topic: str, message: bytes, taken: Taken) -> None:
        """Publish soon; `taken` is called once, now or later: the message may have been published in any case."""
        size_bytes = len(message) + _OVERHEAD_BYTES
        if self._waiting_bytes + size_bytes > self._max_unsent_bytes:
            taken(BrokerUnavailable("Redis takes publications too slowly"))
            return
        self._waiting.append(_Waiting(topic, message, taken))
        self._waiting_bytes += size_bytes
        self._filled.set()
        self._settled.clear()

    async def publish(self, topic: str, message: bytes) -> int:
        """Return how many connections took the message, once Redis has said so.

        Raises: BrokerUnavailable; the message may have been published all the same.
        """
        settled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def taken(result: int | BrokerUnavailable) -> None:
            if settled.done():  # its caller was cancelled
                return
            if isinstance(result, BrokerUnavailable):
                settled.set_exception(result)
            else:
                settled.set_result(result)

        self.submit(topic, message, taken)
        return await settled

    async def settle(self, *, within_s: float) -> None:
        """Wait until every message was taken or refused, `within_s` at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._settled.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Publish what is given; end only when cancelled."""
        while True:
            if not self._waiting:
                self._settled.set()
            await self._filled.wait()
            batch = self._take(_PIPELINE_LENGTH)
            try:
                replies = await self._send(batch)
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
        self._waiting_bytes -= sum(len(waiting.message) + _OVERHEAD_BYTES for waiting in taken)
        if not self._waiting:
            self._filled.clear()
        return taken

    async def _send(self, batch: list[_Waiting]) -> list[Any]:  # Any: redis-py's replies
        async with self._client.pipeline(transaction=False) as pipeline:
            for waiting in batch:
                pipeline.publish(waiting.topic, waiting.message)
            return await pipeline.execute(raise_on_error=False)
