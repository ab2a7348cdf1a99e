"""A channel whose keys in Redis another program has written fails alone, on real nodes."""

from __future__ import annotations

import asyncio
import re

import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from roomcast.redis_access.keys import ChannelKeys
from tests.support.histories import after, call, publish
from tests.support.processes import Cluster, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


FIELDS: dict[str, tuple[str, str | bytes]] = {
    "a": ("offset", "abc"),
    "b": ("offset", "1.5"),
    "c": ("epoch", b"\xff"),
    "d": ("epoch", ""),
}


async def test_foreign_fields_of_some_channels_end_no_node(cluster: Cluster, client: Redis, prefix: str) -> None:
    one, two = cluster.nodes
    lines = {room: await publish(one, f"room:{room}", 1) for room in [*FIELDS, "e"]}
    async with two.connect("/ws/rooms/a?envelope=1") as stays, one.connect("/ws/rooms/fine") as beside:
        await receive(stays)
        for room, (name, value) in FIELDS.items():
            await client.hset(ChannelKeys(prefix).key(f"room:{room}", "meta"), name, value)
        await client.delete(ChannelKeys(prefix).key("room:e", "meta"))
        await client.set(ChannelKeys(prefix).key("room:e", "meta"), "no hash")

        async def is_refused(room: str) -> None:
            with pytest.raises(InvalidStatus) as refused:
                async with one.connect(f"/ws/rooms/{room}?envelope=1&{after(lines[room])}"):
                    pass
            assert refused.value.response.status_code == 503
            for node, method, more in ((one, "publish", {"data": 2}), (two, "history", {"limit": 5})):
                _, answer = await call(node, method, {"channel": f"room:{room}", **more})
                assert answer["error"]["code"] == 100

        await asyncio.gather(*map(is_refused, lines))
        await publish(two, "room:fine", "beside")
        while "beside" not in str(await receive(beside)):
            pass

    assert [node.faults() for node in (one, two)] == [[], []]
    async with http_client() as http:
        metrics = (await http.get(one.http("/metrics"))).text
    (count,) = re.findall(r"^roomcast_malformed_total (\d+)", metrics, re.MULTILINE)
    assert int(count) >= 2 * len(FIELDS) + 1
