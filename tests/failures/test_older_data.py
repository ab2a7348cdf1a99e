"""Redis starts again with older data: its losses are announced, and no number is given twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.histories import after, call, publish
from tests.support.ports import HOST, free_ports
from tests.support.processes import Cluster, NodeProcess, receive
from tests.support.redis_servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

Line = dict[str, Any]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis", free_ports(1)[0], {"save": '""'})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cluster(server: Server, prefix: str) -> Iterator[Cluster]:
    with Cluster(f"redis://{HOST}:{server.port}/0", prefix) as cluster:
        yield cluster


async def publish_all(node: NodeProcess, first: int, last: int) -> list[Line]:
    return [await publish(node, "room:a", number) for number in range(first, last + 1)]


async def lines_up_to(socket: ClientConnection, data: object) -> list[Line]:
    """Return what a client receives, up to the publication with this data, without joins and leaves."""
    lines: list[Line] = []
    while not lines or lines[-1].get("data") != data:
        line = json.loads(await receive(socket))
        if not {"join", "leave"} & line.keys():
            lines.append(line)
    return lines


def data(lines: list[Line]) -> list[int]:
    return [line["data"] for line in lines if "data" in line]


def is_notified(lines: list[Line]) -> bool:
    return any(line.get("recovered") is False for line in lines)


def restart(server: Server) -> None:
    server.kill()
    server.start()


async def test_a_node_that_has_seen_what_is_lost_tells_everyone(server: Server, cluster: Cluster) -> None:
    witness = cluster.start_node()
    (start, *_) = await publish_all(witness, 1, 9)
    async with witness.connect(f"/ws/rooms/a?envelope=1&{after(start)}") as connected:
        await lines_up_to(connected, 9)
        server.call("SAVE")
        *_, last = await publish_all(witness, 10, 12)
        await lines_up_to(connected, 12)
        witness.kill(signal.SIGSTOP)  # it learns of the start last
        restart(server)

        other = cluster.start_node()
        await publish_all(other, 20, 25)
        async with other.connect(f"/ws/rooms/a?envelope=1&{after(start)}") as returned:
            found = await lines_up_to(returned, 25)
            witness.kill(signal.SIGCONT)
            lines = await lines_up_to(connected, 25)
            await publish(other, "room:a", 26)
            found += await lines_up_to(returned, 26)
            lines += await lines_up_to(connected, 26)

    assert data(found) == [*range(2, 10), *range(20, 27)]
    assert is_notified(found), "10 to 12 are lost"
    assert data(lines) == [*range(20, 27)]
    assert is_notified(lines)
    assert not [line for line in found + lines if line.get("offset") in range(last["offset"] - 2, last["offset"] + 1)]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_client_that_alone_has_seen_what_is_lost_is_told(server: Server, cluster: Cluster, times: int) -> None:
    former = cluster.start_node()
    *_, kept = await publish_all(former, 1, 9)
    server.call("SAVE")
    *_, before, last = await publish_all(former, 10, 12)
    former.kill()

    for _ in range(times):  # from the same file
        restart(server)
        node = cluster.start_node()
        *_, newest = await publish_all(node, 20, 25)

    async with node.connect(f"/ws/rooms/a?envelope=1&{after(last)}") as socket:
        ahead = json.loads(await receive(socket))
    async with node.connect(f"/ws/rooms/a?envelope=1&{after(before)}") as socket:
        behind = json.loads(await receive(socket))
    async with node.connect(f"/ws/rooms/a?envelope=1&{after(kept)}") as socket:
        lines = await lines_up_to(socket, 25)
    histories = [
        (await call(node, "history", {"channel": "room:a", "limit": 300, "since": since, "reverse": is_reversed}))[1]
        for since in (before, last)
        for is_reversed in (False, True)
    ]

    assert (ahead["recovered"], behind["recovered"]) == (False, False)
    assert [answer.get("error", {}).get("code") for answer in histories] == [112] * 4
    assert newest["epoch"] == kept["epoch"], "who has all that Redis has is not disturbed"
    assert lines[0]["recovered"] is True
    assert data(lines) == [*range(20, 26)]


async def test_a_start_with_all_data_disturbs_nobody(server: Server, cluster: Cluster) -> None:
    node = cluster.start_node()
    (start, *_) = await publish_all(node, 1, 9)
    async with node.connect(f"/ws/rooms/a?envelope=1&{after(start)}") as connected:
        server.call("SAVE")
        restart(server)
        other = cluster.start_node()
        *_, last = await publish_all(other, 10, 15)
        lines = await lines_up_to(connected, 15)
        async with other.connect(f"/ws/rooms/a?envelope=1&{after(start)}") as returned:
            found = await lines_up_to(returned, 15)

    assert data(lines) == data(found) == [*range(2, 16)]
    assert not is_notified(lines + found)
    assert last["epoch"] == start["epoch"]
