"""What waits to be published: it goes to Redis in pipelines, and while one is under way the next one gathers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from service.brokers.client import OUTAGES, outage_reason
from service.errors import BrokerUnavailable

if TYPE_CHECKING:
    import redis.asyncio

_PIPELINE_LENGTH = 1000


class _Waiting(NamedTuple):
    topic: str
    message: bytes
    taken: asyncio.Future[int]


class Outbox:
    """Publishes messages in the order in which they were given, many to a round trip.

    Args:
        max_unsent_bytes: how much may wait before publishing is refused.
    """

    def __init__(self, client: redis.asyncio.Redis, *, max_unsent_bytes: int) -> None:
        self._client = client
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._filled = asyncio.Event()

    async def publish(self, topic: str, message: bytes) -> int:
        """Return how many connections took the message, once Redis has said so.

        Raises: BrokerUnavailable; the message may have been published all the same.
        """
        if self._waiting_bytes + len(message) > self._max_unsent_bytes:
            raise BrokerUnavailable("Redis takes publications too slowly")
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(topic, message, taken))
        self._waiting_bytes += len(message)
        self._filled.set()
        return await taken

    async def run(self) -> None:
        """Publish what is given; end only when cancelled."""
        while True:
            await self._filled.wait()
            batch = self._take(_PIPELINE_LENGTH)
            try:
                replies = await self._send(batch)
            except OUTAGES as exc:
                # What waits behind would only wait for the same failure, each pipeline for a whole timeout.
                for waiting in (*batch, *self._take(len(self._waiting))):
                    _refuse(waiting, exc)
                continue
            for waiting, reply in zip(batch, replies, strict=True):
                if isinstance(reply, BaseException):
                    _refuse(waiting, reply)
                elif not waiting.taken.done():
                    waiting.taken.set_result(int(reply))

    def _take(self, count: int) -> list[_Waiting]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= sum(len(waiting.message) for waiting in taken)
        if not self._waiting:
            self._filled.clear()
        return taken

    async def _send(self, batch: list[_Waiting]) -> list[Any]:  # Any: redis-py's replies
        async with self._client.pipeline(transaction=False) as pipeline:
            for waiting in batch:
                pipeline.publish(waiting.topic, waiting.message)
            return await pipeline.execute(raise_on_error=False)


def _refuse(waiting: _Waiting, exc: BaseException) -> None:
    if not waiting.taken.done():  # done: its caller was cancelled
        waiting.taken.set_exception(BrokerUnavailable(outage_reason(exc)))
