"""Each test fails on a way in which the reference server loses data of maps, or answers wrongly.

The others of those ways are of the store alone, and have tests in tests/contract.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from roomcast.redis_access.keys import ChannelKeys
from tests.nodes.maps import batch, has_come, map_in_redis, put, put_all, remove
from tests.nodes.maps.conftest import PREFIX
from tests.support.maps import UNRECOVERABLE, Follower
from tests.support.processes import NodeProcess, eventually
from tests.support.speaker import Speaker, connected
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.mark.parametrize("namespace", ["fleeting", "kept", "tracked"])
async def test_what_changes_between_the_pages_arrives(
    node: NodeProcess, other: NodeProcess, speaker: Speaker, name: str, namespace: str
) -> None:
    """Keys of the first page, of later ones and new ones; set, removed, removed and set again, set and removed."""
    channel = f"{namespace}:{name}"
    await put_all(node, channel, {f"k{number}": "before" for number in range(8)})
    follower = Follower(speaker, channel, limit=2)
    await follower.step()

    await put_all(other, channel, {"k0": "set", "k3": "set", "k8": "new", "k5": "", "k9": "new", "k": "first"})
    for key in ("k1", "k4", "k5", "k6", "k9", "k7"):
        await remove(other, channel, key)
    await put_all(other, channel, {"k6": "again", "k1": "again"})
    while not follower.is_live:
        await follower.step()

    await has_come(other, follower)
    changed = {"k": "first", "k0": "set", "k1": "again", "k3": "set", "k6": "again", "k8": "new", "marker": 1}
    assert follower.entries == {"k2": "before", **changed}
    assert follower.entries == await map_in_redis(node, channel)


async def test_a_removal_between_the_pages_of_an_ephemeral_map_comes_without_a_later_change(
    node: NodeProcess, speaker: Speaker, name: str
) -> None:
    channel = f"fleeting:{name}"
    await put_all(node, channel, {"a": 1, "b": 2, "c": 3})
    follower = Follower(speaker, channel, limit=1)
    await follower.step()
    await remove(node, channel, "a")
    await follower.step()
    await remove(node, channel, "b")

    live = await follower.step()

    assert follower.is_live, live
    assert follower.entries == {"c": 3}
    assert {"recoverable", "offset", "epoch"}.isdisjoint(live)
    assert [(each["key"], each["removed"]) for each in live["publications"]] == [("a", True), ("b", True)]


@pytest.mark.parametrize("namespace", ["fleeting", "kept"])
async def test_a_first_page_ignores_the_position_of_a_load_that_failed(
    node: NodeProcess, speaker: Speaker, name: str, namespace: str
) -> None:
    channel = f"{namespace}:{name}"
    await put_all(node, channel, {"a": 1, "b": 2, "c": 3})
    async with connected(node) as broken:
        first = await Follower(broken, channel, limit=1).step()
    await put_all(node, channel, {"d": 4, "a": 5})
    stale = {"offset": first.get("offset", 1), "epoch": first.get("epoch", "stale")}

    follower = Follower(speaker, channel, limit=1, **stale)
    await follower.step()
    follower.params = {"type": 1, "limit": 1}
    while not follower.is_live:
        assert "error" not in await follower.step()

    assert follower.entries == {"a": 5, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("namespace", ["fleeting", "kept", "tracked"])
async def test_a_first_page_ignores_an_epoch_that_is_none(
    node: NodeProcess, speaker: Speaker, name: str, namespace: str
) -> None:
    channel = f"{namespace}:{name}"
    await put(node, channel, "a", 1)

    follower = Follower(speaker, channel, offset=2**40, epoch="stale")

    assert "error" not in await follower.step()
    assert follower.entries == {"a": 1}


async def test_changes_that_have_expired_from_the_stream_are_not_recovered(
    node: NodeProcess, other: NodeProcess, client: Redis, name: str
) -> None:
    """Nothing is written since, so no gap in the stream shows the loss."""
    channel = f"brief:{name}"
    await put(node, channel, "a", 1)
    async with connected(node) as first, connected(other) as second, connected(other) as third:
        lost, whole = Follower(first, channel), Follower(first, channel)
        await lost.load()
        await put(node, channel, "b", 2)
        await put(node, channel, "c", 3)
        assert lost.position is not None
        whole.position = {**lost.position, "offset": 3}
        stream = ChannelKeys(PREFIX).key(channel, "stream")

        async def has_expired() -> bool:
            return not await client.exists(stream)

        await eventually(has_expired)

        refused = await lost.recover(second)
        recovered = await whole.recover(third)

        assert refused["error"]["code"] == UNRECOVERABLE
        assert (recovered["recovered"], recovered["offset"], recovered.get("publications", [])) == (True, 3, [])


@pytest.mark.parametrize(("offset", "is_recovered"), [(0, False), (2, False), (3, True), (5, True), (6, False)])
async def test_recovery_needs_every_change_since_the_position(
    node: NodeProcess, speaker: Speaker, client: Redis, name: str, *, offset: int, is_recovered: bool
) -> None:
    """The stream has exactly the newest two of five changes."""
    channel = f"small:{name}"
    position = {}
    for number in range(5):
        position = await put(node, channel, "k", number)
    assert await client.xlen(ChannelKeys(PREFIX).key(channel, "stream")) == 2
    follower = Follower(speaker, channel)
    follower.position = {"offset": offset, "epoch": position["epoch"]}

    reply = await follower.recover()

    if is_recovered:
        missed = [each["offset"] for each in reply.get("publications", [])]
        assert (reply["recovered"], reply["was_recovering"], reply["offset"]) == (True, True, 5)
        assert missed == list(range(offset + 1, 6))
    else:
        assert reply["error"]["code"] == UNRECOVERABLE


async def test_recovery_from_offset_0_of_a_stream_that_has_everything(
    node: NodeProcess, speaker: Speaker, name: str
) -> None:
    channel = f"small:{name}"
    follower = Follower(speaker, channel)
    live = await follower.load()
    assert "offset" not in live
    await speaker.ask("unsubscribe", channel=channel)
    await put(node, channel, "k", 1)

    assert (await follower.recover())["recovered"]
    assert follower.entries == {"k": 1}


async def test_a_key_that_is_refreshed_expires_once_at_its_last_deadline(
    node: NodeProcess, speaker: Speaker, name: str
) -> None:
    channel = f"fading:{name}"
    await put_all(node, channel, {"again": 0, "left": 0})
    follower = Follower(speaker, channel)
    await follower.load()

    seen: list[tuple[str, bool]] = []
    while ("left", True) not in seen:
        await put(node, channel, "again", 1)
        push = (await follower.next_push())["pub"]
        seen.append((push["key"], push.get("removed", False)))
    assert set(seen) == {("again", False), ("left", True)}
    while (push := (await follower.next_push())["pub"]) == {"key": "again", "data": 1}:
        pass
    assert push == {"key": "again", "removed": True}
    await put(node, channel, "left", 1)
    assert (await follower.next_push())["pub"] == {"key": "left", "data": 1}


async def test_only_the_first_connection_of_a_user_is_pushed(node: NodeProcess, speaker: Speaker, name: str) -> None:
    channel = f"lobby:{name}"
    watcher = Follower(speaker, f"users:{channel}", type=3)
    await watcher.load()
    pushed = []
    async with AsyncExitStack() as stack:
        for user in ("ada", "ada", "bob"):
            client = await stack.enter_async_context(connected(node, token(user)))
            assert "error" not in await Follower(client, channel).load()
            if user not in pushed:
                pushed.append((await watcher.next_push())["pub"]["key"])
    assert pushed == ["ada", "bob"]


async def test_a_subscription_token_keeps_the_maps_of_presence(node: NodeProcess, speaker: Speaker, name: str) -> None:
    """The maps of a private channel are private too."""
    private = f"$lobby:{name}"
    of_clients, of_users = f"$clients:lobby:{name}", f"$users:lobby:{name}"
    clients = Follower(speaker, of_clients, type=2, token=token("", channel=of_clients))
    await clients.load()
    async with connected(node) as second, connected(node, token("ada")) as ada:
        users = Follower(second, of_users, type=3, token=token("", channel=of_users))
        await users.load()
        assert "error" not in await Follower(ada, private, token=token("ada", channel=private)).load()

        client_id = ada.welcome["client"]
        assert (await clients.next_push())["pub"] == {"key": client_id, "info": {"user": "ada", "client": client_id}}
        assert (await users.next_push())["pub"] == {"key": "ada"}
        await ada.ask("unsubscribe", channel=private)
        assert (await clients.next_push())["pub"] == {"key": client_id, "removed": True}


@pytest.mark.parametrize("end", ["unsubscribe", "disconnect"])
async def test_a_subscription_token_keeps_the_removal_of_the_client_s_key(
    node: NodeProcess, speaker: Speaker, name: str, end: str
) -> None:
    private = f"$cursor:{name}"
    watcher = Follower(speaker, private, token=token("", channel=private))
    await watcher.load()
    async with connected(node, token("ada")) as ada:
        await Follower(ada, private, token=token("ada", channel=private)).load()
        assert await ada.ask("publish", channel=private, type=1, key="x", data=1) == {}
        key = (await watcher.next_push())["pub"]["key"]
        assert key == ada.welcome["client"]
        if end == "unsubscribe":
            await ada.ask("unsubscribe", channel=private)
            assert (await watcher.next_push())["pub"] == {"key": key, "removed": True}
    if end == "disconnect":
        assert (await watcher.next_push())["pub"] == {"key": key, "removed": True}


async def test_a_subscription_token_is_refreshed(node: NodeProcess, name: str) -> None:
    private = f"$kept:{name}"
    await put_all(node, private, {"a": 1, "b": 2})
    async with connected(node, token("ada")) as ada:
        follower = Follower(ada, private, token=token("ada", ttl_s=60, channel=private), limit=1)
        live = await follower.load()
        assert (live["expires"], 58 <= live["ttl"] <= 60) == (True, True)
        refreshed = await ada.ask("sub_refresh", channel=private, token=token("ada", ttl_s=600, channel=private))
        assert (refreshed["expires"], 590 <= refreshed["ttl"] <= 600) == (True, True)


async def test_a_recovery_with_a_token_says_when_it_expires(node: NodeProcess, name: str) -> None:
    private = f"$kept:{name}"
    async with connected(node, token("ada")) as ada:
        follower = Follower(ada, private, token=token("ada", ttl_s=60, channel=private))
        await follower.load()
        await ada.ask("unsubscribe", channel=private)
        live = await follower.recover()
        assert (live["recovered"], live["expires"], 58 <= live["ttl"] <= 60) == (True, True, True)


@pytest.mark.parametrize("namespace", ["fleeting", "kept"])
async def test_unsubscribing_while_pages_are_loaded_is_answered(
    node: NodeProcess, speaker: Speaker, name: str, namespace: str
) -> None:
    channel = f"{namespace}:{name}"
    await put_all(node, channel, {"a": 1, "b": 2, "c": 3})
    follower = Follower(speaker, channel, limit=1)
    await follower.step()

    assert await speaker.ask("unsubscribe", channel=channel) == {}

    assert (await follower.step())["error"]["code"] == 103
    await follower.load()
    assert follower.entries == {"a": 1, "b": 2, "c": 3}


async def test_a_client_that_filters_is_told_of_removals_by_the_api(
    node: NodeProcess, speaker: Speaker, name: str
) -> None:
    channel, eng, sales = f"tagged:{name}", {"team": "eng"}, {"team": "sales"}
    for key, tags in (("ada", eng), ("bob", sales), ("eve", eng)):
        await put(node, channel, key, 1, tags=tags)
    follower = Follower(speaker, channel, tf={"key": "team", "cmp": "eq", "val": "eng"})
    await follower.load()
    assert sorted(follower.entries) == ["ada", "eve"]

    for key in ("bob", "ada"):
        await remove(node, channel, key)
    await put(node, channel, "eve", 2, tags=sales)
    await put(node, channel, "bob", 2, tags=sales)
    await put(node, channel, "joe", 2, tags=eng)

    await follower.follow(lambda entries: "joe" in entries)
    assert sorted(follower.entries) == ["joe"]


async def test_pages_are_sorted_and_as_large_as_was_asked_for(node: NodeProcess, speaker: Speaker, name: str) -> None:
    """Those that the node has read, and those that have come since."""
    channel = f"fleeting:{name}"
    keys = [f"k{number:03}" for number in range(250)]
    shuffled = keys[1::2] + keys[-2::-2]
    commands = [{"map_publish": {"channel": channel, "key": key, "data": 1}} for key in shuffled]
    follower = Follower(speaker, channel, limit=100)

    async with connected(node) as first:
        await batch(node, commands[:170])
        await Follower(first, channel, limit=100).load()
        await batch(node, commands[170:])
        await follower.load()

    pages = [[entry["key"] for entry in reply["state"]] for reply in follower.replies]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert [key for page in pages for key in page] == keys
