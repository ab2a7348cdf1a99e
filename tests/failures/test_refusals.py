"""Redis answers, and refuses: a demoted primary, a full memory or disk, a missing permission or command."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from roomcast.tasks import end
from tests.chaos.proxy import Proxy
from tests.support.command_line import roomcast
from tests.support.ports import HOST, free_ports
from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.redis_servers import DURABLE, Server
from tests.support.redis_shapes import quick_cluster
from tests.support.refusals import REFUSALS, allow, fill_memory, forbid, free_memory

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

# What is promised for a failover behind one address.
FAILOVER_S = 10.0
OUTAGE_S = 3.0

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers, which end with the test. Args: their options."""
    servers: list[Server] = []

    def start(**options: str) -> Server:
        given = {"save": '""', "repl-diskless-sync-delay": "0"} | {
            name.replace("_", "-"): value for name, value in options.items()
        }
        servers.append(Server(tmp_path / f"server-{len(servers)}", free_ports(1)[0], given))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def url_of(port: int, user: str = "") -> str:
    return f"redis://{user}{HOST}:{port}/0"


async def publish(node: NodeProcess, data: object = 1, channel: str = "room:a") -> dict[str, Any]:
    async with http_client() as http:
        body = {"channel": channel, "data": data}
        answer = await http.post(node.http("/api/publish"), json=body, headers={"X-API-Key": API_KEY})
        return dict(answer.json())


async def readiness(node: NodeProcess) -> str:
    """Return the status and body of /readyz."""
    async with http_client() as http:
        answer = await http.get(node.http("/readyz"))
        return f"{answer.status_code} {answer.text}"


async def until_ready(node: NodeProcess, *parts: str, within_s: float = 5.0) -> None:
    """Wait until /readyz has some parts."""

    async def has_parts() -> bool:
        found = await readiness(node)
        return all(part in found for part in parts)

    await eventually(has_parts, within_s=within_s)


async def metric(node: NodeProcess, name: str) -> float:
    async with http_client() as http:
        lines = (await http.get(node.http("/metrics"))).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


@asynccontextmanager
async def one_address(start_server: StartServer) -> AsyncIterator[tuple[Proxy, Server, Server]]:
    """Give a proxy to a primary, the primary, and its replica."""
    primary = start_server()
    replica = start_server(replicaof=f"{HOST} {primary.port}")

    async def is_in_sync() -> bool:
        return bool((await replica.command("INFO", "replication"))["master_link_status"] == "up")

    await eventually(is_in_sync)
    async with Proxy(primary.port) as proxy:
        yield proxy, primary, replica


@pytest.mark.parametrize("has_history", [True, False], ids=["with history", "without"])
async def test_a_demoted_primary_behind_one_address_is_left(
    has_history: bool, start_server: StartServer, tmp_path: Path
) -> None:
    channels = tmp_path / "channels.toml"
    channels.write_text("[room]\nhistory_size = 300\nhistory_ttl_s = 300\n" if has_history else "[room]\n")
    async with one_address(start_server) as (proxy, old, new):
        with Cluster(url_of(proxy.port), "t:", namespaces_file=str(channels)) as cluster:
            node = await asyncio.to_thread(cluster.start_node)  # the proxy runs in this loop
            async with node.connect("/ws/rooms/a") as ada:
                assert "result" in await publish(node, "before")
                assert await receive(ada) == '"before"'

                await new.command("REPLICAOF", "NO", "ONE")
                await old.command("REPLICAOF", HOST, new.port)
                await until_ready(node, "503", "READONLY")
                if has_history:
                    error = (await publish(node, "meanwhile"))["error"]
                    assert (error["code"], "READONLY" in error["detail"]) == (100, True)
                proxy.lead_to(new.port)

                await until_ready(node, "200", within_s=FAILOVER_S)
                assert "result" in await publish(node, "after")
                assert await receive(ada) == '"after"'
                assert await _listens_to(new, "t:room:a")
    refused = [line for line in node.log if line["event"] == "broker.refused"]
    assert [line["level"] for line in refused] == ["warning"]


async def _listens_to(server: Server, topic: str) -> bool:
    async def has_subscriber() -> bool:
        return bool((await server.command("PUBSUB", "NUMSUB", topic))[0][1])

    return await eventually(has_subscriber)


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refusing_redis_makes_a_node_unready_until_it_accepts(kind: str, start_server: StartServer) -> None:
    server = start_server()
    refuse, accept = REFUSALS[kind]
    with Cluster(url_of(server.port), "t:") as cluster:
        node = cluster.start_node()
        await refuse(server)
        await publish(node)
        await until_ready(node, "503", kind)
        assert await metric(node, "roomcast_ready") == 0
        assert await metric(node, f'roomcast_redis_refusals_total{{kind="{kind}"}}') > 0
        for _ in range(3):
            error = (await publish(node))["error"]
            assert (error["code"], error["temporary"]) == (100, True)
            assert kind in error["detail"]
            assert str(server.port) not in error["detail"]

        await accept(server)

        await until_ready(node, "200")
        assert await metric(node, "roomcast_ready") == 1
        assert "result" in await publish(node)
    assert [line["kind"] for line in node.log if line["event"] == "broker.refused"] == [kind]
    assert [line["level"] for line in node.log if line["event"] == "broker.accepted"] == ["info"]


