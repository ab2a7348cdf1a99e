"""What the workers share: they live until they are told to end, and say that they live."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import TYPE_CHECKING, Protocol

import orjson
import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES
from roomcast.tasks import run_until_signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from roomcast.redis_access.client import Client

log = structlog.get_logger(__name__)


class Worker(Protocol):
    """A process that publishes."""

    async def run(self) -> None:
        """Work through every outage of Redis; end only when cancelled."""

    async def finish(self) -> None:
        """Give back what others may wait for, after `run` has ended; a second at most."""


class Health:
    """A worker's sign of life: a key with a TTL.

    Key: `<prefix>health:<worker>:<name>`, a JSON object with what the worker last said of itself.
    """

    def __init__(self, client: Client, *, prefix: str, worker: str, name: str) -> None:
        self._client = client
        self._key = f"{prefix}health:{worker}:{name}"

    async def record(self, facts: dict[str, object], *, ttl_s: float) -> None:
        """Say that the worker lives, for at most `ttl_s`. Raises: redis.RedisError."""
        await self._client.set(self._key, orjson.dumps(facts), px=math.ceil(ttl_s * 1000))

    async def read(self) -> str | None:
        """Return what the worker last said of itself, or None when it gives no sign. Raises: redis.RedisError."""
        facts = await self._client.get(self._key)
        return None if facts is None else str(facts, "utf-8")  # type: ignore[arg-type]  # `connect` gives bytes


async def work_through_outages(step: Callable[[], Awaitable[None]], *, worker: str, pause_s: float) -> None:
    """Take one step after the other; after one that Redis has cut short, pause. One log line an outage."""
    is_waiting = False
    while True:
        try:
            await step()
            is_waiting = False
        except (*OUTAGES, BrokerUnavailable) as exc:
            if not is_waiting:
                log.warning(f"{worker}.waiting", reason=str(exc))
            is_waiting = True
            await asyncio.sleep(pause_s)


async def run_until_told(worker: Worker) -> None:
    """Run a worker until SIGINT or SIGTERM, then let it end cleanly."""
    if await run_until_signal(worker.run(), signal.SIGINT, signal.SIGTERM):
        await worker.finish()
        log.info("worker.ended")
