"""Commands about maps that no SDK would send: each is answered with its code, and other clients are not affected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.nodes.maps import has_come, put, put_all
from tests.nodes.maps.conftest import Leaks
from tests.support.maps import UNRECOVERABLE, Follower
from tests.support.processes import NodeProcess
from tests.support.speaker import Json, Speaker, connected
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PERMISSION_DENIED, SUBSCRIBED, BAD_REQUEST, NOT_AVAILABLE = 103, 105, 107, 108
FUTURE = 2**52


@pytest.fixture(autouse=True)
async def bystander(node: NodeProcess, name: str, leaks: Leaks) -> AsyncIterator[None]:
    """Another client of the node, live in a map of its own, which must receive its changes in spite of the test."""
    channel = f"kept:bystander-{name}"
    async with connected(node) as speaker:
        follower = Follower(speaker, channel)
        await follower.load()
        yield
        await has_come(node, follower)
    assert node.process.poll() is None


@pytest.fixture(params=["fleeting", "kept"])
async def channel(request: pytest.FixtureRequest, node: NodeProcess, name: str) -> str:
    """A map without positions, and one with them; both have four keys."""
    return await _with_keys(node, f"{request.param}:{name}")


@pytest.fixture
async def kept(node: NodeProcess, name: str) -> str:
    """A map with four keys."""
    return await _with_keys(node, f"kept:{name}")


async def _with_keys(node: NodeProcess, channel: str) -> str:
    await put_all(node, channel, {"a": 1, "b": 2, "c": 3, "d": 4})
    return channel


async def subscribe(speaker: Speaker, channel: str, **params: Any) -> int:
    """Return the code of the error; 0 if there is none."""
    reply = await speaker.ask("subscribe", **{"channel": channel, "type": 1, **params})
    code: int = reply.get("error", {}).get("code", 0)
    return code


async def loads(speaker: Speaker, channel: str) -> bool:
    """Return whether the client can load the map, after what it has done."""
    follower = Follower(speaker, channel, limit=3)
    await follower.load()
    return follower.entries == {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"phase": 2, "cursor": "a"}, PERMISSION_DENIED),
        ({"phase": 2, "cursor": "a", "offset": 1, "epoch": "x"}, PERMISSION_DENIED),
        ({"phase": 3}, BAD_REQUEST),
        ({"phase": 99}, BAD_REQUEST),
        ({"phase": -1}, BAD_REQUEST),
        ({"phase": 2, "type": 0}, PERMISSION_DENIED),
        ({"phase": 2, "type": 2}, PERMISSION_DENIED),
        ({"phase": 2, "type": 3}, PERMISSION_DENIED),
        ({"phase": 2, "type": 4}, PERMISSION_DENIED),
        ({"phase": 2, "type": -1}, PERMISSION_DENIED),
        ({"type": 0, "recover": True, "offset": 1, "epoch": "x"}, PERMISSION_DENIED),
        ({"phase": 2, "delta": "other"}, BAD_REQUEST),
        ({"phase": 2, "tf": {"key": "a", "cmp": "eq", "val": "b"}}, NOT_AVAILABLE),
    ],
)
async def test_a_first_request_that_is_none(speaker: Speaker, channel: str, params: dict[str, Any], code: int) -> None:
    assert await subscribe(speaker, channel, **params) == code
    assert await loads(speaker, channel)


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize(
    "position",
    [
        {},
        {"offset": 0},
        {"offset": FUTURE},
        {"epoch": "x"},
        {"offset": 1, "epoch": "x"},
        {"offset": 1, "epoch": "\U0001f642" * 50},
    ],
)
async def test_a_position_of_another_epoch(
    speaker: Speaker, channel: str, phase: int, position: dict[str, Any]
) -> None:
    """An ephemeral map has no positions, so its catch-up is malformed."""
    codes = {await subscribe(speaker, channel, phase=phase, recover=True, **position) for _ in range(2)}
    assert codes <= {UNRECOVERABLE, BAD_REQUEST}
    assert await loads(speaker, channel)


@pytest.mark.parametrize("namespace", ["kept", "tracked"])
@pytest.mark.parametrize("offset", [5, FUTURE])
async def test_a_position_from_the_future(
    node: NodeProcess, speaker: Speaker, name: str, namespace: str, offset: int
) -> None:
    channel = f"{namespace}:{name}"
    position = [await put(node, channel, key, number) for number, key in enumerate("abcd", 1)][-1]
    assert position["offset"] == 4

    refused = await subscribe(speaker, channel, phase=1, recover=True, offset=offset, epoch=position["epoch"])

    assert refused == UNRECOVERABLE
    assert await loads(speaker, channel)


@pytest.mark.parametrize("namespace", ["kept", "tracked"])
async def test_a_catch_up_without_a_load(node: NodeProcess, speaker: Speaker, name: str, namespace: str) -> None:
    channel = f"{namespace}:{name}"
    position = await put(node, channel, "a", 1)
    assert await subscribe(speaker, channel, phase=1, offset=1, epoch=position["epoch"]) == PERMISSION_DENIED


async def test_a_catch_up_of_an_ephemeral_map(node: NodeProcess, speaker: Speaker, name: str) -> None:
    channel = f"fleeting:{name}"
    await put_all(node, channel, {"a": 1, "b": 2})
    assert await subscribe(speaker, channel, phase=1) == BAD_REQUEST
    await Follower(speaker, channel, limit=1).step()
    assert await subscribe(speaker, channel, phase=1) == BAD_REQUEST


@pytest.mark.parametrize("limit", [-(2**31), -1, 0, 1, 2**31 - 1])
async def test_any_limit_of_pages(speaker: Speaker, channel: str, limit: int) -> None:
    follower = Follower(speaker, channel, limit=limit)
    await follower.load()
    assert follower.entries == {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("limit", [2**31, -(2**31) - 1, 1.5, "1", True, None, [1]])
async def test_a_limit_that_is_no_number_of_the_protocol(node: NodeProcess, kept: str, limit: object) -> None:
    async with connected(node) as speaker:
        await speaker.send({"id": 9, "subscribe": {"channel": kept, "type": 1, "phase": 2, "limit": limit}})
        if limit is None:
            assert "error" not in await speaker.reply(9, "subscribe")
        else:
            assert (await speaker.end())[0] == 3501


async def test_subscribing_twice(speaker: Speaker, channel: str) -> None:
    follower = Follower(speaker, channel, limit=1)
    await follower.step()
    assert await subscribe(speaker, channel, phase=2, limit=1) == SUBSCRIBED
    while not follower.is_live:
        assert "error" not in await follower.step()
    assert follower.entries == {"a": 1, "b": 2, "c": 3, "d": 4}

    for params in (
        {"phase": 2},
        {"phase": 2, "cursor": "a"},
        {"phase": 1},
        {"phase": 0},
        {"phase": 1, "recover": True},
    ):
        assert await subscribe(speaker, channel, **params) in {SUBSCRIBED, BAD_REQUEST}
    assert await speaker.ask("publish", channel=channel, type=1, key="e", data=5) == {}
    await follower.follow(lambda entries: "e" in entries)


@pytest.mark.parametrize("cursor", ["", "0", "b", "zzz", "a\x00", "\U0001f642" * 20, "x" * 3000])
async def test_a_cursor_of_another_page(speaker: Speaker, channel: str, cursor: str) -> None:
    """It gets an error; a client that received it as a page would have less than the map, and not know."""
    follower = Follower(speaker, channel, limit=1)
    assert (await follower.step())["cursor"] == "a"
    refused = await subscribe(speaker, channel, phase=2, limit=1, cursor=cursor)
    assert refused == (SUBSCRIBED if not cursor else BAD_REQUEST)
    await speaker.ask("unsubscribe", channel=channel)
    assert await loads(speaker, channel)


async def test_one_page_twice(speaker: Speaker, channel: str) -> None:
    follower = Follower(speaker, channel, limit=1)
    first = await follower.step()
    await follower.step()
    assert await subscribe(speaker, channel, phase=2, limit=1, cursor=first["cursor"]) == BAD_REQUEST


async def test_many_pages_at_once(speaker: Speaker, channel: str) -> None:
    """The first request is answered with a page; one of the others at most can be the next one."""
    commands = [
        {"id": 100 + number, "subscribe": {"channel": channel, "type": 1, "phase": 2, "limit": 1}}
        for number in range(20)
    ]
    await speaker.send(*commands)
    replies = [await speaker.line() for _ in commands]
    codes = [reply.get("error", {}).get("code", 0) for reply in sorted(replies, key=lambda reply: int(reply["id"]))]
    assert codes == [0, *[SUBSCRIBED] * 19]
    await speaker.ask("unsubscribe", channel=channel)
    assert await loads(speaker, channel)


async def test_subscribe_and_unsubscribe_in_one_frame(speaker: Speaker, channel: str) -> None:
    subscribing: Json = {"subscribe": {"channel": channel, "type": 1, "phase": 2, "limit": 1}}
    commands = [subscribing, {"unsubscribe": {"channel": channel}}] * 10
    await speaker.send(*({"id": 100 + number, **command} for number, command in enumerate(commands)))
    replies = [await speaker.line() for _ in commands]
    assert sorted(reply["id"] for reply in replies) == list(range(100, 120))
    assert [reply for reply in replies if "unsubscribe" not in reply and "subscribe" not in reply] == [
        reply for reply in replies if reply.get("error", {}).get("code") == UNRECOVERABLE
    ]
    assert await loads(speaker, channel)


async def test_loads_that_clients_leave_are_forgotten(node: NodeProcess, channel: str, leaks: Leaks) -> None:
    for _ in range(3):
        async with connected(node) as speaker:
            await Follower(speaker, channel, limit=1).step()
    async with connected(node) as speaker:
        await Follower(speaker, channel, limit=1).step()
        await speaker.ask("unsubscribe", channel=channel)
        refused = await subscribe(speaker, channel, phase=2, cursor="a", limit=1)
        assert refused == PERMISSION_DENIED
        await leaks.none_for(channel)


async def test_a_client_that_takes_too_long_for_its_pages(node: NodeProcess, name: str, leaks: Leaks) -> None:
    channel = f"hasty:{name}"
    await put_all(node, channel, {"a": 1, "b": 2})
    async with connected(node) as speaker:
        follower = Follower(speaker, channel, limit=1)
        await follower.step()
        await leaks.none_for(channel)
        await speaker.send({"id": 9, "subscribe": {"channel": channel, "type": 1, "phase": 2, "cursor": "a"}})
        assert (await speaker.end())[0] == 3008


async def test_loads_count_as_subscriptions(node: NodeProcess, speaker: Speaker, name: str) -> None:
    """The limit of subscriptions is 128, as that of the SDK's servers."""
    channels = [f"kept:{name}-{number}" for number in range(129)]
    await put_all(node, channels[0], {"a": 1, "b": 2})
    follower = Follower(speaker, channels[0], limit=1)
    await follower.step()
    for channel in channels[1:-1]:
        assert await subscribe(speaker, channel, phase=2) == 0
    assert await subscribe(speaker, channels[-1], phase=2) == 106
    while not follower.is_live:
        assert "error" not in await follower.step()
    assert await subscribe(speaker, channels[-1], phase=2) == 106


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"key": ""}, BAD_REQUEST),
        ({}, BAD_REQUEST),
        ({"key": "x" * 256}, BAD_REQUEST),
        ({"key": "ä" * 128}, BAD_REQUEST),
        ({"key": "a\x00b"}, BAD_REQUEST),
        ({"key": "a\nb"}, BAD_REQUEST),
        ({"key": "\u0085"}, BAD_REQUEST),
        ({"key": "", "removed": True}, BAD_REQUEST),
        ({"key": "x" * 256, "removed": True}, BAD_REQUEST),
        ({"key": "a", "type": 0}, PERMISSION_DENIED),
        ({"key": "a", "type": 2}, BAD_REQUEST),
        ({"key": "a", "type": -1}, BAD_REQUEST),
        ({"key": "a", "channel": "readonly:x"}, PERMISSION_DENIED),
        ({"key": "a", "channel": "readonly:x", "removed": True}, PERMISSION_DENIED),
        ({"key": "a", "channel": "own:x"}, PERMISSION_DENIED),
        ({"key": "a", "channel": "nowhere:x"}, 102),
    ],
)
async def test_a_write_that_is_refused_changes_nothing(
    speaker: Speaker, kept: str, params: dict[str, Any], code: int
) -> None:
    wanted = {"channel": kept, "type": 1, "data": 9, **params}
    assert (await speaker.ask("publish", **wanted))["error"]["code"] == code
    assert await loads(speaker, kept)