async def test_a_node_without_traffic_notices_a_full_memory(start_server: StartServer) -> None:
    server = start_server()
    with Cluster(url_of(server.port), "t:") as cluster:
        node = cluster.start_node()
        await fill_memory(server)
        await until_ready(node, "503", "OOM")
        await free_memory(server)
        await until_ready(node, "200")


async def test_a_redis_without_a_needed_command_is_named(start_server: StartServer) -> None:
    server = start_server(rename_command='EVALSHA ""')
    with Cluster(url_of(server.port), "t:") as cluster:
        node = cluster.start_node()
        await publish(node)
        await until_ready(node, "503", "UNKNOWN_COMMAND")
        assert "UNKNOWN_COMMAND" in (await publish(node))["error"]["detail"]


async def test_a_refusing_shard_of_a_cluster_is_found_and_heals(tmp_path: Path) -> None:
    with quick_cluster(tmp_path / "cluster") as shape, Cluster(shape.url, "t:") as cluster:
        node = cluster.start_node()
        for server in shape.servers[:2]:
            await forbid(server, "evalsha")
            for number in range(30):
                await publish(node, channel=f"room:{number}")
            await until_ready(node, "503", "NOPERM")
            await allow(server, "evalsha")
            await until_ready(node, "200")


@pytest.mark.parametrize("is_renamed", [True, False], ids=["renamed", "forbidden"])
async def test_a_redis_without_info_and_client_is_used(is_renamed: bool, start_server: StartServer) -> None:
    server = start_server(**({"rename_command": 'INFO ""\nrename-command CLIENT ""'} if is_renamed else {}))
    if not is_renamed:
        await server.command("ACL", "SETUSER", "default", "-info", "-client")
    url = url_of(server.port)
    checked = roomcast("check", redis_url=url, insecure="true")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "of unknown version: it refuses INFO" in checked.stdout.splitlines()[-1]
    with Cluster(url, "t:") as cluster:
        node = cluster.start_node()
        assert "result" in await publish(node)
        assert (await readiness(node)).startswith("200")
        assert await metric(node, "roomcast_redis_refusals_total") == 0


async def test_a_channel_that_redis_forbids_leaves_the_node_ready(start_server: StartServer) -> None:
    server = start_server()
    keys = ("~t:*", "~{t:node*", "~{t:room:a}*")
    await server.command("ACL", "SETUSER", "node", "on", ">pw", *keys, "&*", "+@all")
    with Cluster(url_of(server.port, "node:pw@"), "t:") as cluster:
        node = cluster.start_node()
        assert "NOPERM" in (await publish(node, channel="room:forbidden"))["error"]["detail"]
        assert "result" in await publish(node, channel="room:a")
        assert (await readiness(node)).startswith("200")
        assert await metric(node, 'roomcast_redis_refusals_total{kind="NOPERM"}') > 0


async def test_a_restart_of_redis_under_load_costs_a_connected_client_nothing(start_server: StartServer) -> None:
    server = start_server(**{name.replace("-", "_"): value for name, value in DURABLE.items()})
    with Cluster(url_of(server.port), "t:") as cluster:
        node = cluster.start_node()
        async with node.connect("/ws/rooms/a") as ada, http_client() as http:
            taken: list[int] = []
            heard: set[int] = set()
            sending = asyncio.create_task(_send_forever(http, node, taken))
            hearing = asyncio.create_task(_hear_forever(ada, heard))  # unread data would hide the node's pings
            await _until_longer(taken, 100)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(OUTAGE_S)
            count = len(taken)
            await asyncio.to_thread(server.start)
            await _until_longer(taken, count + 900)
            await end(sending)

            async def has_heard_all() -> bool:
                return heard.issuperset(taken)

            await eventually(has_heard_all)
            await end(hearing)
    assert sum(line["event"] == "broker.disconnected" and line["level"] == "warning" for line in node.log) == 1


async def _send_forever(http: httpx.AsyncClient, node: NodeProcess, taken: list[int]) -> None:
    """Publish 300 numbers a second, each again until it is taken."""

    async def send(number: int) -> None:
        body = {"channel": "room:a", "data": number, "idempotency_key": str(number)}

        async def is_taken() -> bool:
            answer = await http.post(node.http("/api/publish"), json=body, headers={"X-API-Key": API_KEY})
            return "result" in answer.json()

        await eventually(is_taken)
        taken.append(number)

    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            group.create_task(send(number))
            await asyncio.sleep(1 / 300)


async def _hear_forever(socket: ClientConnection, heard: set[int]) -> None:
    async for frame in socket:
        heard.add(int(frame))


async def _until_longer(taken: list[int], count: int) -> None:
    async def is_longer() -> bool:
        return len(taken) > count

    await eventually(is_longer, within_s=30.0)
