"""The Lua scripts of presence, on the fake and on a real server."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from roomcast.model.client_info import ClientInfo
from roomcast.model.publications import Membership
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_pipeline
from tests.support.presence import ADA, ADA_AGAIN, BOB, NAMESPACES, NOBODY, Announcements

pytestmark = pytest.mark.anyio


# The scripts.


class Scripts:
    """Runs the scripts, and reads their keys."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self.keys = ChannelKeys(prefix)
        self.commands = PresenceCommands(self.keys, NAMESPACES, publish_command="PUBLISH")

    async def run(self, *commands: tuple[object, ...]) -> list[object]:
        replies = await run_pipeline(self._client, commands, self.commands.scripts)
        assert not [reply for reply in replies if isinstance(reply, Exception)], replies
        return replies

    async def join(self, *clients: ClientInfo, lease: str = "n1.1", channel: str = "room:a") -> object:
        return (await self.run(self.commands.join(channel, lease, clients)))[0]

    async def leave(self, *clients: ClientInfo, lease: str = "n1.1") -> None:
        await self.run(self.commands.leave("room:a", lease, [info.client for info in clients]))

    async def sweep(self, lease: str, channel: str = "room:a") -> object:
        return (await self.run(self.commands.sweep(channel, lease)))[0]

    async def counts(self, channel: str = "room:a") -> list[object]:
        return await self.run(*self.commands.count(channel))

    async def left_over(self, channel: str = "room:a") -> list[bytes]:
        return [key async for key in self._client.scan_iter(match="{" + self.keys.topic(channel) + "}:*")]


@pytest.fixture
def scripts(single_server: Redis, prefix: str) -> Scripts:
    return Scripts(single_server, prefix)


async def test_who_joins_is_counted_and_told_once(single_server: Redis, prefix: str, scripts: Scripts) -> None:
    async with Announcements(single_server, prefix, "room:a") as heard:
        assert await scripts.join(ADA, BOB) == 2
        assert await scripts.join(ADA, BOB, NOBODY) == 1, "who is there joins no second time"
        await heard.hear()
        await heard.hear()

    assert heard.memberships == [
        Membership("room:a", (ADA, BOB), have_joined=True),
        Membership("room:a", (NOBODY,), have_joined=True),
    ]
    assert await scripts.counts() == [3, 3]


async def test_several_clients_of_one_user_are_one_user_until_the_last_has_left(scripts: Scripts) -> None:
    await scripts.join(ADA, ADA_AGAIN, BOB, NOBODY, ClientInfo("n1-5", ""))
    assert await scripts.counts() == [5, 3]

    await scripts.leave(ADA)
    assert await scripts.counts() == [4, 3]
    await scripts.leave(ADA_AGAIN)
    assert await scripts.counts() == [3, 2]


async def test_who_leaves_is_told_once_and_nothing_is_left_of_the_last_one(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    await scripts.join(ADA, BOB)
    async with Announcements(single_server, prefix, "room:a") as heard:
        for _ in range(2):
            await scripts.leave(ADA, BOB, NOBODY)
        await heard.until(left=[ADA.client, BOB.client])

    assert await scripts.left_over() == []


async def test_in_a_channel_without_join_leave_nobody_is_told(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    async with Announcements(single_server, prefix, "quiet:a") as heard:
        await scripts.join(ADA, channel="quiet:a")
        await scripts.sweep("n1.1", channel="quiet:a")
        assert not await heard.hear()

    assert await scripts.counts("quiet:a") == [0, 0]


async def test_of_a_silent_member_nobody_is_told_though_it_can_be_seen(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    async with Announcements(single_server, prefix, "room:a") as heard:
        await scripts.join(ADA._replace(is_silent=True), BOB)
        await heard.until(joined=[BOB.client])
        (reply,) = await scripts.run(scripts.commands.page("room:a", "", 100))

        await scripts.leave(ADA, BOB)
        await heard.until(joined=[BOB.client], left=[BOB.client])

    assert sorted(scripts.commands.read_page("room:a", reply).clients) == [ADA, BOB]


async def test_a_swept_lease_takes_its_own_members_with_it_and_no_others(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    others = ClientInfo("n2-1", "ada")
    await scripts.join(ADA, BOB, NOBODY, lease="n1.1")
    await scripts.join(others, lease="n2.1")
    await scripts.join(BOB, lease="n1.2")  # its node lives after all, and has put it under its next lease
    await scripts.leave(NOBODY, lease="n1.2")  # a client that has left meanwhile is named with the node's present lease

    async with Announcements(single_server, prefix, "room:a") as heard:
        assert await scripts.sweep("n1.1") == 0
        assert await scripts.sweep("n1.1") == 0
        await heard.until(left=[ADA.client])

    assert await scripts.counts() == [2, 2]


async def test_a_sweep_takes_so_many_at_a_time_and_says_how_many_are_left(scripts: Scripts) -> None:
    for start in range(0, 500, 100):
        await scripts.join(*[ClientInfo(f"n1-{number}", "") for number in range(start, start + 100)])

    assert [await scripts.sweep("n1.1") for _ in range(3)] == [300, 100, 0]
    assert await scripts.left_over() == []


async def test_a_channel_is_occupied_by_the_first_lease_and_vacated_by_the_last(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    async with Announcements(single_server, prefix) as heard:
        for lease in ("n1.1", "n2.1", "n1.1"):
            await scripts.run(scripts.commands.occupy('feed:"a"', lease))
        for lease in ("n1.1", "n1.1", "n3.1", "n2.1", "n2.1"):
            await scripts.sweep(lease, 'feed:"a"')
        await heard.until_events(("occupied", 'feed:"a"'), ("vacated", 'feed:"a"'))
        assert not await heard.hear()

    assert await scripts.left_over('feed:"a"') == []


async def test_a_lease_watches_until_its_last_member_is_swept(
    single_server: Redis, prefix: str, scripts: Scripts
) -> None:
    await scripts.run(scripts.commands.occupy("room:a", "n1.1"))
    for start in (0, 100, 200):
        await scripts.join(*[ClientInfo(f"n1-{number}", "") for number in range(start, start + 100)])

    async with Announcements(single_server, prefix) as heard:
        assert await scripts.sweep("n1.1") == 100
        assert not await heard.hear()
        assert await scripts.sweep("n1.1") == 0
        await heard.until_events(("vacated", "room:a"))


async def test_what_all_nodes_have_left_behind_vanishes_by_itself(single_server: Redis, scripts: Scripts) -> None:
    await scripts.join(ADA)
    await scripts.run(scripts.commands.occupy("room:a", "n1.1"))

    left_over = await scripts.left_over()

    assert len(left_over) == 5
    for key in left_over:
        assert 55_000 < await single_server.pttl(key) <= 60_000
        await single_server.pexpire(key, 1000)
    await scripts.run(scripts.commands.occupy("room:a", "n1.1"))
    for key in left_over:
        assert await single_server.pttl(key) > 55_000, "a node that lives keeps it"
