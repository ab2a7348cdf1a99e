"""Keys of maps expire on real nodes: once, in time, and at no cost while nothing is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from roomcast.brokers.interface import Read
from roomcast.model.maps import Change, MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace, Namespaces
from roomcast.model.publications import Kind, Publication
from roomcast.node.node import Node
from tests.support.live_nodes import Watcher, live_node

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

TTL_S = 0.3


def _map(mode: MapMode, key_ttl_s: float) -> Namespace:
    return Namespace(type=ChannelType.MAP, map=MapOptions(mode=mode, key_ttl_s=key_ttl_s))


NAMESPACES = Namespaces(
    {
        "brief": _map(MapMode.EPHEMERAL, TTL_S),
        "kept": _map(MapMode.RECOVERABLE, TTL_S),
        "half": _map(MapMode.EPHEMERAL, 0.5),
        "long": _map(MapMode.EPHEMERAL, 60),
    }
)


@pytest.fixture
async def nodes(redis_url: str, prefix: str) -> AsyncIterator[tuple[Node, Node]]:
    async with (
        live_node(redis_url, prefix, "n1", NAMESPACES) as first,
        live_node(redis_url, prefix, "n2", NAMESPACES) as second,
    ):
        yield first, second


async def put(node: Node, channel: str, *keys: str) -> None:
    for key in keys:
        await node.maps.write(Publication(channel, b"1", Kind.JSON, change=Change(key)))


async def sweeps(client: Redis) -> int:
    """Return how often the script of expiry has run on this server: it alone asks for the first deadline."""
    return int((await client.info("commandstats")).get("cmdstat_zrange", {"calls": 0})["calls"])


@pytest.mark.parametrize("namespace", ["brief", "kept"])
async def test_each_key_is_removed_once_and_soon_for_the_subscribers_of_all_nodes(
    nodes: tuple[Node, Node], namespace: str
) -> None:
    channel = f"{namespace}:a"
    watchers = [await Watcher.of(node, channel) for node in nodes]
    await put(nodes[0], channel, "ada")
    began_s = time.monotonic()
    for watcher in watchers:
        await watcher.until("ada", "-ada")
    assert TTL_S - 0.05 < time.monotonic() - began_s < TTL_S + 2

    await put(nodes[1], channel, "bob")
    for watcher in watchers:
        await watcher.until("ada", "-ada", "bob", "-bob")
        assert [each.position.offset for each in watcher.publications if each.position] == [1, 2, 3, 4]
    if namespace == "kept":
        (history,) = await nodes[0].broker.read([Read(channel, NAMESPACES.of(channel), limit=10)])
        assert not isinstance(history, Exception)
        changes = [publication.change for publication in history.publications]
        assert [(change.key, change.is_removed) for change in changes if change is not None] == [
            ("ada", False),
            ("ada", True),
            ("bob", False),
            ("bob", True),
        ]


async def test_no_command_is_sent_while_nothing_can_be_due(nodes: tuple[Node, Node], client: Redis) -> None:
    for number in range(20):
        await Watcher.of(nodes[0], f"brief:{number}")
        watcher = await Watcher.of(nodes[1], f"long:{number}")
        await put(nodes[0], f"long:{number}", "ada")
        await watcher.until("ada")
    await asyncio.sleep(2.5 * TTL_S)  # the first calls, and one for what was written before they subscribed
    before = await sweeps(client)
    await asyncio.sleep(2 * TTL_S)

    assert await sweeps(client) == before


async def test_keys_that_are_refreshed_cost_few_commands_and_expire_at_last(
    nodes: tuple[Node, Node], client: Redis
) -> None:
    watcher = await Watcher.of(nodes[0], "half:a")
    before, began_s = await sweeps(client), time.monotonic()
    for _ in range(25):
        await put(nodes[0], "half:a", "ada", "bob")
        await asyncio.sleep(0.04)
    count, took_s = await sweeps(client) - before, time.monotonic() - began_s
    await watcher.until(*["ada", "bob"] * 25, "-ada", "-bob")

    assert count <= took_s / 0.25 + 1, "there are many where one spins after the first deadline"


async def test_the_keys_of_a_node_that_was_killed_expire_on_another_one(redis_url: str, prefix: str) -> None:
    async with live_node(redis_url, prefix, "n1", NAMESPACES) as killed:
        await Watcher.of(killed, "brief:a")
        await put(killed, "brief:a", "ada")
    async with live_node(redis_url, prefix, "n2", NAMESPACES) as node:
        watcher = await Watcher.of(node, "brief:a")
        await watcher.until("-ada")


async def test_a_thousand_keys_that_expire_together_are_removed_together(nodes: tuple[Node, Node]) -> None:
    keys = [f"k{number:03}" for number in range(1000)]
    watchers = [await Watcher.of(node, "brief:a") for node in nodes]
    await asyncio.gather(*[put(nodes[0], "brief:a", key) for key in keys])
    began_s = time.monotonic()
    for watcher in watchers:
        await watcher.until_count(2000)

    assert time.monotonic() - began_s < TTL_S + 2
    for watcher in watchers:
        assert sorted(change for change in watcher.changes() if change[0] == "-") == [f"-{key}" for key in keys]
