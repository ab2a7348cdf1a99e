"""Base of the workers: their interface, health keys, retries after outages, shutdown."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import orjson
import structlog

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, Client
from roomcast.redis_access.pipeline import run_all
from roomcast.tasks import run_until_signal

log = structlog.get_logger(__name__)


class Worker(Protocol):
    """A process beside the nodes."""

    __slots__ = ()

    async def run(self) -> None:
        """Work, through every outage of Redis, until cancelled."""

    async def finish(self) -> None:
        """Release the lease, after `run` has ended, within a second."""


class Health:
    """The health of a worker: the key `<prefix>health:<worker>:<name>` with a TTL, a JSON object of facts."""

    def __init__(self, client: Client, *, prefix: str, worker: str, name: str) -> None:
        self._client = client
        self._key = f"{prefix}health:{worker}:{name}"

    async def record(self, facts: dict[str, int], *, ttl_s: float) -> None:
        """Record that the worker is running, for `ttl_s`: the facts, and the time in ms. Raises: redis.RedisError."""
        document = orjson.dumps({**facts, "time": time.time_ns() // 1_000_000})
        # Not by the client's own `set`: after a failure it would close the connections to all of a cluster's servers.
        await run_all(self._client, [("SET", self._key, document, "PX", math.ceil(ttl_s * 1000))], ())

    async def read(self) -> str | None:
        """Return the facts that were last recorded, None if they have expired. Raises: redis.RedisError."""
        facts = await self._client.get(self._key)
        return None if facts is None else str(facts, "utf-8")  # type: ignore[arg-type]  # `connect` gives bytes


async def work_through_outages(step: Callable[[], Awaitable[None]], *, worker: str, pause_s: float) -> None:
    """Repeat the step; pause after one that failed because of Redis. Logs one line per outage."""
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


async def run_worker(worker: Worker) -> None:
    """Run a worker until SIGINT or SIGTERM, then finish it."""
    if await run_until_signal(worker.run(), signal.SIGINT, signal.SIGTERM):
        await worker.finish()
        log.info("worker.ended")
