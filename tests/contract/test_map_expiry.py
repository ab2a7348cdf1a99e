"""Keys of maps that expire: deadlines are moved into the past, so nothing waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from roomcast.brokers.interface import Once, Read
from roomcast.brokers.map_interface import Conditions, MapSubmission, Suppressed
from roomcast.model.maps import Change, KeyMode, MapMode
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import Publication
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.contract.test_map_store import (
    CHANNEL,
    EPHEMERAL,
    PERSISTENT,
    RECOVERABLE,
    namespace,
    page,
    put,
    remove,
    values,
)
from tests.support.brokers import running

pytestmark = pytest.mark.anyio


async def end_time_of(server: Client, prefix: str, *keys: str) -> None:
    """Let the time of keys be over."""
    deadlines = ChannelKeys(prefix).key(CHANNEL, "deadlines")
    await run_all(server, [("ZADD", deadlines, "XX", 1, key) for key in keys], ())


@pytest.mark.parametrize("kind", [RECOVERABLE, EPHEMERAL], ids=["recoverable", "ephemeral"])
async def test_keys_whose_time_is_over_are_removed_with_their_tags(
    server: Client, prefix: str, kind: Namespace
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        assert await broker.maps.expire(CHANNEL, kind) is None
        await put(broker, 'a"\\', b"1", kind, tags={"team": "eng"})
        await put(broker, "b", b"2", kind)
        wait_s = await broker.maps.expire(CHANNEL, kind)
        assert wait_s is not None
        assert 50 < wait_s <= 60
        await end_time_of(server, prefix, 'a"\\')
        wait_s = await broker.maps.expire(CHANNEL, kind)
        assert wait_s is not None
        assert 50 < wait_s <= 60
        await sink.until_texts([b"1", b"2", b""])
        removal = sink.publications[-1]
        assert removal.tags == {"team": "eng"}
        assert removal.change is not None
        assert (removal.change.key, removal.change.is_removed) == ('a"\\', True)
        assert abs(removal.change.time_ms / 1000 - time.time()) < 60
        assert values(await page(broker, kind)) == {"b": b"2"}
        assert removal.position == (await page(broker, kind)).position
        assert not sink.malformed


async def test_at_most_a_hundred_are_removed_at_once_and_a_read_removes_all(server: Client, prefix: str) -> None:
    keys = [f"k{number}" for number in range(350)]
    async with running(server, prefix) as (broker, _):
        for key in keys:
            await put(broker, key, b"1", EPHEMERAL)
        await end_time_of(server, prefix, *keys)
        assert await broker.maps.expire(CHANNEL, EPHEMERAL) == 0
        assert (await page(broker, EPHEMERAL)).position.offset == 700
        assert await broker.maps.count(CHANNEL, EPHEMERAL) == 0
        assert await broker.maps.expire(CHANNEL, EPHEMERAL) is None


async def test_a_write_and_a_touch_move_the_deadline(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        for key in "ab":
            await put(broker, key, b"1", EPHEMERAL)
        await end_time_of(server, prefix, "a", "b")
        await put(broker, "a", b"2", EPHEMERAL)
        assert await broker.maps.touch(CHANNEL, EPHEMERAL, ["b", "c"]) == ["c"]
        assert values(await page(broker, EPHEMERAL)) == {"a": b"2", "b": b"1"}
        await sink.until_texts([b"1", b"1", b"2"])


async def test_a_condition_does_not_find_a_key_whose_time_is_over(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        await put(broker, "a", b"1", EPHEMERAL, Conditions(Once(version=5)))
        await end_time_of(server, prefix, "a")
        exists, new = Conditions(mode=KeyMode.IF_EXISTS), Conditions(Once(version=1), mode=KeyMode.IF_NEW)
        assert (await put(broker, "a", b"2", EPHEMERAL, exists)).suppressed is Suppressed.KEY_NOT_FOUND
        assert (await put(broker, "a", b"3", EPHEMERAL, new)).suppressed is None
        await sink.until_texts([b"1", b"", b"3"])


async def test_keys_whose_time_is_over_make_room(server: Client, prefix: str) -> None:
    kind = namespace(MapMode.EPHEMERAL, max_keys=2)
    async with running(server, prefix) as (broker, _):
        for key in "ab":
            await put(broker, key, b"1", kind)
        await end_time_of(server, prefix, "a", "b")
        await put(broker, "c", b"1", kind)
        assert values(await page(broker, kind)) == {"c": b"1"}


async def test_keys_whose_time_is_over_make_room_for_a_large_value(server: Client, prefix: str) -> None:
    keys = [f"k{number}" for number in range(150)]
    kind = namespace(MapMode.EPHEMERAL, max_map_bytes=20_000)
    async with running(server, prefix) as (broker, _):
        await broker.maps.write_all(
            [MapSubmission(Publication(CHANNEL, b"1", change=Change(key)), kind) for key in keys]
        )
        await end_time_of(server, prefix, *keys)
        await put(broker, "large", b"1" * 18_000, kind)
        assert await broker.maps.count(CHANNEL, kind) == 1


async def test_in_a_persistent_map_nothing_expires(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        await put(broker, "a")
        await remove(broker, "a")
        await put(broker, "b")
        await page(broker)
        assert await broker.maps.expire(CHANNEL, PERSISTENT) is None
        assert await broker.maps.touch(CHANNEL, PERSISTENT, ["a", "b"]) == ["a"]
        keys = ChannelKeys(prefix)
        ttls = await run_all(server, [("PTTL", keys.key(CHANNEL, name)) for name in ("meta", "state", "keys")], ())
        assert ttls == [-1, -1, -1]


@pytest.mark.redis
async def test_a_refreshed_key_does_not_make_the_sweep_spin(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix) as (broker, _):
        await put(broker, "a", b"1", EPHEMERAL)
        await end_time_of(valkey, prefix, "a")
        await put(broker, "a", b"2", EPHEMERAL)
        await valkey.config_resetstat()
        wait_s = await broker.maps.expire(CHANNEL, EPHEMERAL)
        stats: Any = await valkey.info("commandstats")  # Any: redis-py's reply

    assert wait_s is not None
    assert 50 < wait_s <= 60, "the next round is that late"
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    assert {name: calls[name] for name in calls if "config" not in name and name != "info"} == {
        "evalsha": 1,
        "time": 1,
        "zcard": 2,
        "zrange": 1,
    }


async def test_any_number_of_nodes_may_sweep_at_once(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        keys = [f"k{number}" for number in range(20)]
        for key in keys:
            await put(broker, key, b"1", EPHEMERAL)
        await end_time_of(server, prefix, *keys)
        waits = await asyncio.gather(*[broker.maps.expire(CHANNEL, EPHEMERAL) for _ in range(5)])
        assert waits == [None] * 5
        await sink.until_texts([b"1"] * 20 + [b""] * 20)
        assert (await page(broker, EPHEMERAL)).position.offset == 40


async def test_a_map_is_kept_as_long_as_its_last_key(server: Client, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    for kind, least_s in ((EPHEMERAL, 3600), (RECOVERABLE, 24 * 3600)):
        async with running(server, prefix) as (broker, _):
            await put(broker, "a", b"1", kind)
            names = ("meta", "state", "keys", "deadlines")
            meta, *others = await run_all(server, [("PTTL", keys.key(CHANNEL, name)) for name in names], ())
            assert least_s - 5 <= meta / 1000 <= least_s
            assert all(least_s + 55 <= ttl / 1000 <= least_s + 60 for ttl in others)
            await broker.maps.clear(CHANNEL, kind)


async def test_a_persistent_map_without_keys_is_forgotten_after_a_day(server: Client, prefix: str) -> None:
    meta = ChannelKeys(prefix).key(CHANNEL, "meta")

    async def hours_left() -> float:
        (left_ms,) = await run_all(server, [("PTTL", meta)], ())
        return float(left_ms / 3_600_000 if left_ms >= 0 else left_ms)

    async with running(server, prefix) as (broker, _):
        await broker.read([Read(CHANNEL, PERSISTENT)])
        assert 23 < await hours_left() <= 24, "clients may read any name"
        await page(broker)
        assert 23 < await hours_left() <= 24
        await put(broker, "a")
        assert await hours_left() == -1
        await broker.read([Read(CHANNEL, PERSISTENT)])
        assert await hours_left() == -1
        await remove(broker, "a")
        assert 23 < await hours_left() <= 24
        await broker.maps.clear(CHANNEL, PERSISTENT)
        assert 23 < await hours_left() <= 24


async def test_a_map_that_is_made_persistent_stays(server: Client, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    names = [keys.key(CHANNEL, name) for name in ("meta", "state", "keys", "deadlines")]
    for use in (page, lambda broker: put(broker, "b")):
        async with running(server, prefix) as (broker, _):
            await put(broker, "a", b"1", RECOVERABLE)
            await use(broker)
            assert await run_all(server, [("PTTL", name) for name in names], ()) == [-1, -1, -1, -2]
            assert "a" in values(await page(broker))


async def test_keys_of_a_map_that_was_persistent_expire(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        await put(broker, "a")
        await put(broker, "b", b"1", RECOVERABLE)
        await page(broker, RECOVERABLE)
        await end_time_of(server, prefix, "a")
        assert values(await page(broker, RECOVERABLE)) == {"b": b"1"}


async def test_a_sweep_gives_keys_of_a_map_that_was_persistent_a_deadline(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        await put(broker, "a")
        for _ in range(2):
            wait_s = await broker.maps.expire(CHANNEL, RECOVERABLE)
            assert wait_s is not None
            assert 50 < wait_s <= 60


@pytest.mark.parametrize("kind", [RECOVERABLE, EPHEMERAL], ids=["recoverable", "ephemeral"])
async def test_a_write_that_changes_nothing_leaves_nothing_for_ever(
    server: Client, prefix: str, kind: Namespace
) -> None:
    meta = ChannelKeys(prefix).key(CHANNEL, "meta")
    async with running(server, prefix) as (broker, _):
        for conditions in (Conditions(), Conditions(mode=KeyMode.IF_EXISTS)):
            assert (await remove(broker, "a", kind, conditions)).suppressed is Suppressed.KEY_NOT_FOUND
            (ttl_ms,) = await run_all(server, [("PTTL", meta)], ())
            assert ttl_ms > 0
            await run_all(server, [("DEL", meta)], ())


async def test_keys_whose_position_is_lost_are_dropped_and_nothing_stays_for_ever(server: Client, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    async with running(server, prefix) as (broker, _):
        await put(broker, "a", b"1", EPHEMERAL)
        await end_time_of(server, prefix, "a")
        await run_all(server, [("DEL", keys.key(CHANNEL, "meta"))], ())
        assert await broker.maps.expire(CHANNEL, EPHEMERAL) is None
        names = [keys.key(CHANNEL, name) for name in ("meta", "state", "keys", "deadlines")]
        meta, *others = await run_all(server, [("PTTL", name) for name in names], ())
        assert meta > 0
        assert others == [-2, -2, -2]


async def test_the_position_is_kept_until_the_last_key_is_removed(server: Client, prefix: str) -> None:
    kind = namespace(MapMode.RECOVERABLE, key_ttl_s=60, meta_ttl_s=60)
    meta = ChannelKeys(prefix).key(CHANNEL, "meta")
    async with running(server, prefix) as (broker, _):
        await put(broker, "a", b"1", kind)
        for use in (page(broker, kind), broker.read([Read(CHANNEL, kind)])):
            await use
            (ttl_ms,) = await run_all(server, [("PTTL", meta)], ())
            assert ttl_ms > 100_000
