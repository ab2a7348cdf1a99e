"""Subscriptions and delivery: one contract for every shape of Redis, from the fake to a cluster."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from roomcast.brokers.pubsub_listener import Listener, longest_backoff_s
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.brokers.sharded_pubsub_listener import ShardedListener
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.publications import (
    Kind,
    Publication,
)
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.pipeline import run_pipeline
from tests.support.brokers import publish, running
from tests.support.processes import DEADLINE_S, eventually

pytestmark = pytest.mark.anyio


async def test_what_is_published_after_the_subscription_arrives_as_it_was_and_in_order(
    server: Client, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        sent = [
            Publication("room:a", b"text"),
            Publication("room:a", b"\x00\xff", Kind.BINARY),
            Publication("room:a", "größe".encode()),
            *[Publication("room:a", str(number).encode(), Kind.JSON) for number in range(200)],
        ]
        for publication in sent:
            assert await publish(broker, publication) == 1
        await sink.until_texts([publication.data for publication in sent])

    assert sink.publications == sent


async def test_many_publishing_at_once_lose_nothing(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        texts = [str(number).encode() for number in range(2500)]

        async with asyncio.TaskGroup() as tasks:
            for text in texts:
                tasks.create_task(publish(broker, Publication("room:a", text)))

        await sink.until_texts(texts)


async def test_json_of_any_other_service_arrives_and_the_rest_is_said_to_be_malformed(
    server: Client, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        for message in (b"not json", b'{"text":"hi"}', b"\x01?\n", b'"' + b"x" * 1000 + b'"', b"17"):
            verb = "SPUBLISH" if isinstance(server, RedisCluster) else "PUBLISH"
            await run_pipeline(server, [(verb, f"{prefix}room:a", message)], ())
        await sink.until_texts([b'{"text":"hi"}', b"17"])

    assert [channel for channel, _ in sink.malformed] == ["room:a"] * 3


async def test_channels_without_a_subscription_do_not_arrive(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        await publish(broker, Publication("room:b", b"elsewhere"))
        await publish(broker, Publication("room:a", b"here"))

        await sink.until_texts([b"here"])


async def test_a_channel_nobody_wants_is_unsubscribed_after_a_while(server: Client, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.01) as (broker, _):
        await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        async def is_unsubscribed() -> bool:
            return await publish(broker, Publication("room:a", b"x")) == 0

        await eventually(is_unsubscribed)


async def test_a_client_that_only_reloads_its_page_misses_nothing_of_the_channel(server: Client, prefix: str) -> None:
    async with running(server, prefix, linger_s=60) as (broker, sink):
        await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        assert await publish(broker, Publication("room:a", b"between")) == 1
        await broker.subscribe("room:a")
        await publish(broker, Publication("room:a", b"after"))

        await sink.until_texts([b"between", b"after"])


async def test_coming_back_right_after_the_unsubscription_is_confirmed_anew(server: Client, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.0) as (broker, sink):
        for number in range(20):
            await broker.subscribe("room:a")
            assert await publish(broker, Publication("room:a", str(number).encode())) == 1
            broker.unsubscribe("room:a")
            await asyncio.sleep(0)  # lets the unsubscription go out, or not: both must work

        await sink.until_texts([str(number).encode() for number in range(20)])


async def test_a_channel_that_leaves_between_two_connections_does_no_harm(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix, linger_s=0.0) as (broker, sink):
        for attempt in range(10):
            channels = [f"room:{attempt}-{number}" for number in range(20)]
            async with asyncio.TaskGroup() as tasks:
                for channel in channels:
                    tasks.create_task(broker.subscribe(channel))
            await valkey.client_kill_filter(_type="pubsub")

            async with asyncio.timeout(DEADLINE_S):
                while broker.reason_not_ready() is None:  # noqa: ASYNC110  (each turn of the loop: it is back in no time)
                    await asyncio.sleep(0)
            for channel in channels:
                broker.unsubscribe(channel)

            async def is_back(wanted: int = attempt + 1) -> bool:
                return sink.connections.count(True) == wanted

            await eventually(is_back)
        await broker.subscribe("room:a")
        assert await publish(broker, Publication("room:a", b"still here")) == 1
        await sink.until_texts([b"still here"])


async def test_leaving_and_coming_back_while_the_server_is_silent_does_no_harm(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix, linger_s=0.0, timeout_s=0.3) as (broker, sink):
        await broker.subscribe("room:a")
        await valkey.client_pause(3000, all=True)
        for _ in range(3):
            broker.unsubscribe("room:a")
            await asyncio.sleep(0.05)  # lets the unsubscription go out before the next subscription
            with pytest.raises(BrokerUnavailable):
                await broker.subscribe("room:a")
        broker.unsubscribe("room:a")

        async def is_confirmed() -> bool:
            try:
                await broker.subscribe("room:a")
            except BrokerUnavailable:
                return False
            return True

        await eventually(is_confirmed)
        assert await publish(broker, Publication("room:a", b"still here")) == 1
        await sink.until_texts([b"still here"])


async def test_a_forbidden_channel_is_refused_and_touches_no_other(valkey: Redis, prefix: str) -> None:
    rules = ["on", ">pw", "+@all", "~*", "resetchannels", f"&{prefix}room:ok*", f"&{prefix}node:*"]
    await valkey.execute_command("ACL", "SETUSER", "limited", *rules)  # type: ignore[no-untyped-call]  # redis-py
    port = valkey.connection_pool.connection_kwargs["port"]
    url = f"redis://limited:pw@127.0.0.1:{port}/0"
    async with (
        connect(url, timeout_s=5.0, client_name="limited") as limited,
        running(limited, prefix) as (broker, sink),
    ):
        await broker.subscribe("room:ok1")

        async with asyncio.TaskGroup() as tasks:  # together, so that they go out in one command
            allowed = tasks.create_task(broker.subscribe("room:ok2"))
            refused = tasks.create_task(expect_refusal(broker, "room:forbidden"))

        assert allowed.done()
        assert "NOPERM" in refused.result()
        assert "NOPERM" in await expect_refusal(broker, "room:forbidden")
        assert True not in sink.connections
        await publish(broker, Publication("room:ok1", b"1"))
        await publish(broker, Publication("room:ok2", b"2"))
        await sink.until_texts([b"1", b"2"])


async def expect_refusal(broker: RedisBroker, channel: str) -> str:
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.subscribe(channel)
    broker.unsubscribe(channel)
    return caught.value.reason


async def test_nothing_is_left_of_channels_that_nobody_wants(server: Client, prefix: str) -> None:
    async with running(server, prefix, linger_s=0.0) as (broker, _):
        for number in range(30):
            await broker.subscribe(f"room:{number}")
        assert _kept_count(broker) > 0
        for number in range(30):
            broker.unsubscribe(f"room:{number}")

        async def is_empty() -> bool:
            return _kept_count(broker) == 0

        await eventually(is_empty)


def _kept_count(broker: RedisBroker) -> int:
    """Return how much the broker's listeners keep of channels."""
    keepers: list[object] = [broker._listener]
    if isinstance(broker._listener, ShardedListener):
        keepers = [shard.listener for shard in broker._listener._shards.values()]
        own = len(broker._listener._homes) + len(broker._listener._moving)
    else:
        own = 0
    keepers += [listener._channels for listener in keepers if isinstance(listener, Listener)]
    kept = [kept for keeper in keepers for kept in vars(keeper).values()]
    return own + sum(len(collection) for collection in kept if isinstance(collection, dict | set | list | deque))


def test_reconnecting_goes_on_after_any_number_of_failures() -> None:
    assert [longest_backoff_s(attempt) for attempt in (0, 1, 5, 100_000)] == [0.1, 0.2, 0.5, 0.5]


async def test_many_first_subscribers_at_once_are_all_confirmed(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        channels = [f"room:{number % 500}" for number in range(1500)]

        async with asyncio.TaskGroup() as tasks:
            for channel in channels:
                tasks.create_task(broker.subscribe(channel))

        assert await publish(broker, Publication("room:499", b"last")) == 1
        await sink.until_texts([b"last"])


async def test_it_is_ready_once_connected_and_no_gap_is_told_for_the_first_time(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        async def is_ready() -> bool:
            return broker.reason_not_ready() is None

        await eventually(is_ready)

    assert True not in sink.connections
