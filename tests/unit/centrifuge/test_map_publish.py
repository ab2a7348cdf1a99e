"""Clients that set keys of maps and remove them: permissions, keys, errors, and what the application decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from roomcast.hooks.interface import Hook, MapPublishAnswer, MapRemoveAnswer
from roomcast.model.errors import ApplicationError
from roomcast.model.maps import KeyMode
from tests.support.map_bench import MapBench
from tests.support.sessions import ADA, Client
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def maps() -> AsyncIterator[MapBench]:
    async with MapBench(anonymous=True) as bench:
        yield bench


async def publish(client: Client, channel: str, **members: Any) -> Any:
    """Change a map; return the result, or the error's code."""
    client.send({"id": 7, "publish": {"channel": channel, "type": 1, **members}})
    (reply,) = await client.replies(1)
    return reply["publish"] if "publish" in reply else reply["error"]["code"]


async def test_a_client_sets_keys_and_removes_them(maps: MapBench) -> None:
    ada = await maps.connected(signed(ADA))

    assert await publish(ada, "board:a", key="k", data={"v": 1}) == {}
    assert await publish(ada, "board:a", key="null", data=None) == {}
    assert await publish(ada, "board:a", key="no data") == {}
    entries = maps.store.of("board:a").entries
    assert {key: entry.data for key, entry in entries.items()} == {"k": b'{"v":1}', "null": b"null", "no data": b""}
    info = entries["k"].info
    assert info is not None
    assert (info.client, info.user) == (ada.session.client_id, "ada")
    change = entries["k"].change
    assert change is not None
    assert change.time_ms == maps.now_s * 1000

    assert await publish(ada, "board:a", key="k", removed=True, data=5) == {}
    assert await publish(ada, "board:a", key="k", removed=True) == {}, "also a key that is absent"
    assert set(maps.store.of("board:a").entries) == {"null", "no data"}


@pytest.mark.parametrize(
    ("channel", "members", "code"),
    [
        ("board:a", {"key": ""}, 107),
        ("board:a", {}, 107),
        ("board:a", {"key": "a\nb"}, 107),
        ("board:a", {"key": "é" * 128}, 107),  # 256 bytes
        ("board:a", {"key": "k", "data": "x" * 70_000}, 106),
        ("board:a", {"key": "k", "removed": True}, 103),  # users alone
        ("board:a", {"key": "k", "type": 0, "data": 1}, 103),
        ("board:a", {"key": "k", "type": 2, "data": 1}, 107),
        ("room:a", {"key": "k", "data": 1}, 103),
        ("here:a", {"key": "k", "data": 1}, 103),
        ("cursor:a", {"key": "k", "data": 1}, 103),  # not subscribed
        ("nothing:a", {"key": "k", "data": 1}, 102),
        ("", {"key": "k", "data": 1}, 107),
    ],
)
async def test_refused_changes_change_nothing(maps: MapBench, channel: str, members: dict[str, Any], code: int) -> None:
    client = await maps.connected()

    assert await publish(client, channel, **members) == code
    assert not any(each.entries for each in maps.store.maps.values())


async def test_a_subscriber_may_write_where_subscribers_may(maps: MapBench) -> None:
    client = await maps.connected()
    client.send({"id": 2, "subscribe": {"channel": "cursor:a", "type": 1, "phase": 2}})
    await client.replies(1)

    assert await publish(client, "cursor:a", key="k", data=1) == {}


@pytest.mark.parametrize(("allow", "code"), [(["remove"], {}), (["publish"], 103)])
async def test_a_token_may_permit_removals(maps: MapBench, allow: list[str], code: Any) -> None:
    permission = {"channels": ["board:*"], "allow": allow}
    client = await maps.connected(signed({"sub": "", "permissions": [permission]}))

    assert await publish(client, "board:a", key="k", removed=True) == code


@pytest.mark.parametrize(("channel", "key"), [("own:a", "{client}"), ("mine:a", "ada")])
async def test_keys_that_are_the_clients_own(maps: MapBench, channel: str, key: str) -> None:
    ada, anonymous = await maps.connected(signed(ADA)), await maps.connected()
    key = key.format(client=ada.session.client_id)

    assert await publish(ada, channel, key="whatever", data=1) == {}
    assert await publish(ada, channel, data=2) == {}
    assert maps.values(channel) == {key: 2}
    assert await publish(ada, channel, key="another", removed=True) == {}
    assert maps.values(channel) == {}
    assert await publish(anonymous, channel, key="ada", data=1) == ({} if channel == "own:a" else 103)


async def test_replies_come_when_redis_has_the_changes_in_the_order_of_the_commands(maps: MapBench) -> None:
    client = await maps.connected(signed(ADA))
    commands = [
        {"id": number, "publish": {"channel": "board:a", "type": 1, "key": f"k{number % 3}", "data": number}}
        for number in range(2, 40)
    ]

    client.send(*commands)
    replies = await client.replies(len(commands))

    assert [reply["id"] for reply in replies] == list(range(2, 40))
    assert maps.values("board:a") == {"k0": 39, "k1": 37, "k2": 38}


async def test_a_store_that_is_away_is_a_temporary_error(maps: MapBench) -> None:
    client = await maps.connected(signed(ADA))
    maps.store.away = "away"

    assert await publish(client, "board:a", key="k", data=1) == 100


async def test_a_map_has_no_history(maps: MapBench) -> None:
    client = await maps.connected()

    client.send({"id": 2, "history": {"channel": "board:a", "limit": 5}})
    (reply,) = await client.replies(1)

    assert reply["error"]["code"] == 108


async def test_the_application_decides_about_changes(maps: MapBench) -> None:
    client = await maps.connected(signed(ADA))
    maps.application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer(key="other", data=b"2", tags={"a": "b"})
    assert await publish(client, "board:a", key="k", data=1) == {}
    assert maps.values("board:a") == {"other": 2}
    assert maps.store.of("board:a").entries["other"].tags == {"a": "b"}

    maps.application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer(key_mode=KeyMode.IF_NEW)
    assert await publish(client, "board:a", key="other", data=3) == {}, "suppressed"
    maps.application.answers[Hook.MAP_PUBLISH] = ApplicationError(1000, "no")
    assert await publish(client, "board:a", key="other", data=3) == 1000
    assert maps.values("board:a") == {"other": 2}

    maps.application.answers[Hook.MAP_REMOVE] = MapRemoveAnswer(key="other")
    assert await publish(client, "board:a", key="k", removed=True) == {}
    assert maps.values("board:a") == {}
    asked = [(type(event).__name__, event.channel, event.key) for event in maps.application.asked]
    assert asked == [
        ("MapPublishEvent", "board:a", "k"),
        ("MapPublishEvent", "board:a", "other"),
        ("MapPublishEvent", "board:a", "other"),
        ("MapRemoveEvent", "board:a", "k"),
    ]


async def test_the_application_is_not_asked_about_changes_that_are_refused(maps: MapBench) -> None:
    client = await maps.connected()
    maps.application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer()

    assert await publish(client, "cursor:a", key="k", data=1) == 103
    assert await publish(client, "board:a", key="", data=1) == 107
    assert maps.application.asked == []
