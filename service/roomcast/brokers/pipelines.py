"""Pipelines of a broker's commands."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.cluster import RedisCluster

from roomcast.redis_access.client import OUTAGES, Client, outages_reported
from roomcast.redis_access.pipeline import QUICK, run_pipeline
from roomcast.redis_access.refusals import kind_of
from roomcast.redis_access.scripts import Command, Script
from roomcast.redis_access.topology import Topology


class Pipelines:
    """Executes commands that may call some scripts; see `run_pipeline`."""

    def __init__(self, client: Client, scripts: Sequence[Script]) -> None:
        self._client = client
        self._scripts = scripts
        self._topology = Topology(client) if isinstance(client, RedisCluster) else None

    async def execute(self, commands: Sequence[Command]) -> list[Any]:  # Any: redis-py's replies
        """Return each command's reply, or the exception in its place. Raises: BrokerUnavailable."""
        with outages_reported():
            return await run_pipeline(self._client, commands, self._scripts)

    async def execute_quickly(self, commands: Sequence[Command]) -> list[Any]:  # Any: redis-py's replies
        """Execute commands of a worker, which retries those whose slot moves, beside the others."""
        with outages_reported():
            replies = await run_pipeline(self._client, commands, self._scripts, attempts=QUICK)
            if self._topology and any(isinstance(reply, Exception) and kind_of(reply) is None for reply in replies):
                with suppress(*OUTAGES):  # a worker has no listener that does it
                    await self._topology.refresh()
            return replies
