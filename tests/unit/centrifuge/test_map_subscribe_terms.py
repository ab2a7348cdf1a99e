"""Terms of subscriptions to maps, by tokens and permissions, and replies that are too large for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from roomcast.brokers.map_interface import Written
from roomcast.hooks.interface import Hook, MapPublishAnswer
from roomcast.model.client_info import ClientInfo
from tests.support.map_bench import MapBench, Watcher
from tests.support.sessions import turns
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio

LARGE = "x" * 30_000
RED: dict[str, Any] = {"tf": {"key": "team", "cmp": "eq", "val": "red"}}


@pytest.fixture
async def maps() -> AsyncIterator[MapBench]:
    async with MapBench(anonymous=True) as bench:
        yield bench


async def watcher(maps: MapBench, channel: str = "board:a", token: str = "", **members: Any) -> Watcher:
    return Watcher(await maps.connected(token), channel, **members)


# Tokens and permissions.


async def test_a_subscription_token_sets_the_terms(maps: MapBench) -> None:
    claims = {
        "sub": "",
        "channel": "$board:a",
        "exp": int(maps.now_s) + 60,
        "info": {"n": 1},
        "data": {"d": 1},
        "override": {"presence": {"value": False}, "force_recovery": {"value": False}},
    }
    maps.fill("$board:a", 4)
    ada = await watcher(maps, "$board:a")

    assert (await ada.ask(2))["code"] == 103
    first = await ada.ask(2, token=signed(claims))
    reply = await ada.ask(2, cursor=first["cursor"], offset=4, epoch="e")

    assert "data" not in first
    assert reply == {
        "type": 1,
        "recoverable": True,  # the mode of the map decides
        "epoch": "e",
        "offset": 4,
        "state": [{"data": 3, "offset": 4, "key": "k003"}],
        "expires": True,
        "ttl": 60,
        "data": {"d": 1},
    }
    subscription = ada.client.connection.subscriptions["$board:a"]
    assert (subscription.info, subscription.is_present) == (b'{"n":1}', False)
    later = signed({**claims, "exp": maps.now_s + 90})
    ada.client.send({"id": 9, "sub_refresh": {"channel": "$board:a", "token": later}})
    assert (await ada.client.replies(1))[0]["sub_refresh"] == {"expires": True, "ttl": 90}


async def test_a_load_ends_with_the_permission_for_it(maps: MapBench) -> None:
    def token(*channels: str) -> str:
        return signed({"sub": "ada", "permissions": [{"channels": list(channels), "allow": ["subscribe"]}]})

    maps.fill("$board:a", 7)
    ada = await watcher(maps, "$board:a", token("$board:*"))
    await ada.ask(2)

    ada.client.send({"id": 3, "refresh": {"token": token("room:*")}})
    await turns()
    lines = ada.client.got()

    assert lines[-1]["push"] == {
        "channel": "$board:a",
        "unsubscribe": {"code": 2500, "reason": "insufficient state"},
    }
    assert not ada.client.session.loads


async def test_a_key_that_the_application_permits_goes_with_its_connection(maps: MapBench) -> None:
    maps.application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer()
    client = await maps.connected()
    client.send({"id": 2, "publish": {"channel": "own:a", "type": 1, "data": 1}})
    await client.replies(1)
    assert maps.values("own:a") == {client.session.client_id: 1}

    client.vanish()
    maps.node.map_presence.flush()

    assert maps.values("own:a") == {}


async def test_a_key_of_a_client_that_leaves_before_redis_has_answered_goes_too(
    maps: MapBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps.application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer()
    client = await maps.connected()
    write = maps.store.write

    async def write_without_an_answer(*args: Any, **conditions: Any) -> Written:
        await write(*args, **conditions)
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        return await answer

    monkeypatch.setattr(maps.store, "write", write_without_an_answer)
    client.send({"id": 2, "publish": {"channel": "own:a", "type": 1, "data": 1}})
    await turns()
    assert maps.values("own:a")
    monkeypatch.undo()

    client.vanish()
    await turns()
    maps.node.map_presence.flush()

    assert maps.values("own:a") == {}


# Sizes.


async def test_a_position_that_is_not_of_the_reply_before_continues_nothing(maps: MapBench) -> None:
    maps.fill("board:a", 2)
    ada = await watcher(maps, limit=1)
    await ada.ask(2)
    maps.fill("board:a", 5)
    await ada.ask(2, cursor="k000", offset=2, epoch="e")

    assert (await ada.ask(1, offset=4, epoch="e"))["code"] == 112, "what is before it would be missing"


async def test_changes_of_any_size_come_in_pages(maps: MapBench) -> None:
    maps.fill("board:a", 2)
    ada = await watcher(maps, limit=1)
    ada.client.connection.max_unsent_bytes = 10_000_000
    first = await ada.ask(2)
    for number in range(3):
        maps.set("board:a", f"n{number}", 3 * LARGE)

    reply = await ada.ask(2, cursor=first["cursor"], offset=2, epoch="e")
    counts = []
    while "phase" in reply:
        reply = await ada.ask(1, offset=reply["offset"], epoch="e")
        counts.append(len(reply["publications"]))
    assert counts == [1, 1, 1]


async def test_large_changes_of_an_ephemeral_map_are_in_the_reply_as_far_as_a_client_can_take_it(
    maps: MapBench,
) -> None:
    maps.fill("cursor:a", 4)
    ada, bob = await watcher(maps, "cursor:a"), await watcher(maps, "cursor:a")
    bob.client.connection.max_unsent_bytes = 150_000
    for each in (ada, bob):
        each.take(await each.ask(2))
    for number in range(4):
        maps.set("cursor:a", f"k{number:03}", LARGE)

    for each, count in ((ada, 4), (bob, 2)):
        each.client.send({"id": 2, "subscribe": {**each.members, "phase": 2, "cursor": "k002"}})
        await turns()
        reply, *pushes = each.client.got()
        assert len(reply["subscribe"]["publications"]) == count
        each.take(reply["subscribe"])
        for line in pushes:
            each.apply(line["push"]["pub"])
        assert each.values == maps.values("cursor:a")


async def test_many_small_changes_are_in_the_reply_as_far_as_a_client_can_take_it(maps: MapBench) -> None:
    """The keys of 3000 numbers are larger than the numbers; in one reply they would close the client as slow."""
    channel, keys = "cursor:a", [f"{number:0200}" for number in range(3000)]
    for key in keys:
        maps.set(channel, key, 0, flush=False)
    ada = await watcher(maps, channel, limit=1)
    ada.client.connection.max_unsent_bytes = 200_000
    ada.take(first := await ada.ask(2))
    for key in keys:
        maps.set(channel, key, 1, flush=False)

    cursor = first["cursor"]
    while cursor:
        ada.client.send({"id": 3, "subscribe": {**ada.members, "phase": 2, "cursor": cursor}})
        await turns()
        reply, *pushes = ada.client.got()
        cursor = reply["subscribe"].get("cursor")
        assert len(json.dumps(reply)) < 200_000
        ada.take(reply["subscribe"])
    for line in pushes:
        ada.apply(line["push"]["pub"])

    assert ada.values == maps.values(channel)


async def test_a_page_with_the_infos_of_clients_is_no_larger_than_one_with_values(maps: MapBench) -> None:
    for number in range(100):
        info = ClientInfo(f"c{number}", "ada", json.dumps("x" * 1000).encode(), json.dumps("y" * 1000).encode())
        maps.set("board:a", f"k{number:03}", info=info)
    ada = await watcher(maps, limit=100)
    ada.client.connection.max_unsent_bytes = 10_000_000

    first = await ada.ask(2)

    assert 20 < len(first["state"]) < 40


async def test_a_recovering_client_that_reads_slowly_gets_a_short_reply_first(maps: MapBench) -> None:
    maps.fill("board:a", 3)
    ada = await watcher(maps)
    ada.client.connection.on_congested()

    reply = await ada.ask(1, recover=True, offset=1, epoch="e")
    assert (reply["offset"], reply["recovered"], "publications" in reply) == (1, True, False)
    ada.client.connection.on_drained()

    assert [push["pub"]["offset"] for push in ada.read()] == [2, 3]


async def test_a_value_that_leaves_the_view_is_removed_behind_a_large_reply_too(maps: MapBench) -> None:
    maps.set("board:a", "k", 0, tags={"team": "red"})
    for number in range(3):
        maps.set("board:a", f"k{number}", LARGE, tags={"team": "red"})
    maps.set("board:a", "k", 1, tags={"team": "blue"})
    ada = await watcher(maps, **RED)
    ada.client.connection.max_unsent_bytes = 10_000_000

    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 1, "recover": True, "offset": 1, "epoch": "e"}})
    await turns()
    reply, *pushes = ada.client.got()

    assert [each["offset"] for each in reply["subscribe"]["publications"]] == [2, 3]
    assert [line["push"]["pub"].get("removed", False) for line in pushes] == [False, True]
