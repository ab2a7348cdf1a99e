"""The common features of every SDK, on every transport and encoding; consecutive requests go to different nodes."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.sdk import Client, SdkError
from tests.support.balancer import Balancer
from tests.support.processes import Cluster, eventually
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_clients_on_two_nodes_talk_and_see_each_other(
    pair: tuple[Client, Client], balancer: Balancer, prefix: str
) -> None:
    channel, (ada, bob) = f"room:{prefix}", pair
    await ada.connect(tokens=[token("ada", info={"name": "Ada"})])
    await bob.connect()

    for client in pair:
        assert (await client.subscribe(channel, recoverable=True, joinLeave=True))["recoverable"]
    await ada.heard("join", 2, channel=channel)
    await ada.perform("publish", channel=channel, data={"n": 1, "text": "zwei €"})
    await bob.perform("publish", channel=channel, data=["3", False])

    assert (
        await ada.published(channel, 2) == await bob.published(channel, 2) == [{"n": 1, "text": "zwei €"}, ["3", False]]
    )
    first = (await bob.events("publication", channel=channel))[0]
    assert (first["offset"], first["info"]["user"], first["info"]["connInfo"]) == (1, "ada", {"name": "Ada"})
    ports = balancer.ports_of(f"/connection/{ada.transport}")[-2:]
    assert len(set(ports)) == 2

    present = (await bob.perform("presence", channel=channel))["clients"]
    assert sorted(info.get("user", "") for info in present.values()) == ["", "ada"]
    assert await bob.perform("presenceStats", channel=channel) == {"numClients": 2, "numUsers": 2}
    await bob.perform("disconnect")
    gone = await ada.heard("leave", channel=channel)
    assert gone["info"]["client"] in present


async def test_commands_reach_a_stream_through_the_node_that_does_not_hold_it(
    pair: tuple[Client, Client], balancer: Balancer, prefix: str
) -> None:
    client, _ = pair
    begin = len(balancer.requests)
    await client.connect()
    for number in range(4):
        await client.perform("publish", channel=f"room:{prefix}", data=number)

    (holder,) = balancer.ports_of(f"/connection/{client.transport}", begin)
    elsewhere = [port for port in balancer.ports_of("/emulation", begin) if port != holder]
    assert len(elsewhere) >= 2 if client.transport != "websocket" else not elsewhere


async def test_history_is_read_in_both_directions(pair: tuple[Client, Client], prefix: str) -> None:
    channel, (client, _) = f"room:{prefix}", pair
    await client.connect()
    for n in range(1, 6):
        await client.perform("publish", channel=channel, data=n)

    async def history(**options: object) -> list[int]:
        found = await client.perform("history", channel=channel, options=options)
        assert found["offset"] == 5
        return [publication["data"] for publication in found["publications"]]

    epoch = (await client.perform("history", channel=channel, options={}))["epoch"]
    assert await history() == []
    assert await history(limit=2) == [1, 2]
    assert await history(limit=2, reverse=True) == [5, 4]
    assert await history(limit=-1) == [1, 2, 3, 4, 5]
    assert await history(limit=9, since={"offset": 3, "epoch": epoch}) == [4, 5]
    assert await history(limit=9, since={"offset": 3, "epoch": epoch}, reverse=True) == [2, 1]
    with pytest.raises(SdkError, match="112"):
        await history(limit=9, since={"offset": 3, "epoch": "other"})


async def test_what_is_refused_is_refused_by_number(pair: tuple[Client, Client], prefix: str) -> None:
    client, _ = pair
    await client.connect()

    for call, arguments, code in (
        ("rpc", {"method": "sum", "data": [1, 2]}, 108),
        ("publish", {"channel": f"notify:{prefix}", "data": 1}, 103),
        ("publish", {"channel": "nowhere:1", "data": 1}, 102),
        ("history", {"channel": f"user:#{prefix}", "options": {"limit": 1}}, 103),
    ):
        with pytest.raises(SdkError) as caught:
            await client.perform(call, **arguments)
        assert caught.value.code == code, call


async def test_long_messages_go_on_every_transport(pair: tuple[Client, Client], prefix: str) -> None:
    """Quotation marks take the most: in requests to /emulation JSON stands in JSON."""
    channel, (client, _), text = f"room:{prefix}", pair, '"' * 32_000
    await client.connect()
    await client.subscribe(channel)

    await client.perform("publish", channel=channel, data=text)

    assert await client.published(channel, 1) == [text]


async def test_of_clients_that_are_gone_nothing_is_left(clients: list[Client], cluster: Cluster, prefix: str) -> None:
    channel = f"room:{prefix}"
    for client in clients:
        await client.connect()
        await client.subscribe(channel)
        await client.perform("disconnect")

    async def counts() -> list[float]:
        async with httpx.AsyncClient() as http:
            answers = [await http.get(node.http("/metrics")) for node in cluster.nodes]
        return [
            sum(
                sample.value
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name in {"roomcast_connections", "roomcast_channels"}
            )
            for answer in answers
        ]

    async def is_nothing() -> bool:
        return await counts() == [0.0, 0.0]

    await eventually(is_nothing)
