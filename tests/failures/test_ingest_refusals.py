"""Entries of the ingest stream that Redis refuses, for now or for good; shards that are away. The others continue."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from roomcast.brokers.interface import Published, Submission
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.redis_access.client import Client, connect, refusals_of
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.work_queue import WorkQueue
from tests.support.ingest import MAX_MESSAGE_BYTES, add, dead, history, until_done, working
from tests.support.processes import eventually
from tests.support.redis_shapes import quick_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def add_all(client: Any, prefix: str, entries: list[tuple[str, int]]) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        for channel, number in entries:
            pipeline.xadd(f"{prefix}ingest", {"channel": channel, "data": number})
        await pipeline.execute()


@pytest.fixture(params=["keys", "topics"])
async def limited(request: pytest.FixtureRequest, redis_url: str, client: Any, prefix: str) -> AsyncIterator[Client]:
    """A client whose user may use the keys, or the topics, of rooms that begin with `may-`, and of no other."""
    user = prefix.strip(":")
    allowed = {
        "keys": [f"&{prefix}*", f"~{prefix}*", f"~{{{prefix}ingest}}*", f"~{{{prefix}room:may-*"],
        "topics": [f"&{prefix}room:may-*", "~*"],
    }
    rights = ["resetchannels", "on", "nopass", "+@all", *allowed[request.param]]
    await client.execute_command("ACL", "SETUSER", user, *rights)
    async with connect(redis_url.replace("//", f"//{user}:x@"), timeout_s=5.0, client_name="limited") as limited:
        yield limited
    await client.execute_command("ACL", "DELUSER", user)


async def test_what_redis_refuses_for_good_is_dead_and_delays_nobody(client: Any, limited: Client, prefix: str) -> None:
    broken = [f"room:may-broken-{number}" for number in range(300)]
    for channel in broken:
        await client.hset(ChannelKeys(prefix).key(channel, "meta"), "offset", "abc")
    refused = [(f"room:not-{number % 100}", number) for number in range(300)]
    refused += [(channel, number) for number, channel in enumerate(broken)]
    await add_all(client, prefix, refused)
    await add_all(client, prefix, [(f"room:may-{number % 2}", number) for number in range(2000)])

    started_s = time.monotonic()
    async with working(limited, prefix):

        async def are_published() -> bool:
            return len(await client.keys(f"*{prefix}room:may-?}}:once:*")) == 2000

        await eventually(are_published)
        assert time.monotonic() - started_s < 4.0, "with pauses these would need as many seconds as there are batches"
        await until_done(client, prefix)

    assert await history(client, prefix, "room:may-1") == [b"%d" % number for number in range(1401, 2000, 2)]
    letters = await dead(client, prefix)
    assert sorted((fields[b"channel"].decode(), int(fields[b"data"])) for fields in letters) == sorted(refused)
    reasons = {fields[b"reason"] for fields in letters}
    foreign = b"the channel's position in Redis was not written by a node"
    assert reasons == {b"Redis refuses a command (NOPERM)", foreign}


async def test_a_user_that_may_publish_nowhere_yet_loses_no_entry(client: Any, limited: Client, prefix: str) -> None:
    """An operator's mistake is no property of the entries."""
    await add_all(client, prefix, [("room:not-1", number) for number in range(10)])
    async with working(limited, prefix):

        async def is_refused() -> bool:
            return refusals_of(limited).counts["NOPERM"] > 0

        await eventually(is_refused)
        await client.execute_command("ACL", "SETUSER", prefix.strip(":"), "allkeys", "allchannels")
        await until_done(client, prefix)

    assert await history(client, prefix, "room:not-1") == [b"%d" % number for number in range(10)]
    assert await dead(client, prefix) == []


async def test_entries_that_cannot_even_be_buried_delay_nobody(client: Any, limited: Client, prefix: str) -> None:
    await client.set(WorkQueue(client, prefix=prefix).dead_key, "no stream")
    async with client.pipeline(transaction=False) as pipeline:
        for _ in range(300):
            pipeline.xadd(f"{prefix}ingest", {"channel": "nobody:a", "data": 1})
        await pipeline.execute()
    await add_all(client, prefix, [("room:may-1", number) for number in range(300)])
    async with working(limited, prefix):

        async def are_published() -> bool:
            return bool(await client.xlen(f"{prefix}ingest") == 300)

        await eventually(are_published)
        await client.delete(WorkQueue(client, prefix=prefix).dead_key)
        assert (await until_done(client, prefix)).dead == 300

    assert await history(client, prefix, "room:may-1") == [b"%d" % number for number in range(300)]


class FullBroker(RedisBroker):
    """Redis refuses some channels for a while, as a shard does that is out of memory."""

    full: frozenset[str] = frozenset()
    tries = 0

    async def publish_all(self, submissions: Any) -> list[Published | ClientError | BrokerUnavailable]:  # Any: narrower
        wanted: list[Submission] = list(submissions)
        self.tries += any(one.publication.channel in self.full for one in wanted)
        taken = iter(await super().publish_all([one for one in wanted if one.publication.channel not in self.full]))
        away = BrokerUnavailable("Redis refuses a command (OOM)")
        return [away if one.publication.channel in self.full else next(taken) for one in wanted]


