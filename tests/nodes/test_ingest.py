"""The ingest worker on a real server: entries are published once and in order, invalid ones are dead letters."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast.brokers.interface import Published, Read, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import History
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all
from roomcast.redis_access.work_queue import StreamCounts, WorkQueue
from tests.support.ingest import (
    MAX_MESSAGE_BYTES,
    add,
    broker_of,
    dead,
    history,
    until_done,
    working,
)
from tests.support.processes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_entries_are_published_with_history_in_their_order_and_are_gone(client: Client, prefix: str) -> None:
    for number in range(600):  # more than one batch
        await add(client, prefix, channel=f"room:{'ab'[number % 2]}", data=number)
    async with working(client, prefix):
        await until_done(client, prefix)
        await add(client, prefix, channel="room:a", data='{"text": "größe"}')
        await until_done(client, prefix)

    # Of each channel 300 are kept.
    assert await history(client, prefix) == [*[b"%d" % n for n in range(2, 600, 2)], '{"text": "größe"}'.encode()]
    assert await history(client, prefix, "room:b") == [b"%d" % n for n in range(1, 600, 2)]
    assert await dead(client, prefix) == []


async def test_a_key_publishes_once_and_a_version_that_is_not_higher_is_dropped(client: Client, prefix: str) -> None:
    for fields in (
        {"data": "1", "key": "k"},
        {"data": "11", "key": "k"},
        {"data": "2", "version": "7"},
        {"data": "3", "version": "7"},
        {"data": "4", "version": "1", "version_epoch": "new"},
        {"data": "5", "key": "", "version_epoch": ""},
    ):
        await add(client, prefix, channel="room:a", **fields)
    async with working(client, prefix):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"1", b"2", b"4", b"5"]


async def test_tags_are_published_with_the_entry(client: Client, prefix: str) -> None:
    for tags in ({"tags": '{"lang": "en"}'}, {"tags": "{}"}, {}):
        await add(client, prefix, channel="room:a", data=1, **tags)
    async with working(client, prefix):
        await until_done(client, prefix)

    (found,) = await broker_of(client, prefix).read([Read("room:a", DEFAULTS["room"], limit=10)])
    assert isinstance(found, History)
    assert [publication.tags for publication in found.publications] == [{"lang": "en"}, None, None]


@pytest.mark.parametrize("is_foreign", [True, False], ids=["another type", "Redis' clock was set back"])
async def test_a_lease_that_no_worker_can_hold_stops_no_worker(client: Client, prefix: str, is_foreign: bool) -> None:
    key = WorkQueue(client, prefix=prefix).lease_key
    command = ("HSET", key, "a", "1") if is_foreign else ("SET", key, "killed", "EX", 402)
    await run_all(client, [command], ())
    await add(client, prefix, channel="room:a", data=1)

    async with working(client, prefix):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"1"]


Fields = dict[str, str | bytes | int]
POISON: list[tuple[Fields, str]] = [
    ({"data": "1"}, "no channel"),
    ({"channel": "room:a"}, "no data"),
    ({"channel": "room:a", "data": "{"}, "not JSON: "),
    ({"channel": "room:a", "data": ""}, "not JSON: "),
    ({"channel": "room:a", "data": b'"\xff"'}, "not JSON: "),
    ({"channel": "room:a", "data": f'"{"x" * MAX_MESSAGE_BYTES}"'}, "1002 bytes, more than max_message_bytes (1000)"),
    ({"channel": "nobody:a", "data": "1"}, "no namespace 'nobody'"),
    ({"channel": "lobby", "data": "1"}, "no namespace: a channel is written namespace:name"),
    ({"channel": "room:", "data": "1"}, "channel has no name behind its namespace"),
    ({"channel": "", "data": "1"}, "channel must be 1 to 255 bytes, this one has 0"),
    ({"channel": "room:" + "x" * 300, "data": "1"}, "channel must be 1 to 255 bytes, this one has 305"),
    ({"channel": "room:\n", "data": "1"}, "channel holds a control character"),
    ({"channel": b"room:\xff", "data": "1"}, "channel is not valid UTF-8"),
    ({"channel": "room:{a}", "data": "1"}, "channel holds a brace"),
    ({"channel": "room:a", "data": "1", "key": "k" * 129}, "key has more than 128 characters"),
    ({"channel": "room:a", "data": "1", "key": b"\xff"}, "key is not valid UTF-8"),
    ({"channel": "room:a", "data": "1", "version_epoch": "e" * 65}, "version_epoch has more than 64 characters"),
    ({"channel": "room:a", "data": "1", "tags": ""}, "tags: not JSON: "),
    ({"channel": "room:a", "data": "1", "tags": b'{"a":"\xff"}'}, "tags: not JSON: "),
    ({"channel": "room:a", "data": "1", "tags": "[]"}, "tags is no object"),
    ({"channel": "room:a", "data": "1", "tags": '{"a":1}'}, "keys and values of tags are texts"),
    (
        {"channel": "room:a", "data": "1", "tags": f'{{"{"a" * 129}":""}}'},
        "a key or value of tags has 129 bytes, at most 128 are allowed",
    ),
]
POISON += [
    ({"channel": "state:a", "data": "1"}, "the channel is a map: name it in the field map, and a key"),
    ({"channel": "state:a", "map": "state:a", "data": "1", "key": "k"}, "an entry has a map or a channel"),
    ({"map": "room:a", "data": "1", "key": "k"}, "this channel is not a map"),
    ({"map": "state:{a}", "data": "1", "key": "k"}, "channel holds a brace"),
    ({"map": "state:a", "data": "1"}, "no key"),
    ({"map": "state:a", "data": "1", "key": ""}, "key must be 1 to 255 bytes, this one has 0"),
    ({"map": "state:a", "data": "1", "key": b"\xff"}, "key is not valid UTF-8"),
    ({"map": "state:a", "data": "1", "key": "a\nb"}, "key holds a control character"),
    ({"map": "state:a", "key": "k"}, "no data"),
    ({"map": "state:a", "key": "k", "data": "{"}, "not JSON: "),
    ({"map": "state:a", "key": "k", "removed": "0"}, "removed is 1, without data, or not there"),
    ({"map": "state:a", "key": "k", "removed": "1", "data": "1"}, "removed is 1, without data, or not there"),
    ({"map": "state:a", "key": "k", "data": "1", "key_mode": "new"}, "key_mode is if_new or if_exists"),
    ({"map": "state:a", "key": "k", "data": "1", "idempotency_key": "k" * 129}, "idempotency_key has more than 128"),
    ({"map": "state:a", "key": "k", "data": "1", "version": "-1"}, "version is no whole number from 0 to "),
    ({"map": "state:a", "key": "k", "data": "1", "expected_offset": "-1"}, "expected_offset is no whole number from"),
    ({"map": "state:a", "key": "k", "data": "1", "expected_epoch": "e"}, "expected_epoch without expected_offset"),
    ({"map": "cursors:a", "key": "k", "data": "1", "expected_offset": "1"}, "expected_offset: an ephemeral map"),
    (
        {"map": "state:a", "key": "k", "data": "1", "expected_offset": "1", "expected_epoch": "a b"},
        "an epoch is the text that came with the offset",
    ),
]
for no_version in ("one", "", "-1", "1.0", "²", str(2**53), "9" * 5000, "0" * 5000):
    no_version_reason = "version is no whole number from 0 to 9007199254740991"
    POISON.append(({"channel": "room:a", "data": "1", "version": no_version}, no_version_reason))


async def test_poison_goes_to_the_dead_letters_with_its_reason_and_stops_nobody(client: Client, prefix: str) -> None:
    for number, (poison, _) in enumerate(POISON):
        await add(client, prefix, channel="room:a", data=number)
        await add(client, prefix, **poison)
    await add(client, prefix, channel="room:a", data=len(POISON))
    entries: Any = await client.xrange(f"{prefix}ingest")  # Any: redis-py's reply
    ids = [entry_id for entry_id, _ in entries]

    async with working(client, prefix):
        assert await until_done(client, prefix) == StreamCounts(lag=0, dead=len(POISON))

    assert await history(client, prefix) == [b"%d" % number for number in range(len(POISON) + 1)]
    for fields, (poison, reason), entry_id in zip(await dead(client, prefix), POISON, ids[1::2], strict=True):
        assert fields.pop(b"reason").decode().startswith(reason)
        assert fields.pop(b"id") == entry_id
        assert fields == {
            name.encode(): value if isinstance(value, bytes) else str(value).encode() for name, value in poison.items()
        }


async def test_an_entry_of_any_number_of_fields_does_no_harm(client: Client, prefix: str) -> None:
    many: Fields = {f"field {number}": "x" for number in range(20_000)}
    await add(client, prefix, **many, channel="room:a")
    await add(client, prefix, **many, channel="room:a", data=1)

    async with working(client, prefix):
        await until_done(client, prefix)

    (fields,) = await dead(client, prefix)
    assert fields[b"reason"] == b"no data"
    assert len(fields) == 502, "so many are kept, and two are ours"
    assert await history(client, prefix) == [b"1"]


async def test_a_channel_whose_keys_somebody_else_has_written_stops_no_other(client: Client, prefix: str) -> None:
    await client.set(ChannelKeys(prefix).key("room:broken", "meta"), "no hash")
    for number in range(3):
        await add(client, prefix, channel="room:broken", data=number)
        await add(client, prefix, channel="room:a", data=number)

    async with working(client, prefix):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"1", b"2"]
    assert [(fields[b"data"], fields[b"reason"]) for fields in await dead(client, prefix)] == [
        (b"%d" % number, b"the channel's keys in Redis hold something else") for number in range(3)
    ]


class RefusingBroker(RedisBroker):
    """Redis takes some publications later than others, as when it is out of memory."""

    refused: tuple[bytes, ...] = ()

    async def publish_all(self, submissions: Any) -> list[Published | ClientError | BrokerUnavailable]:  # Any: narrower
        wanted: list[Submission] = list(submissions)
        taken = iter(await super().publish_all([one for one in wanted if one.publication.data not in self.refused]))
        away = BrokerUnavailable("Redis refuses a command (OOM)")
        return [away if one.publication.data in self.refused else next(taken) for one in wanted]


async def test_what_redis_refuses_for_now_waits_in_its_place(client: Client, prefix: str) -> None:
    broker = RefusingBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
    broker.refused = (b"2", b"3")
    for number in range(4):
        await add(client, prefix, channel="room:a", data=number)
    await add(client, prefix, channel="room:b", data=0)

    async with working(client, prefix, broker):

        async def waits() -> bool:
            return await client.xlen(f"{prefix}ingest") == 2

        await eventually(waits)
        assert await history(client, prefix) == [b"0", b"1"]
        assert await history(client, prefix, "room:b") == [b"0"]
        await add(client, prefix, channel="room:b", data=1)
        broker.refused = ()
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"1", b"2", b"3"]
    assert await history(client, prefix, "room:b") == [b"0", b"1"]
    assert await dead(client, prefix) == []


async def test_what_a_later_entry_of_its_channel_has_overtaken_is_not_published_any_more(
    client: Client, prefix: str
) -> None:
    broker = RefusingBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
    broker.refused = (b"1",)
    for number in range(3):
        await add(client, prefix, channel="room:a", data=number)

    async with working(client, prefix, broker):
        await until_done(client, prefix)

    assert await history(client, prefix) == [b"0", b"2"]
    (fields,) = await dead(client, prefix)
    assert fields[b"data"] == b"1"
    assert b"OOM), and a later entry of the channel was published" in fields[b"reason"]
