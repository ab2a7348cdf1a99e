"""What clients have received after their node was killed: everything, once, in its order."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.balancer import Balancer
from tests.cluster import Cluster
from tests.sdk import Client
from tests.sdk.service import Service, token

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