async def test_channels_that_wait_delay_no_other_and_keep_their_order(client: Any, prefix: str) -> None:
    broker = FullBroker(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
    broker.full = frozenset(f"room:full-{number}" for number in range(50))
    channels = [*broker.full, "room:a", "room:b"]
    waiting = [(channel, number) for number in range(10) for channel in channels]
    await add_all(client, prefix, waiting)
    async with working(client, prefix, broker):

        async def are_published() -> bool:
            return bool(await client.xlen(f"{prefix}ingest") == 500)

        await eventually(are_published)
        await add_all(client, prefix, [(channel, number) for number in range(10, 20) for channel in channels])

        async def are_more_published() -> bool:
            return bool(await client.xlen(f"{prefix}ingest") == 1000)

        await eventually(are_more_published)
        tries = broker.tries
        await eventually(lambda: _more(broker, tries))
        first: Any = (await client.xrange(f"{prefix}ingest", count=1))[0]
        await client.xdel(f"{prefix}ingest", first[0])  # an operator drops one
        broker.full = frozenset()
        await until_done(client, prefix)

    for channel in channels:
        dropped = [b"0"] if channel == first[1][b"channel"].decode() else []
        assert await history(client, prefix, channel) == [b"%d" % n for n in range(20) if b"%d" % n not in dropped]
    assert await dead(client, prefix) == []


async def _more(broker: FullBroker, tries: int) -> bool:
    return broker.tries > tries + 1


class MoodyBroker(RedisBroker):
    """Three shards, each of which refuses channels, takes long or is away, as it likes."""

    def __init__(self, client: Client, prefix: str, choices: random.Random) -> None:
        super().__init__(client, prefix=prefix, node_id="n", max_message_bytes=MAX_MESSAGE_BYTES)
        self._choices = choices
        self.is_calm = False

    def shard_of(self, channel: str) -> str:
        return f"shard-{int(channel[5:]) % 3}"

    async def publish_all(self, submissions: Any) -> list[Published | ClientError | BrokerUnavailable]:  # Any: narrower
        wanted: list[Submission] = list(submissions)
        mood = "calm" if self.is_calm else self._choices.choice(["calm", "slow", "full", "away", "lost reply"])
        if mood == "slow":
            await asyncio.sleep(0.2)  # the tested fault
        if mood == "away":
            raise BrokerUnavailable("Redis is away")
        channels = sorted({one.publication.channel for one in wanted})
        full = set(self._choices.sample(channels, self._choices.randint(0, len(channels)))) if mood == "full" else set()
        taken = iter(await super().publish_all([one for one in wanted if one.publication.channel not in full]))
        if mood == "lost reply":
            raise BrokerUnavailable("Redis is away")
        away = BrokerUnavailable("Redis refuses a command (OOM)")
        return [away if one.publication.channel in full else next(taken) for one in wanted]


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_shards_do_each_channel_keeps_its_order(
    client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("roomcast_workers.ingest._TICK_S", 0.02)
    monkeypatch.setattr("roomcast_workers.ingest._BATCH_LENGTH", 20)
    choices = random.Random(seed)
    broker = MoodyBroker(client, prefix, choices)
    async with working(client, prefix, broker):
        for start in range(0, 100, 10):
            entries = [(f"room:{n}", number) for number in range(start, start + 10) for n in range(8)]
            await add_all(client, prefix, entries)
            await asyncio.sleep(choices.random() / 10)  # they come while others wait
        broker.is_calm = True
        await until_done(client, prefix)

    for n in range(8):
        assert await history(client, prefix, f"room:{n}") == [b"%d" % number for number in range(100)]
    assert await dead(client, prefix) == []


async def test_a_shard_that_is_silent_delays_no_other_and_its_entries_follow(tmp_path: Path) -> None:
    prefix = "i:"
    with quick_cluster(tmp_path) as shape:
        async with connect(shape.url, timeout_s=2.0, client_name="test") as client:
            stream = shape.shard_of(key_slot(f"{prefix}ingest".encode()))[0]
            shards = {n: shape.shard_of(key_slot(f"{prefix}room:{n}".encode()))[0] for n in range(60)}
            silent = next(server for server in shards.values() if server is not stream)
            async with working(client, prefix):
                for number in shards:
                    await add(client, prefix, channel=f"room:{number}", data=0)
                await until_done(client, prefix)
                silent.freeze()
                started_s = time.monotonic()
                for data in range(1, 4):
                    for number in shards:
                        await add(client, prefix, channel=f"room:{number}", data=data)

                async def are_published() -> bool:
                    left: Any = await client.xrange(f"{prefix}ingest")
                    return all(shards[int(fields[b"channel"][5:])] is silent for _, fields in left)

                await eventually(are_published)
                assert time.monotonic() - started_s < 2.0, "the timeout of a command to the silent shard"
                await until_done(client, prefix)  # a replica has been promoted
                silent.thaw()

            for number in shards:
                assert (await history(client, prefix, f"room:{number}"))[-3:] == [b"1", b"2", b"3"]
            assert await dead(client, prefix) == []
