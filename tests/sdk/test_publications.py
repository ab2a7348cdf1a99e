"""Publications that do not travel as they are: differences to the one before, and those that a filter lets through."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.sdk import Client
from tests.sdk.service import Service
from tests.support.processes import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def state(number: int) -> dict[str, object]:
    """Return one of many states that differ in a little."""
    return {"players": [{"name": f"Ünit {n}", "score": n * (number == n)} for n in range(40)], "round": number}


async def test_differences_become_what_was_published(clients: list[Client], service: Service, prefix: str) -> None:
    channel = f"news:{prefix}"
    published: list[object] = [*map(state, range(8)), "not like the others", 0, {}, [state(3)], *map(state, range(5))]
    for client in clients:
        await client.connect()
        await client.subscribe(channel, delta="fossil", recoverable=True)
    for data in published[:12]:
        await service.publish(channel, data)
    for client in clients:
        assert await client.published(channel, 12) == published[:12]
        await client.perform("disconnect")
    for data in published[12:15]:
        await service.publish(channel, data)

    for client in clients:
        await client.perform("connect")
        assert (await client.heard("subscribed", 2, channel=channel))["recovered"]
        assert await client.published(channel, 15) == published[:15]
    for data in published[15:]:
        await service.publish(channel, data)
    for client in clients:
        assert await client.published(channel, 17) == published
        assert (await client.perform("deltaStats", channel=channel))["numDeltaPayloads"] >= 10


async def test_clients_with_and_without_differences_get_the_same(
    clients: list[Client], service: Service, prefix: str
) -> None:
    channel = f"news:{prefix}"
    await service.publish(channel, state(0))
    for number, client in enumerate(clients):
        await client.connect()
        options: dict[str, Any] = {"delta": "fossil"} if number % 2 else {}
        await client.subscribe(channel, **options)
        await service.publish(channel, state(number))

    await service.publish(channel, "the last")
    for number, client in enumerate(clients):
        expected = [*map(state, range(number, len(clients))), "the last"]
        assert await client.published(channel, len(expected)) == expected


async def test_only_publications_with_such_tags_come(clients: list[Client], service: Service, prefix: str) -> None:
    channel = f"news:{prefix}"
    wanted = {
        "op": "and",
        "nodes": [{"key": "lang", "cmp": "in", "vals": ["en", "de"]}, {"key": "price", "cmp": "gte", "val": "10"}],
    }
    tagged = [({"lang": "en", "price": "12"}, 1), ({"lang": "fr", "price": "12"}, 2), ({"lang": "de", "price": "9"}, 3)]
    for client in clients:
        await client.connect()
        await client.subscribe(channel, tagsFilter=wanted, recoverable=True)

    for tags, data in tagged:
        await service.publish(channel, data, tags=tags)
    await service.publish(channel, "without tags")
    await service.publish(channel, 4, tags={"lang": "de", "price": "10", "more": ""})
    for client in clients:
        assert await client.published(channel, 2) == [1, 4]
        assert (await client.events("publication"))[0]["tags"] == {"lang": "en", "price": "12"}
        await client.perform("disconnect")
    for tags, data in tagged:
        await service.publish(channel, data, tags=tags)
    for client in clients:
        await client.perform("connect")
        assert (await client.heard("subscribed", 2, channel=channel))["recovered"]
        assert await client.published(channel, 3) == [1, 4, 1]


async def test_what_other_services_publish_in_redis_comes_in_every_encoding(
    clients: list[Client], client: Redis, cluster: Cluster, prefix: str
) -> None:
    """As it is: over several lines, and without an offset."""
    channel = f"room:{prefix}"
    for each in clients:
        await each.connect()
        await each.subscribe(channel, recoverable=True)

    for data in ('{\n  "text": "several\\nlines",\r\n  "n": [1,\n2]\n}', '\n"text"\n', "12"):
        assert await client.publish(f"{cluster.prefix}{channel}", data) == len(cluster.nodes)

    for each in clients:
        assert await each.published(channel, 3) == [{"text": "several\nlines", "n": [1, 2]}, "text", 12]
