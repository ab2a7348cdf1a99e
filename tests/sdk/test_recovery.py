"""Clients whose node was killed receive everything, once, in order."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.sdk import Client
from tests.sdk.service import Service
from tests.support.balancer import Balancer
from tests.support.processes import Cluster
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
async def test_clients_of_a_node_that_is_gone_go_on_elsewhere_and_miss_nothing(
    clients: list[Client],
    cluster: Cluster,
    balancer: Balancer,
    service: Service,
    *,
    prefix: str,
    number: signal.Signals,
) -> None:
    """By a subscription of the client's, one of its token's, and one of its user's."""
    killed, survivor = cluster.nodes
    shared = f"room:{prefix}"
    users = {client.name: f"{prefix}{client.name}".replace(":", "-") for client in clients}
    channels = {client.name: (shared, f"notify:{prefix}", f"user:#{users[client.name]}") for client in clients}
    balancer.ports, service.url = [killed.port], survivor.http("")
    for client in clients:
        await client.connect(tokens=[token(users[client.name], subs={f"notify:{prefix}": {}})])
        await client.subscribe(shared, recoverable=True)
    all_channels = sorted({channel for each in channels.values() for channel in each})

    async def publish_all(*numbers: int) -> None:
        for each in numbers:
            await asyncio.gather(*(service.publish(channel, each) for channel in all_channels))

    await publish_all(0, 1, 2)
    for client in clients:
        for channel in channels[client.name]:
            assert await client.published(channel, 3) == [0, 1, 2]
    balancer.ports = [survivor.port]
    killed.kill(number)
    await publish_all(3, 4, 5, 6)

    for client in clients:
        await client.heard("connected", 2)
        if number is signal.SIGTERM:
            await client.heard("connecting", code=3001)
        for channel in channels[client.name]:
            assert await client.published(channel, 7) == list(range(7))
            again = await client.heard("subscribed", 2, channel=channel)
            assert (again["wasRecovering"], again["recovered"]) == (True, True)
    await publish_all(7)
    for client in clients:
        for channel in channels[client.name]:
            assert await client.published(channel, 8) == list(range(8))
    cluster.nodes.remove(killed)
    await asyncio.to_thread(cluster.start_node)


async def test_who_missed_more_than_is_kept_is_told_so(clients: list[Client], service: Service, prefix: str) -> None:
    channel = f"news:{prefix}"
    for client in clients:
        await client.connect()
        await client.subscribe(channel, recoverable=True)
        await client.perform("disconnect")
    for number in range(21):
        await service.publish(channel, number)

    for client in clients:
        await client.perform("connect")
        again = await client.heard("subscribed", 2, channel=channel)

        assert (again["wasRecovering"], again["recovered"]) == (True, False)
        assert again["streamPosition"]["offset"] == 21
        assert await client.events("publication") == []


@pytest.mark.parametrize("options", [{}, {"delta": "fossil"}], ids=["whole", "differences"])
async def test_what_is_too_much_for_one_reply_comes_all_the_same(
    clients: list[Client], service: Service, prefix: str, options: dict[str, Any]
) -> None:
    channel = f"news:{prefix}"
    for client in clients:
        await client.connect()
        await client.subscribe(channel, recoverable=True, **options)
        await client.perform("disconnect")
    published = [f"{number} of {'x' * 10_000}" for number in range(20)]
    for data in published:
        await service.publish(channel, data)

    for client in clients:
        await client.perform("connect")
        assert (await client.heard("subscribed", 2, channel=channel))["recovered"]
        assert await client.published(channel, 20) == published
    await service.publish(channel, "x" * 10_000)
    for client in clients:
        assert (await client.published(channel, 21))[-1] == "x" * 10_000


async def test_where_the_newest_is_enough_it_alone_is_recovered(
    clients: list[Client], service: Service, prefix: str
) -> None:
    channel = f"score:{prefix}"
    await service.publish(channel, "1:0")
    for client in clients:
        await client.connect()
        await client.subscribe(channel, recoverable=True)
        await client.perform("disconnect")
    for score in ("1:1", "2:1"):
        await service.publish(channel, score)

    for client in clients:
        await client.perform("connect")
        again = await client.heard("subscribed", 2, channel=channel)

        assert again["recovered"] is True
        assert await client.published(channel, 1) == ["2:1"]


async def test_a_hundred_subscriptions_at_once_are_all_made(clients: list[Client], prefix: str) -> None:
    """Before it is connected an SDK gathers them, and sends them in one frame, or request."""
    for client in clients:
        await client.open()
        for number in range(100):
            await client.perform("subscribe", channel=f"room:{prefix}{number}", options={"recoverable": True})
        await client.perform("connect")

    for client in clients:
        await client.heard("subscribed", 100)


async def test_clients_are_told_that_a_history_was_lost_and_hear_what_follows(
    clients: list[Client], cluster: Cluster, service: Service, client: Redis, prefix: str
) -> None:
    """By a subscription of the client's, and by one of its token's."""
    own, of_token = f"room:{prefix}", f"notify:{prefix}"
    for each in clients:
        await each.connect(tokens=[token("ada", channels=[of_token])])
        await each.subscribe(own, recoverable=True)
    for channel in (own, of_token):
        await service.publish(channel, "before")
    for each in clients:
        for channel in (own, of_token):
            assert await each.published(channel, 1) == ["before"]

    for channel in (own, of_token):
        key = f"{{{cluster.prefix}{channel}}}"
        assert await client.delete(f"{key}:meta", f"{key}:stream") == 2
        await service.publish(channel, "after")

    for each in clients:
        for channel in (own, of_token):
            await each.heard("subscribed", 2, channel=channel)
            again = (await each.events("subscribed", channel=channel))[1]
            assert (again["wasRecovering"], again["recovered"]) == (True, False)
        await each.heard("connecting", code=3010)
    for channel in (own, of_token):
        await service.publish(channel, "later")
    for each in clients:
        for channel in (own, of_token):
            await each.heard("publication", channel=channel, data="later")


async def test_who_keeps_its_own_state_is_asked_for_another_where_it_cannot_be_recovered(
    clients: list[Client], service: Service, prefix: str
) -> None:
    """With 112: SDKs with `getState` want an error instead of a subscription that starts at the present."""
    channel = f"room:{prefix}"
    for number in range(4):
        await service.publish(channel, number)
    for client in clients:
        await client.connect()
        epoch = (await client.perform("history", channel=channel, options={}))["epoch"]
        states = [{"offset": 2, "epoch": "gone"}, {"offset": 2, "epoch": epoch}]

        await client.subscribe(channel, states=states, recoverable=True)

        assert await client.published(channel, 2) == [2, 3]