async def test_a_map_is_no_stream(speaker: Speaker, kept: str) -> None:
    assert (await speaker.ask("history", channel=kept, limit=1))["error"]["code"] == NOT_AVAILABLE
    assert await subscribe(speaker, kept, type=0) == PERMISSION_DENIED


@pytest.mark.parametrize("kind", [1, 2, 3])
async def test_a_stream_is_no_map(speaker: Speaker, kind: int) -> None:
    assert await subscribe(speaker, "stream:a", type=kind, phase=2) == PERMISSION_DENIED
    refused = await speaker.ask("publish", channel="stream:a", type=kind, key="a", data=1)
    assert refused["error"]["code"] in {PERMISSION_DENIED, BAD_REQUEST}
    assert await subscribe(speaker, "stream:a", type=0) == 0


async def test_what_keys_may_be(node: NodeProcess, speaker: Speaker, name: str) -> None:
    keys = ["x" * 255, "ä" * 127, " ", "\U0001f642", '"', "\\", "\u2028", "__proto__", "a:b", "0", "constructor"]
    channel = f"kept:{name}"
    follower = Follower(speaker, channel, limit=2)
    await follower.load()
    for number, key in enumerate(keys):
        assert await speaker.ask("publish", channel=channel, type=1, key=key, data=number) == {}
    expected = {key: number for number, key in enumerate(keys)}
    await follower.follow(lambda entries: len(entries) == len(keys))
    assert follower.entries == expected

    async with connected(node, token("ada")) as ada:
        again = Follower(ada, channel, limit=2)
        await again.load()
        assert again.entries == expected
        pages = [entry["key"] for reply in again.replies for entry in reply.get("state", [])]
        assert pages == sorted(keys)
