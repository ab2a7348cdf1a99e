"""Entries of the ingest stream that write maps."""

from __future__ import annotations

import pytest

from roomcast.brokers.map_interface import MapPage, MapRead
from roomcast.model.namespaces import DEFAULTS
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from tests.support.ingest import add, broker_of, dead, history, until_done, working

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def state(client: Client, prefix: str, channel: str = "state:a") -> MapPage:
    return await broker_of(client, prefix).maps.read(MapRead(channel, DEFAULTS["state"]))


async def values(client: Client, prefix: str) -> dict[str, bytes]:
    page = await state(client, prefix)
    return {entry.change.key: entry.data for entry in page.entries if entry.change}


async def test_entries_write_maps_in_their_order_beside_publications(client: Client, prefix: str) -> None:
    for number in range(300):  # more than one batch
        await add(client, prefix, map="state:a", key=f"k{number % 7}", data=number)
        await add(client, prefix, channel="room:a", data=number)
    await add(client, prefix, map="state:a", key="k0", removed=1)
    await add(client, prefix, map="state:a", key="ö", data='"größe"', tags='{"lang": "de"}')
    async with working(client, prefix):
        await until_done(client, prefix)

    page = await state(client, prefix)
    last = {f"k{number % 7}": b"%d" % number for number in range(300)}
    del last["k0"]
    assert await values(client, prefix) == {**last, "ö": '"größe"'.encode()}
    assert page.position.offset == 302
    assert page.entries[-1].tags == {"lang": "de"}
    assert await history(client, prefix) == [b"%d" % number for number in range(300)]
    assert await dead(client, prefix) == []


async def test_conditions_of_entries_hold(client: Client, prefix: str) -> None:
    for fields in (
        {"data": "1", "idempotency_key": "i"},
        {"data": "2", "idempotency_key": "i"},
        {"data": "3", "key_mode": "if_new"},
        {"data": "4", "expected_offset": "0"},
        {"data": "5", "expected_offset": "1", "version": "7"},
        {"data": "6", "version": "7"},
        {"data": "7", "expected_offset": "2", "expected_epoch": "other"},
    ):
        await add(client, prefix, map="state:a", key="k", **fields)
    async with working(client, prefix):
        await until_done(client, prefix)

    assert await values(client, prefix) == {"k": b"5"}
    assert (await state(client, prefix)).position.offset == 2
    assert await dead(client, prefix) == []


async def test_a_map_whose_keys_another_program_has_written_stops_no_other(client: Client, prefix: str) -> None:
    await client.set(ChannelKeys(prefix).key("state:broken", "state"), "no hash")
    await client.hset(ChannelKeys(prefix).key("state:broken", "meta"), mapping={"epoch": "e", "bytes": 1})
    for name in ("broken", "a"):
        await add(client, prefix, map=f"state:{name}", key="k", data=1)
    async with working(client, prefix):
        await until_done(client, prefix)

    assert await values(client, prefix) == {"k": b"1"}
    (fields,) = await dead(client, prefix)
    assert fields[b"reason"] == b"the channel's keys in Redis hold something else"
