"""Ingest workers, entries for them, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from roomcast.brokers.interface import Read
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.namespaces import DEFAULTS, Namespaces
from roomcast.model.publications import History
from roomcast.redis_access.client import Client
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue
from roomcast.tasks import end
from roomcast_workers.ingest import IngestWorker
from tests.support.processes import eventually

MAX_MESSAGE_BYTES = 1000


def broker_of(client: Client, prefix: str) -> RedisBroker:
    return RedisBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)


def worker_of(client: Client, prefix: str, *, broker: RedisBroker | None = None, name: str = "w") -> IngestWorker:
    broker = broker or broker_of(client, prefix)
    return IngestWorker(
        client,
        broker,
        broker.maps,
        Namespaces(),
        prefix=prefix,
        name=name,
        max_message_bytes=MAX_MESSAGE_BYTES,
        timeout_s=5.0,
    )


@asynccontextmanager
async def working(client: Client, prefix: str, broker: RedisBroker | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker; cancelling the task is its death: only leaving the block gives the lease back."""
    worker = worker_of(client, prefix, broker=broker)
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        await end(task)
        await worker.finish()


async def add(client: Client, prefix: str, **fields: str | bytes | int) -> None:
    entry: Any = fields  # Any: redis-py's own type takes no dict of fewer types
    await client.xadd(f"{prefix}ingest", entry)


async def history(client: Client, prefix: str, channel: str = "room:a") -> list[bytes]:
    """Return the payloads in a channel's history, in order."""
    (found,) = await broker_of(client, prefix).read([Read(channel, DEFAULTS["room"], limit=1000)])
    assert isinstance(found, History), found
    assert [p.position.offset for p in found.publications if p.position] == list(
        range(found.position.offset - len(found.publications) + 1, found.position.offset + 1)
    )
    return [publication.data for publication in found.publications]


async def dead(client: Client, prefix: str) -> list[dict[bytes, bytes]]:
    entries: Any = await client.xrange(WorkQueue(client, prefix=prefix).dead_key)  # Any: redis-py's reply
    return [fields for _, fields in entries]


async def until_done(client: Client, prefix: str) -> StreamCounts:
    async def is_done() -> StreamCounts | None:
        counts = await WorkQueue(client, prefix=prefix).counts()
        return None if counts.lag else counts

    counts = await eventually(is_done)
    assert counts is not None
    return counts


async def forget_keys(client: Client, prefix: str) -> None:
    """Delete the idempotency keys, as Redis does after five minutes."""
    keys = [key async for key in client.scan_iter(f"*{prefix}*:once:*")]
    assert keys
    await client.delete(*keys)
