"""Histories: one contract for every shape of Redis. Positions, idempotency, reads, removal, lost tails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from roomcast.brokers.interface import ALWAYS, Once, Published, Read, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication, Removal
from roomcast.redis_access.client import Client, connect
from roomcast.redis_access.keys import ChannelKeys
from tests.support.brokers import running

pytestmark = pytest.mark.anyio


# Histories.

KEPT = Namespace(history_size=3, history_ttl_s=60.0)


async def read(broker: RedisBroker, **options: Any) -> History:  # Any: the fields of Read
    (history,) = await broker.read([Read("room:a", KEPT, **options)])
    assert isinstance(history, History), history
    return history


async def keep(broker: RedisBroker, *texts: bytes) -> list[Position]:
    """Publish with history; return the positions."""
    positions = []
    for text in texts:
        position = (await broker.publish(Publication("room:a", text), KEPT)).position
        assert position is not None
        positions.append(position)
    return positions


async def test_a_publication_with_history_has_the_next_offset_live_and_in_what_is_kept(
    server: Client, prefix: str
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        positions = await keep(broker, b"1", b"2", "größe".encode())
        binary = await broker.publish(Publication("room:a", b"\xff", Kind.BINARY), KEPT)
        await sink.until_texts([b"1", b"2", "größe".encode(), b"\xff"])
        history = await read(broker, limit=10)

    assert binary.position is not None
    assert [position.offset for position in (*positions, binary.position)] == [1, 2, 3, 4]
    assert len({position.epoch for position in (*positions, binary.position)}) == 1
    assert [publication.position for publication in sink.publications] == [*positions, binary.position]
    assert history.publications == sink.publications[1:], "three are kept"
    assert history.position == binary.position
    assert history.base == 0


async def test_what_is_kept_is_read_from_a_position_on_or_from_its_end(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        one, two, three = await keep(broker, b"1", b"2", b"3")

        def texts(history: History) -> list[bytes]:
            return [publication.data for publication in history.publications]

        assert texts(await read(broker, since=one, limit=10)) == [b"2", b"3"]
        assert texts(await read(broker, since=one, limit=1)) == [b"2"]
        assert texts(await read(broker, since=three, limit=10)) == []
        assert texts(await read(broker, limit=2, newest=True)) == [b"2", b"3"]
        assert texts(await read(broker)) == []
        assert texts(await read(broker, since=Position(two.offset, "other"), limit=10)) == [b"1", b"2", b"3"]


async def test_a_channel_has_a_position_before_its_first_publication(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        empty = (await read(broker, limit=10)).position
        assert empty.offset == 0
        assert (await read(broker)).position == empty
        (first,) = await keep(broker, b"1")
        assert first == Position(1, empty.epoch)


async def test_one_key_publishes_once(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        first = await broker.publish(Publication("room:a", b"1"), KEPT, once=Once(key="k"))
        again = await broker.publish(Publication("room:a", b"1 again"), KEPT, once=Once(key="k"))
        await broker.publish(Publication("room:a", b"2"), KEPT, once=Once(key="other"))
        without = [await broker.publish(Publication("none:a", b"3"), Namespace(), once=Once(key="k")) for _ in range(2)]
        await sink.until_texts([b"1", b"2"])

    assert first.receiver_count == 1
    assert again == (first.position, -1)
    assert [published.receiver_count for published in without] == [0, -1]


async def test_many_at_once_are_published_in_their_order_each_with_its_own_result(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        kept = [Submission(Publication("room:a", b"%d" % n), KEPT, Once(key=f"k{n % 4}")) for n in range(6)]
        results = await broker.publish_all([*kept, Submission(Publication("none:a", b"1"), Namespace(), ALWAYS)])
        await sink.until_texts([b"0", b"1", b"2", b"3"])

    published = [result for result in results if isinstance(result, Published)]
    assert [result.position.offset if result.position else 0 for result in published] == [1, 2, 3, 4, 1, 2, 0]
    assert [result.receiver_count for result in published] == [1, 1, 1, 1, -1, -1, 0]
    assert await broker.publish_all([]) == []


async def test_of_many_at_once_those_of_a_broken_channel_alone_are_refused(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix) as (broker, _):
        await valkey.set(ChannelKeys(prefix).key("room:b", "meta"), "no hash")
        results = await broker.publish_all(
            [Submission(Publication(f"room:{name}", b"1"), KEPT, ALWAYS) for name in "aba"]
        )

    assert [type(result) for result in results] == [Published, ClientError, Published]


async def test_many_at_once_for_a_redis_that_is_away_are_all_refused(prefix: str) -> None:
    async with connect("redis://127.0.0.1:1/0", timeout_s=1, client_name="test") as nowhere:
        broker = RedisBroker(nowhere, prefix=prefix, node_id="n1", max_message_bytes=1000)
        with pytest.raises(BrokerUnavailable, match=r"^Redis is away \(ConnectionError\)$"):
            await broker.publish_all([Submission(Publication("room:a", b"1"), KEPT, ALWAYS)])


async def test_a_version_that_is_not_higher_is_dropped(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        for text, version, epoch in [
            (b"5", 5, ""),
            (b"4", 4, ""),
            (b"5 again", 5, ""),
            (b"6", 6, ""),
            (b"1", 1, "new"),
        ]:
            await broker.publish(Publication("room:a", text), KEPT, once=Once(version=version, version_epoch=epoch))
        await sink.until_texts([b"5", b"6", b"1"])


async def test_without_its_lease_nothing_is_published(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        once = Once(lease_owner="me")
        assert (await broker.publish(Publication("room:a", b"1"), KEPT, once=once)).receiver_count == -3
        await server.set(ChannelKeys(prefix).key("room:a", "lease"), "me")
        assert (await broker.publish(Publication("room:a", b"1"), KEPT, once=once)).position is not None


async def test_the_kind_of_a_payload_arrives_and_is_kept(server: Client, prefix: str) -> None:
    sent = [(b'{"n":1}', Kind.JSON), (b"hi", Kind.TEXT), (b"\xff", Kind.BINARY)]
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        for data, kind in sent:
            await broker.publish(Publication("room:a", data, kind), KEPT)
        await sink.until_texts([data for data, _ in sent])
        kept = (await read(broker, limit=10)).publications

    assert [(each.data, each.kind) for each in kept] == sent
    assert kept == sink.publications


async def test_a_kept_entry_of_an_older_node_is_json_if_its_text_is(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        await keep(broker, b"hi")
        meta, stream = (ChannelKeys(prefix).key("room:a", name) for name in ("meta", "stream"))
        await server.xadd(stream, {"k": b"t", "d": b'{"n":2}'}, id="2-0")
        await server.hset(meta, "offset", "2")
        kept = (await read(broker, limit=10)).publications

    assert [(each.data, each.kind) for each in kept] == [(b"hi", Kind.TEXT), (b'{"n":2}', Kind.JSON)]


TAGGED = Publication("room:a", b"hi", tags={"lang": "en"}, info=ClientInfo("n1-7", "ada", b'{"n":1}', b"[2]"))


@pytest.mark.parametrize("namespace", [KEPT, Namespace()])
@pytest.mark.parametrize(
    "publication",
    [
        TAGGED,
        TAGGED._replace(info=None),
        TAGGED._replace(tags=None, info=ClientInfo("", "größe")),
        TAGGED._replace(data=b'{"tags":\xff\n', kind=Kind.BINARY, tags={"\n,\x01": ""}),
        TAGGED._replace(data=b""),
    ],
)
async def test_tags_and_the_publishing_client_arrive_and_are_kept(
    server: Client, prefix: str, publication: Publication, namespace: Namespace
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        position = (await broker.publish(publication, namespace)).position
        await broker.publish(Publication("room:a", b"without"), namespace)
        await sink.until_texts([publication.data, b"without"])
        kept = (await read(broker, limit=10)).publications

    live, without = sink.publications
    assert live == publication._replace(position=position)
    assert (without.tags, without.info) == (None, None)
    assert kept == (sink.publications if namespace.history_size else [])


async def test_what_somebody_else_says_about_an_entry_harms_nobody(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await keep(broker, b"1")
        meta, stream = (ChannelKeys(prefix).key("room:a", name) for name in ("meta", "stream"))
        await server.xadd(stream, {"k": b"t", "d": b"2", "m": b'{"tags":{"lang":1}}'}, id="2-0")
        await server.hset(meta, "offset", "2")

        assert [p.data for p in (await read(broker, limit=10)).publications] == [b"1"]
        assert sink.malformed == [("room:a", "entry b'2-0': keys and values of tags are texts")]


async def test_a_publication_that_skips_the_history_is_live_alone(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        (one,) = await keep(broker, b"1")
        skipped = await broker.publish(TAGGED, KEPT, skip_history=True)
        (all_skipped,) = await broker.publish_all([Submission(TAGGED, KEPT, ALWAYS, skip_history=True)])
        (two,) = await keep(broker, b"2")
        await sink.until_texts([b"1", b"hi", b"hi", b"2"])

        assert skipped == all_skipped == Published(None, 1)
        assert sink.publications[1:3] == [TAGGED, TAGGED]
        assert two == Position(2, one.epoch)
        assert [p.data for p in (await read(broker, limit=10)).publications] == [b"1", b"2"]


@pytest.mark.parametrize("skip_history", [False, True])
async def test_a_key_and_a_version_hold_with_tags_and_without_being_kept(
    server: Client, prefix: str, skip_history: bool
) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")

        async def publish_once(once: Once) -> Published:
            return await broker.publish(TAGGED, KEPT, once=once, skip_history=skip_history)

        first = await publish_once(Once(key="k", version=2))
        assert await publish_once(Once(key="k")) == Published(first.position, -1)
        assert (await publish_once(Once(version=2))).receiver_count == -2
        assert (await publish_once(Once(version=1, version_epoch="new"))).receiver_count == 1
        assert (await publish_once(Once(lease_owner="somebody"))).receiver_count == -3
        (last,) = await keep(broker, b"last")
        await sink.until_texts([b"hi", b"hi", b"last"])
        kept = (await read(broker, limit=10)).publications

    assert [(p.tags, p.info) for p in sink.publications[:2]] == [(TAGGED.tags, TAGGED.info)] * 2
    assert kept == (sink.publications[2:] if skip_history else sink.publications)
    assert last.offset == (1 if skip_history else 3)


async def test_what_is_kept_is_read_backwards_from_a_position(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, _):
        one, two, three = await keep(broker, b"1", b"2", b"3")

        async def texts(**options: Any) -> list[bytes]:  # Any: the fields of Read
            return [publication.data for publication in (await read(broker, limit=10, **options)).publications]

        assert await texts(before=three, newest=True) == [b"1", b"2"]
        assert await texts(before=three) == [b"1", b"2"]
        assert await texts(before=two, newest=True) == [b"1"]
        assert await texts(before=one, newest=True) == []
        assert await texts(before=Position(0, one.epoch), newest=True) == []
        assert await texts(before=Position(2**53 - 1, one.epoch), newest=True) == [b"1", b"2", b"3"]
        assert await texts(before=Position(3, "other"), newest=True) == []
        assert await texts(before=three, since=one) == [b"2"]
        assert await texts(before=one, since=three) == []
        (newest,) = (await read(broker, limit=1, before=three, newest=True)).publications
        assert newest.data == b"2"
        assert await texts() == [b"1", b"2", b"3"], "looking before the first one does no harm"


async def test_a_removed_history_is_gone_and_its_position_stays(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        await broker.subscribe("room:a")
        _, two = await keep(broker, b"1", b"2")
        await broker.remove_history("room:a")

        history = await read(broker, limit=10)
        assert history == History(two, 0, [])
        (three,) = await keep(broker, b"3")
        await sink.until_texts([b"1", b"2", b"3"])
        assert three == Position(3, two.epoch)
        assert (await read(broker, limit=10, since=two)).publications == sink.publications[2:]
        assert sink.removals == [Removal("room:a")]
        await broker.remove_history("room:never")
        assert sink.malformed == []


async def test_a_lost_tail_ends_the_epoch_for_readers_and_for_publishers(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (witness, _), running(server, prefix) as (stranger, _):
        *_, seen = await keep(witness, b"1", b"2")
        await lose_tail(server, prefix, 1)
        assert (await read(stranger)).position == Position(1, seen.epoch), "who has seen nothing cannot know"

        found = await read(stranger, seen=[seen], since=seen, limit=10)
        assert found.position.offset == found.base == 1
        assert found.position.epoch != seen.epoch
        assert await read(stranger, seen=[seen], since=seen, limit=10) == found, "it ends once, whoever sees it"

        seen = Position(5, found.position.epoch)
        published = await stranger.publish(Publication("room:a", b"2 again"), KEPT, seen=[seen])
        assert published.position is not None
        assert published.position.offset == 2
        assert published.position.epoch not in {seen.epoch, found.position.epoch}


@pytest.mark.parametrize("how", ["read", "publish", "publish many"])
async def test_who_has_published_or_read_knows_of_a_lost_tail_without_being_told(
    server: Client, prefix: str, how: str
) -> None:
    async with running(server, prefix) as (witness, _), running(server, prefix) as (stranger, _):
        *_, seen = await keep(stranger, b"1", b"2")
        if how == "read":
            assert (await read(witness)).position == seen
        else:
            (seen,) = await keep(witness, b"3")
        await lose_tail(server, prefix, 1)

        if how == "publish many":
            (published,) = await witness.publish_all([Submission(Publication("room:a", b"again"), KEPT, ALWAYS)])
            assert isinstance(published, Published)
            position = published.position
        elif how == "publish":
            (position,) = await keep(witness, b"again")
        else:
            position = (await read(witness)).position
        assert position is not None
        assert position.epoch != seen.epoch


async def lose_tail(server: Client, prefix: str, offset: int) -> None:
    """Simulate a failover to a replica that lags behind."""
    meta, stream = (ChannelKeys(prefix).key("room:a", name) for name in ("meta", "stream"))
    await server.hset(meta, "offset", str(offset))
    for number in range(offset + 1, offset + 5):
        await server.xdel(stream, f"{number}-0")


async def test_a_stream_that_somebody_else_has_written_into_harms_nobody(server: Client, prefix: str) -> None:
    async with running(server, prefix) as (broker, sink):
        stream = ChannelKeys(prefix).key("room:a", "stream")
        one, _ = await keep(broker, b"1", b"2")
        await server.xadd(stream, {"d": b"x", "k": b"?"}, id="2-5")
        assert [p.data for p in (await read(broker, limit=10)).publications] == [b"1", b"2"]
        assert sink.malformed == [("room:a", "entry b'2-5': not written by a node")]
        await server.xadd(stream, {"anything": b"x"})  # an id far beyond the next offset

        three = (await broker.publish(TAGGED, KEPT)).position
        assert three is not None
        assert three.offset == 3
        assert three.epoch != one.epoch, "what was kept cannot be trusted any more"
        assert (await read(broker, limit=10)).publications == [TAGGED._replace(position=three)]

        await server.set(stream, "no stream")
        assert (await read(broker, limit=10)).publications == []
        await server.set(stream, "no stream")
        (four,) = await keep(broker, b"4")
        assert four.offset == 4


async def test_scripts_that_the_server_has_forgotten_are_sent_again_and_the_order_is_kept(
    valkey: Redis, prefix: str
) -> None:
    async with running(valkey, prefix) as (broker, _):
        await keep(broker, b"0")
        await valkey.script_flush()
        await asyncio.gather(*[broker.publish(Publication("room:a", b"%d" % n), KEPT) for n in range(1, 4)])
        assert [p.data for p in (await read(broker, limit=10)).publications] == [b"1", b"2", b"3"]


async def test_one_unreadable_channel_does_not_keep_others_from_being_read(valkey: Redis, prefix: str) -> None:
    async with running(valkey, prefix) as (broker, _):
        await valkey.set(ChannelKeys(prefix).key("room:b", "meta"), "no hash")
        broken, fine = await broker.read([Read("room:b", KEPT), Read("room:a", KEPT)])

    assert isinstance(broken, BrokerUnavailable)
    assert isinstance(fine, History)
