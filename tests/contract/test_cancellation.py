"""One cancellation ends a task: on Python 3.11 `asyncio.wait_for` may swallow it (cpython #86296)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from roomcast.redis_access.client import Client, ask, connect
from roomcast.redis_access.pipeline import run_all
from tests.support.ingest import add, worker_of

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

# Turns of the event loop: more than a step of a worker takes.
TURNS = 60


async def _work(client: Client, prefix: str) -> None:
    await worker_of(client, prefix).run()


async def _ask(client: Client, prefix: str) -> None:
    while True:
        await ask(client, "GET", prefix)


async def _run_pipelines(client: Client, prefix: str) -> None:
    while True:
        await run_all(client, [("SET", prefix, "1"), ("GET", prefix)], ())


async def _wait(client: Client, prefix: str) -> None:
    while True:
        await client.xread({prefix: "0"}, block=5)


@pytest.mark.parametrize("shape", ["redis_url", "cluster_url"])
@pytest.mark.parametrize("work", [_work, _ask, _run_pipelines, _wait])
async def test_one_cancellation_ends_what_talks_to_redis(
    work: Callable[[Client, str], Awaitable[None]], shape: str, request: pytest.FixtureRequest, prefix: str
) -> None:
    async with connect(request.getfixturevalue(shape), timeout_s=5.0, client_name="test") as client:
        alive = []
        for turn in range(TURNS):
            await add(client, prefix, channel="room:a", data=turn)
            task = asyncio.ensure_future(work(client, prefix))
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            if not (await asyncio.wait([task], timeout=1.0))[0]:
                alive.append(turn)
                break  # the connection is in use
            assert await ask(client, "PING"), "the client is usable"
    assert alive == []


async def test_a_timeout_ends_what_talks_to_redis(redis_url: str, prefix: str) -> None:
    async with connect(redis_url, timeout_s=5.0, client_name="test") as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await _run_pipelines(client, prefix)
