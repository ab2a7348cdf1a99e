"""The long poll, on real nodes."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from tests.support.processes import Cluster, NodeProcess, eventually, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture
def cluster(lasting_cluster: Cluster) -> Cluster:
    return lasting_cluster


class Room:
    """A client that polls: each time any node, from where it was."""

    def __init__(self, cluster: Cluster, http: httpx.AsyncClient, name: str) -> None:
        self._cluster = cluster
        self._http = http
        self._name = name
        self._count = 0
        self.since: dict[str, str | int] = {}
        self.heard: list[object] = []

    async def poll(self, *, timeout_s: float = 5.0) -> dict[str, object]:
        node = self._cluster.nodes[self._count % len(self._cluster.nodes)]
        self._count += 1
        answer = await self._http.get(
            node.http(f"/poll/rooms/{self._name}"), params={**self.since, "timeout": timeout_s}, timeout=20
        )
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        self.since = {"since": int(str(told["offset"])), "epoch": str(told["epoch"])}
        self.heard += [each.get("data", each.get("text")) for each in told["publications"]]  # type: ignore[attr-defined]
        return told


async def publish(node: NodeProcess, room: str, *messages: str) -> None:
    async with node.connect(f"/ws/rooms/{room}") as socket:
        for message in messages:
            await socket.send(message)
            await socket.recv()


async def test_a_poll_goes_on_where_the_last_one_ended_on_whatever_node(cluster: Cluster, room: str) -> None:
    async with http_client() as http:
        client = Room(cluster, http, room)
        first = await client.poll()
        await publish(cluster.nodes[0], room, '{"n":\n1}', "two")
        second = await client.poll()
        await publish(cluster.nodes[1], room, "3")
        await client.poll()

    assert ("recovered" in first, first["offset"], first["publications"]) == (False, 0, [])
    assert (second["recovered"], second["offset"]) == (True, 2)
    assert client.heard == [{"n": 1}, "two", 3]


async def test_a_poll_waits_for_what_comes_and_for_no_longer_than_it_wants_to(cluster: Cluster, room: str) -> None:
    async with http_client() as http:
        client = Room(cluster, http, room)
        await client.poll()
        waiting = asyncio.create_task(client.poll(timeout_s=15.0))
        await eventually(lambda: _polls(http, cluster))
        await publish(cluster.nodes[0], room, "1")
        await asyncio.wait_for(waiting, 5.0)
        started_s = time.monotonic()
        empty = await client.poll(timeout_s=0.2)

    assert client.heard == [1]
    assert (empty["recovered"], empty["publications"]) == (True, [])
    assert time.monotonic() - started_s >= 0.2


async def test_who_polls_from_a_position_that_is_gone_is_told_at_once(cluster: Cluster, room: str) -> None:
    async with http_client() as http:
        client = Room(cluster, http, room)
        await publish(cluster.nodes[0], room, "1")
        client.since = {"since": 1, "epoch": "0123abcd"}
        told = await client.poll(timeout_s=15.0)

    assert (told["recovered"], told["offset"], told["publications"]) == (False, 1, [])


async def test_a_client_that_goes_while_it_waits_leaves_nothing_behind(cluster: Cluster, room: str) -> None:
    async with http_client() as http:
        client = Room(cluster, http, room)
        await client.poll()
        waiting = asyncio.create_task(client.poll(timeout_s=60.0))
        await eventually(lambda: _polls(http, cluster))
        waiting.cancel()

        async def is_gone() -> bool:
            return not await _polls(http, cluster)

        await eventually(is_gone)


async def test_a_poll_that_is_none_is_refused(cluster: Cluster) -> None:
    async with http_client() as http:
        for query in ("timeout=x", "timeout=61", "timeout=nan", "since=1", "since=-1&epoch=a"):
            answer = await http.get(cluster.nodes[0].http(f"/poll/rooms/a?{query}"))

            assert (answer.status_code, answer.json()["error"]["code"]) == (400, 107), query


async def _polls(http: httpx.AsyncClient, cluster: Cluster) -> int:
    """Return how many polls wait, on all nodes."""
    count = 0.0
    for node in cluster.nodes:
        for line in (await http.get(node.http("/metrics"))).text.splitlines():
            if line.startswith('roomcast_connections{transport="poll"}'):
                count += float(line.split()[-1])
    return int(count)


async def test_nobody_can_publish_what_ends_the_polls_of_a_room(cluster: Cluster, room: str) -> None:
    """JSON as deep as can be read is deeper still inside of an answer."""
    deep = "[" * 1024 + "]" * 1024
    async with http_client() as http:
        client = Room(cluster, http, room)
        await client.poll()
        await publish(cluster.nodes[0], room, deep, "[1]")

        answer = await http.get(cluster.nodes[0].http(f"/poll/rooms/{room}"), params=client.since)

    assert answer.status_code == 200
    assert answer.text.startswith('{"offset":2,"epoch":"')
    assert deep in answer.text
