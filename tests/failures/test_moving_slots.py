"""A cluster whose slots move while publications with several keys are made: they wait, in order, and delay no other."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from roomcast.brokers.interface import ALWAYS, Once, Read
from roomcast.brokers.map_interface import MapRead, Written
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.maps import Change
from roomcast.model.namespaces import DEFAULTS, Namespace
from roomcast.model.publications import History, Publication
from roomcast.redis_access.client import connect
from roomcast.tasks import end
from tests.support.brokers import RecordingSink
from tests.support.ingest import add, broker_of, dead, until_done, working
from tests.support.redis_cluster import Cluster
from tests.support.redis_shapes import quick_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
KEPT = Namespace(history_size=10_000, history_ttl_s=600.0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with quick_cluster(tmp_path_factory.mktemp("redis") / "cluster") as shape:
        yield shape


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[RedisBroker]:
    async with connect(cluster.url, timeout_s=5.0, client_name="test") as client:
        broker = RedisBroker(client, prefix="t:", node_id="n", max_message_bytes=1000)
        task = asyncio.create_task(broker.run(RecordingSink()))
        try:
            yield broker
        finally:
            await end(task)


async def publish(broker: RedisBroker, channel: str, number: int, *, is_keyed: bool) -> float:
    """Publish a number; return how long it took."""
    started_s = time.monotonic()
    once = Once(key=f"key-{number}") if is_keyed else ALWAYS
    await broker.publish(Publication(channel, b"%d" % number), KEPT, once=once)
    return time.monotonic() - started_s


async def numbers(broker: RedisBroker, channel: str) -> list[int]:
    (history,) = await broker.read([Read(channel, KEPT, limit=10_000)])
    assert isinstance(history, History)
    return [int(publication.data) for publication in history.publications]


@pytest.mark.parametrize("kinds", ["keyed", "both"])
async def test_publications_wait_until_their_slot_has_moved(cluster: Cluster, kinds: str) -> None:
    moving = f"room:{kinds}"
    slot = key_slot(f"t:{moving}".encode())
    source = cluster.shard_of(slot)[0]
    names = (f"room:other-{number}" for number in itertools.count())
    other = next(name for name in names if cluster.shard_of(key_slot(f"t:{name}".encode()))[0] is source)
    async with running(cluster) as broker:
        await publish(broker, moving, 0, is_keyed=True)
        migration = asyncio.create_task(asyncio.to_thread(cluster.migrate_slot, slot, pause_s=0.5))
        waiting: list[asyncio.Task[float]] = []
        others: list[float] = []
        for number in itertools.count(1):
            is_keyed = kinds == "keyed" or number % 2 == 1
            waiting.append(asyncio.create_task(publish(broker, moving, number, is_keyed=is_keyed)))
            others.append(await publish(broker, other, number, is_keyed=True))
            await asyncio.sleep(0.005)  # while the slot moves
            if migration.done():
                break
        await migration
        took_s = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        heard = await numbers(broker, moving)

        assert max(took_s) > 1.0, "the fault was not met"
        assert max(others) < 0.5
        assert sorted(heard) == list(range(number + 1))
        keyed = [each for each in heard if kinds == "keyed" or each % 2 == 1 or each == 0]
        assert keyed == sorted(keyed)
        assert [each for each in heard if each not in keyed] == sorted({*heard} - {*keyed})
        assert await numbers(broker, other) == list(range(1, number + 1))


async def test_ingest_entries_wait_until_their_slot_has_moved(cluster: Cluster) -> None:
    prefix, moving = "i:", "room:moving"
    slot = key_slot(f"{prefix}{moving}".encode())
    async with connect(cluster.url, timeout_s=5.0, client_name="test") as client, working(client, prefix):
        await add(client, prefix, channel=moving, data=0)
        await until_done(client, prefix)
        migration = asyncio.create_task(asyncio.to_thread(cluster.migrate_slot, slot, pause_s=0.5))
        for number in itertools.count(1):
            await add(client, prefix, channel=moving, data=number)
            await add(client, prefix, channel="room:a", data=number)
            await asyncio.sleep(0.02)  # while the slot moves
            if migration.done():
                break
        await migration
        await until_done(client, prefix)

        broker = broker_of(client, prefix)
        for channel, first in ((moving, 0), ("room:a", 1)):
            assert await numbers(broker, channel) == list(range(first, number + 1))[-300:]
        assert await dead(client, prefix) == []


@pytest.mark.parametrize("name", ["state", "cursors"])
async def test_writes_of_a_map_wait_until_its_slot_has_moved(cluster: Cluster, name: str) -> None:
    channel, kind = f"{name}:moving", DEFAULTS[name]
    async with running(cluster) as broker:

        async def write(number: int) -> Written:
            return await broker.maps.write(Publication(channel, b"%d" % number, change=Change(f"k{number % 3}")), kind)

        await write(0)
        slot = key_slot(f"t:{channel}".encode())
        migration = asyncio.create_task(asyncio.to_thread(cluster.migrate_slot, slot, pause_s=0.3))
        waiting: list[asyncio.Task[Written]] = []
        for number in itertools.count(1):
            waiting.append(asyncio.create_task(write(number)))
            await asyncio.sleep(0.01)  # while the slot moves
            if migration.done():
                break
        await migration
        written = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        page = await broker.maps.read(MapRead(channel, kind))

    offsets = [each.position.offset for each in written]
    assert offsets == sorted(set(offsets))
    assert len({each.position.epoch for each in written}) == 1
    assert sorted(int(entry.data) for entry in page.entries) == list(range(number - 2, number + 1))
