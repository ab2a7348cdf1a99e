"""Commands of one client take effect in their order, and types of subscriptions that the server does not have."""

from __future__ import annotations

import pytest

from tests.support.processes import Cluster
from tests.support.speaker import connected

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_history_has_the_publications_of_the_same_frame_before_it(lasting_cluster: Cluster, room: str) -> None:
    channel = f"room:{room}"
    async with connected(lasting_cluster.nodes[0]) as client:
        await client.ask("subscribe", channel=channel)
        for number in range(30):
            await client.send(
                {"id": 1000 + number, "publish": {"channel": channel, "data": number}},
                {"id": 2000 + number, "history": {"channel": channel, "limit": 1, "reverse": True}},
            )
            found = await client.reply(2000 + number, "history")
            assert [each["data"] for each in found["publications"]] == [number]


async def test_a_subscription_starts_after_the_publications_before_it(lasting_cluster: Cluster, room: str) -> None:
    channel = f"room:{room}"
    async with connected(lasting_cluster.nodes[0]) as client:
        await client.send(
            *[{"id": 1000 + number, "publish": {"channel": channel, "data": number}} for number in range(20)],
            {"id": 2000, "subscribe": {"channel": channel}},
        )
        assert (await client.reply(2000, "subscribe"))["offset"] == 20


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 99, -1])
async def test_another_type_of_subscription_gets_103(lasting_cluster: Cluster, room: str, kind: int) -> None:
    async with connected(lasting_cluster.nodes[0]) as client:
        refused = await client.ask("subscribe", channel=f"room:{room}", type=kind)
        assert refused["error"]["code"] == 103
        assert "error" not in await client.ask("subscribe", channel=f"room:{room}", type=0)
