"""Maps in Redis: one contract for every shape of it. Writes, conditions, pages, limits, expiry."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from roomcast.brokers.interface import Once, Read
from roomcast.brokers.map_interface import (
    UNCONDITIONAL,
    Conditions,
    MapPage,
    MapRead,
    MapSubmission,
    Suppressed,
    Written,
)
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.maps import Change, KeyMode, MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication, Removal
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from tests.support.brokers import running

pytestmark = pytest.mark.anyio

CHANNEL = "map:a"


def namespace(
    mode: MapMode = MapMode.PERSISTENT, *, tags_filter: bool = False, history_size: int = 0, **options: Any
) -> Namespace:  # Any: of MapOptions
    ttl_s = 0.0 if mode is MapMode.PERSISTENT else 60.0
    return Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=mode, **{"key_ttl_s": ttl_s, **options}),
        tags_filter=tags_filter,
        history_size=history_size,
        history_ttl_s=60.0 if history_size else 0.0,
    )


PERSISTENT, RECOVERABLE, EPHEMERAL = (
    namespace(mode) for mode in (MapMode.PERSISTENT, MapMode.RECOVERABLE, MapMode.EPHEMERAL)
)


async def put(
    broker: RedisBroker,
    key: str,
    value: bytes = b"1",
    kind: Namespace = PERSISTENT,
    conditions: Conditions = UNCONDITIONAL,
    **fields: Any,
) -> Written:
    return await broker.maps.write(
        Publication(CHANNEL, value, Kind.JSON, change=Change(key), **fields), kind, conditions=conditions
    )


async def remove(
    broker: RedisBroker, key: str, kind: Namespace = PERSISTENT, conditions: Conditions = UNCONDITIONAL
) -> Written:
    return await broker.maps.write(
        Publication(CHANNEL, b"", change=Change(key, is_removed=True)), kind, conditions=conditions
    )


async def page(broker: RedisBroker, kind: Namespace = PERSISTENT, **options: Any) -> MapPage:
    return await broker.maps.read(MapRead(CHANNEL, kind, **options))


def values(page: MapPage) -> dict[str, bytes]:
    return {entry.change.key: entry.data for entry in page.entries if entry.change}


async def test_a_write_is_in_the_map_and_in_the_history_and_live(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        info = ClientInfo("c1", "ada", b'{"n":1}')
        one = await put(broker, 'k"\\ö', b'{"v":1}', tags={"team": "eng"}, info=info)
        two = await put(broker, "other", b"2")
        three = await remove(broker, 'k"\\ö')
        await sink.until_texts([b'{"v":1}', b"2", b""])
        history = await broker.read([Read(CHANNEL, PERSISTENT, limit=10)])
        found = await page(broker)

    (kept,) = history
    assert isinstance(kept, History)
    assert kept.publications == sink.publications
    assert [written.position.offset for written in (one, two, three)] == [1, 2, 3]
    assert [publication.position for publication in sink.publications] == [each.position for each in (one, two, three)]
    first, _, removal = sink.publications
    assert (first.tags, first.info, first.kind) == ({"team": "eng"}, info, Kind.JSON)
    assert removal.tags == {"team": "eng"}
    assert removal.change
    assert removal.change.is_removed
    assert removal.change.key == 'k"\\ö'
    assert found == MapPage(three.position, [sink.publications[1]])
    assert not sink.malformed


@pytest.mark.parametrize("kind", [PERSISTENT, RECOVERABLE, EPHEMERAL], ids=["persistent", "recoverable", "ephemeral"])
async def test_conditions_suppress_writes_which_change_nothing(server: Client, prefix: str, kind: Namespace) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        new, exists = Conditions(mode=KeyMode.IF_NEW), Conditions(mode=KeyMode.IF_EXISTS)
        assert (await put(broker, "k", b"0", kind, exists)).suppressed is Suppressed.KEY_NOT_FOUND
        assert (await remove(broker, "k", kind)).suppressed is Suppressed.KEY_NOT_FOUND
        first = await put(broker, "k", b"1", kind, new)
        assert first == Written(Position(1, first.position.epoch))
        assert await put(broker, "k", b"2", kind, new) == (first.position, Suppressed.KEY_EXISTS)
        assert (await put(broker, "k", b"3", kind, exists)).position.offset == 2
        assert values(await page(broker, kind)) == {"k": b"3"}
        await sink.until_texts([b"1", b"3"])


async def test_only_the_expected_position_of_a_key_is_replaced(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):

        async def put_at(offset: int, epoch: str = "") -> Suppressed | None:
            return (await put(broker, "k", conditions=Conditions(expected=Position(offset, epoch)))).suppressed

        assert await put_at(1) is Suppressed.POSITION_MISMATCH
        assert await put_at(0, "other") is Suppressed.POSITION_MISMATCH
        assert await put_at(0) is None
        other = await put(broker, "other")
        epoch = other.position.epoch
        assert await put_at(2, epoch) is Suppressed.POSITION_MISMATCH, "that is the other key's"
        assert await put_at(1, "other") is Suppressed.POSITION_MISMATCH
        assert await put_at(1, epoch) is None
        assert await put_at(0) is Suppressed.POSITION_MISMATCH
        refused = await remove(broker, "k", conditions=Conditions(expected=Position(1, epoch)))
        assert refused.suppressed is Suppressed.POSITION_MISMATCH
        assert (await remove(broker, "k", conditions=Conditions(expected=Position(3, epoch)))).suppressed is None
        assert await put_at(0, epoch) is None


async def test_an_idempotency_key_writes_once(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        once = Conditions(Once(key="i"))
        first = await put(broker, "k", conditions=once)
        await put(broker, "other")
        assert await put(broker, "k", b"2", conditions=once) == (first.position, Suppressed.IDEMPOTENCY)
        assert await remove(broker, "k", conditions=once) == (first.position, Suppressed.IDEMPOTENCY)
        assert values(await page(broker)) == {"k": b"1", "other": b"1"}


async def test_a_version_that_is_not_higher_is_suppressed(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):

        async def put_version(version: int | None, epoch: str = "") -> Suppressed | None:
            return (
                await put(broker, "k", conditions=Conditions(Once(version=version, version_epoch=epoch)))
            ).suppressed

        assert await put_version(5) is None
        assert await put_version(5) is Suppressed.VERSION
        assert await put_version(None) is None
        assert await put_version(4) is Suppressed.VERSION, "a write without a version keeps it"
        assert await put_version(1, "a,\n") is None
        assert await put_version(1, "a,\n") is Suppressed.VERSION
        assert await remove(broker, "k") == Written(Position(4, (await page(broker)).position.epoch))
        assert await put_version(1, "a,\n") is None, "a removal forgets it"
        assert (
            await put(broker, "other", conditions=Conditions(Once(version=1, version_epoch="a,\n")))
        ).suppressed is None


async def test_pages_are_exact_and_in_the_order_of_the_bytes(server: Client, prefix: str) -> None:
    keys = ["é", "b", "a", "Z", "a b", "\U0001f600", "ﬀ", "10", "9"]
    async with running(server, prefix) as (broker, _):
        for key in keys:
            await put(broker, key)
        found: list[str] = []
        for number in range(3):
            part = await page(broker, after=found[-1] if found else "", limit=3)
            found += values(part)
            assert part.cursor == ("" if number == 2 else found[-1])
        assert found == sorted(keys, key=str.encode)
        assert list(values(await page(broker, limit=100))) == found
        assert values(await page(broker, key="a b")) == {"a b": b"1"}
        assert values(await page(broker, key="a ")) == {}
        assert await broker.maps.count(CHANNEL, PERSISTENT) == 9


async def test_a_page_of_large_values_is_cut(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        kind = namespace(max_keys=1000)
        for number in range(400):
            broker.maps.submit(
                Publication(CHANNEL, b"x" * 1000, change=Change(f"{number:03}")), kind, lambda result: None
            )
        await put(broker, "9", b"1", kind)
        first = await page(broker, kind, limit=1000)
        assert 200 <= len(first.entries) <= 256
        rest = await page(broker, kind, limit=1000, after=first.cursor)
        assert len(first.entries) + len(rest.entries) == 401
        assert not rest.cursor


async def test_limits_are_refused_by_name(server: Client, prefix: str) -> None:
    kind = namespace(max_keys=2, max_map_bytes=1024)
    async with running(server, prefix) as (broker, _):
        await put(broker, "a", b"1", kind)
        await put(broker, "b", b"1", kind)
        with pytest.raises(ClientError, match="max_keys") as raised:
            await put(broker, "c", b"1", kind)
        assert raised.value.error is ErrorCode.LIMIT_EXCEEDED
        with pytest.raises(ClientError, match="max_map_bytes"):
            await put(broker, "a", b"x" * 960, kind)
        await remove(broker, "b", kind)
        last = await put(broker, "a", b"x" * 800, kind)
        assert last.position.offset == 4, "refusals have no offset"
        assert values(await page(broker, kind)) == {"a": b"x" * 800}


async def test_a_map_that_is_cleared_is_in_another_epoch_and_the_nodes_are_notified(
    server: Client, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        before = (await put(broker, "a")).position
        await broker.maps.clear(CHANNEL, PERSISTENT)
        after = await page(broker)
        await put(broker, "b", b"2")
        await sink.until_texts([b"1", b"2"])
        (history,) = await broker.read([Read(CHANNEL, PERSISTENT, limit=10)])

    assert sink.removals == [Removal(CHANNEL)]
    assert after.entries == []
    assert after.position.epoch != before.epoch
    assert after.position.offset == before.offset, "offsets never restart"
    assert isinstance(history, History)
    assert [publication.data for publication in history.publications] == [b"2"]


async def test_many_at_once_are_written_in_their_order_each_with_its_own_result(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        kind = namespace(max_keys=1)
        results = await broker.maps.write_all(
            [
                MapSubmission(Publication(f"map:{name}", b"1", Kind.JSON, change=Change(key)), kind)
                for name, key in ("ak", "bk", "al", "ak")
            ]
        )
        offsets = [result.position.offset if isinstance(result, Written) else result for result in results]
        assert offsets[:2] == [1, 1]
        assert isinstance(offsets[2], ClientError)
        assert offsets[3] == 2
        assert await broker.maps.write_all([]) == []


async def test_many_at_once_may_be_repeated(server: Client, prefix: str) -> None:
    kind = namespace(max_keys=1)

    def write(number: int, key: str, value: bytes, mode: KeyMode = KeyMode.REPLACE) -> MapSubmission:
        publication = Publication(CHANNEL, value, Kind.JSON, change=Change(key, is_removed=not value))
        return MapSubmission(publication, kind, Conditions(Once(f"{number}"), mode))

    writes = [
        write(1, "a", b"1", KeyMode.IF_EXISTS),
        write(2, "a", b"2"),
        write(3, "a", b"3", KeyMode.IF_NEW),
        write(4, "b", b"4"),
        write(5, "a", b""),
        write(6, "b", b"6"),
    ]
    async with running(server, prefix) as (broker, _):
        first, again = [await broker.maps.write_all(writes) for _ in range(2)]
        assert values(await page(broker, kind)) == {"b": b"6"}

    reasons = [each.suppressed if isinstance(each, Written) else str(each) for each in first]
    assert reasons[:3] == [Suppressed.KEY_NOT_FOUND, None, Suppressed.KEY_EXISTS]
    assert "max_keys" in str(reasons[3])
    assert reasons[4:] == [None, None]
    for before, after in zip(first, again, strict=True):
        if isinstance(before, Written):
            assert after == before._replace(suppressed=before.suppressed or Suppressed.IDEMPOTENCY)
        else:
            assert (type(after), str(after)) == (ClientError, str(before))


@pytest.mark.redis
async def test_a_user_that_may_not_write_gets_an_error(valkey: Redis, prefix: str) -> None:
    await valkey.acl_setuser(
        prefix,
        enabled=True,
        nopass=True,
        reset=True,
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-zadd"],
    )
    where = valkey.connection_pool.connection_kwargs
    async with (
        Redis(host=where["host"], port=where["port"], username=prefix, password="x") as limited,
        running(limited, prefix) as (broker, _),
    ):
        with pytest.raises(BrokerUnavailable, match="NOPERM"):
            await put(broker, "k")
        submission = MapSubmission(Publication(CHANNEL, b"1", change=Change("k")), PERSISTENT)
        (result,) = await broker.maps.write_all([submission])
    await valkey.acl_deluser(prefix)

    assert isinstance(result, ClientError), "the ingest worker puts it aside"
    assert result.error is ErrorCode.PERMISSION_DENIED


async def test_a_redis_that_is_away_is_an_error(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        maps = RedisBroker(nowhere, prefix=prefix, node_id="n1", max_message_bytes=1000).maps
        for call in (
            maps.read(MapRead(CHANNEL, PERSISTENT)),
            maps.count(CHANNEL, PERSISTENT),
            maps.expire(CHANNEL, EPHEMERAL),
            maps.touch(CHANNEL, EPHEMERAL, ["k"]),
            maps.clear(CHANNEL, PERSISTENT),
            maps.write_all([MapSubmission(Publication(CHANNEL, b"1", change=Change("k")), PERSISTENT)]),
        ):
            with pytest.raises(BrokerUnavailable, match=r"^Redis is away \(ConnectionError\)$"):
                await call


async def test_a_lost_tail_starts_another_epoch(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        first = await put(broker, "a")
        lost = Position(9, first.position.epoch)
        after = await broker.maps.write(Publication(CHANNEL, b"2", change=Change("b")), PERSISTENT, seen=[lost])
        assert after.position.epoch != first.position.epoch
        assert after.position.offset == 2
        conditions = Conditions(expected=first.position)
        assert (await put(broker, "a", conditions=conditions)).suppressed is None, "the key's last write is still there"


async def test_where_filters_are_used_a_set_carries_the_tags_before(server: Client, prefix: str) -> None:
    kind = namespace(tags_filter=True)
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe(CHANNEL)
        for text, tags in ((b"1", {"a": "1"}), (b"2", {"a": "2"}), (b"3", None)):
            await put(broker, "k", text, kind, tags=tags)
        await put(broker, "k", b"4", kind)
        await sink.until_texts([b"1", b"2", b"3", b"4"])
        (history,) = await broker.read([Read(CHANNEL, kind, limit=10)])
        (entry,) = (await page(broker, kind)).entries

    changes = [publication.change for publication in sink.publications]
    assert [change.tags_before for change in changes if change] == [None, {"a": "1"}, {"a": "2"}, None]
    assert isinstance(history, History)
    assert history.publications == sink.publications
    assert entry.change
    assert entry.change.tags_before is None


@pytest.mark.parametrize("kind", [PERSISTENT, RECOVERABLE])
async def test_the_history_has_exactly_so_many_changes(server: Client, prefix: str, kind: Namespace) -> None:
    mode = MapMode.PERSISTENT if kind is PERSISTENT else MapMode.RECOVERABLE
    kind = namespace(mode, history_size=2)
    async with running(server, prefix) as (broker, _):
        for number in range(150):  # Redis trims whole nodes of 100 entries, if it may
            await put(broker, "k", b"%d" % number, kind)
        assert await run_all(server, [("XLEN", ChannelKeys(prefix).key(CHANNEL, "stream"))], ()) == [2]
