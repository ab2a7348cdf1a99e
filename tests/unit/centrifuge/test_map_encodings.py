"""What subscribers of a map see: filters by tags, differences by key, both codecs, shared pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from centrifuge.fossil import apply_delta

from roomcast.centrifuge import client_pb2
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.map_encodings import MapView
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.centrifuge.wire import Wire
from roomcast.model.client_info import ClientInfo
from roomcast.model.maps import Change
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication
from roomcast.node import map_copy
from tests.support.map_bench import MapBench, Watcher
from tests.support.protobuf_frames import replies_of

pytestmark = pytest.mark.anyio

TEAM_RED: dict[str, Any] = {"tf": {"key": "team", "cmp": "eq", "val": "red"}}
NO_TEAM: dict[str, Any] = {"tf": {"key": "team", "cmp": "nex"}}
RED, BLUE = {"team": "red"}, {"team": "blue"}
PAD = "x" * 60
JSON = Wire("json", JsonCodec(), lambda message: message + b"\n")
PROTOBUF = Wire("protobuf", ProtobufCodec(), lambda message: message)
BOB = ClientInfo("n1-2", "bob")


@pytest.fixture
async def maps() -> AsyncIterator[MapBench]:
    async with MapBench(anonymous=True) as bench:
        yield bench


async def watcher(maps: MapBench, channel: str = "board:a", **members: Any) -> Watcher:
    return Watcher(await maps.connected(), channel, **members)


def change(key: str, data: bytes, offset: int, *, is_removed: bool = False, **members: Any) -> Publication:
    position = Position(offset, "pMljobPT")
    return Publication("per:pb", data, Kind.JSON, position, change=Change(key, is_removed), **members)


# Filters.


async def test_a_filter_holds_for_the_pages_and_the_changes(maps: MapBench) -> None:
    for number in range(6):
        maps.set("board:a", f"k{number}", number, tags=RED if number % 2 else BLUE)
    ada = await watcher(maps, **TEAM_RED)

    reply = await ada.load()
    assert ada.values == {"k1": 1, "k3": 3, "k5": 5}
    assert reply["offset"] == 6
    maps.set("board:a", "k6", 6, tags=BLUE)
    maps.set("board:a", "k7", 7, tags=RED)
    maps.remove("board:a", "k0")
    maps.remove("board:a", "k1")

    assert [push["pub"] for push in ada.read()] == [
        {"data": 7, "offset": 8, "tags": RED, "key": "k7"},
        {"offset": 10, "tags": RED, "key": "k1", "removed": True},
    ]


@pytest.mark.parametrize(("wanted", "before"), [(TEAM_RED, RED), (NO_TEAM, None)])
async def test_a_value_that_leaves_the_view_is_removed(maps: MapBench, wanted: Any, before: Any) -> None:
    maps.set("board:a", "k", 1, tags=before)
    maps.set("board:a", "other", 1, tags=BLUE)
    ada = await watcher(maps, **wanted)
    await ada.load()

    maps.set("board:a", "k", 2, tags=BLUE)
    maps.set("board:a", "other", 2, tags=BLUE)

    assert [push["pub"] for push in ada.read()] == [{"offset": 3, "key": "k", "removed": True}]


async def test_a_value_that_leaves_the_view_during_a_load_or_a_break_is_removed(maps: MapBench) -> None:
    for number in range(4):
        maps.set("board:a", f"k{number}", number, tags=RED)
    ada, bob = await watcher(maps, **TEAM_RED), await watcher(maps, **TEAM_RED)
    bob.take(first := await bob.ask(2))

    # The last changes of the keys do not show that the values were in the view before.
    for _ in range(2):
        maps.set("board:a", "k0", "gone", tags=BLUE)
        maps.set("board:a", "k1", "gone", tags=BLUE)
    maps.remove("board:a", "k1")
    bob.take(await bob.ask(2, cursor=first["cursor"], offset=4, epoch="e", limit=100))
    reply = await ada.ask(1, recover=True, offset=4, epoch="e")

    assert bob.values == {"k2": 2, "k3": 3}
    assert [(each["key"], each["offset"]) for each in reply["publications"]] == [("k0", 5), ("k1", 6)]
    assert all(each["removed"] for each in reply["publications"])
    assert reply["offset"] == 9, "with the changes that it does not see"


# Differences.


async def test_differences_build_on_the_entries_and_the_changes_of_the_load(maps: MapBench) -> None:
    maps.set("board:a", "a", [PAD, 1])
    maps.set("board:a", "b", [PAD, 1])
    ada = await watcher(maps, delta="fossil", limit=1)
    first = await ada.ask(2)
    maps.set("board:a", "c", [PAD, 1])
    reply = await ada.ask(2, cursor="a", offset=2, epoch="e")
    texts = {each["key"]: each["data"].encode() for page in (first, reply) for each in page["state"]}
    texts |= {each["key"]: each["data"].encode() for each in reply["publications"]}
    assert reply["delta"] is True
    assert {key: json.loads(text) for key, text in texts.items()} == maps.values("board:a")

    for key in "abc":
        maps.set("board:a", key, [PAD, 2])
    for push in ada.read():
        pub = push["pub"]
        assert pub["delta"] is True
        texts[pub["key"]] = apply_delta(texts[pub["key"]], pub["data"].encode())
    assert {key: json.loads(text) for key, text in texts.items()} == maps.values("board:a")


async def test_recovered_changes_begin_whole_for_each_key_and_live_ones_build_on_them(maps: MapBench) -> None:
    maps.set("board:a", "old", [PAD, 0])
    for number in range(3):
        maps.set("board:a", "a", [PAD, number])
    maps.set("board:a", "b", [PAD, 0])
    ada = await watcher(maps, delta="fossil")

    reply = await ada.ask(1, recover=True, offset=1, epoch="e")
    maps.set("board:a", "a", [PAD, 9])
    maps.set("board:a", "old", [PAD, 9])
    pushed = [push["pub"].get("delta", False) for push in ada.read()]

    assert [each.get("delta", False) for each in reply["publications"]] == [False, True, True, False]
    assert pushed == [True, False], "what it has from before is not known here"


async def test_removals_and_values_without_data_are_null_for_json_clients_with_differences(maps: MapBench) -> None:
    """The SDK for JavaScript parses the data of each publication."""
    maps.set("board:a", "empty")
    ada, bob = await watcher(maps, delta="fossil"), await watcher(maps)
    state = (await ada.ask(2))["state"]
    await bob.load()
    maps.set("board:a", "k")
    maps.remove("board:a", "k")

    assert state == [{"data": "null", "offset": 1, "key": "empty"}]
    assert [push["pub"] for push in ada.read()] == [
        {"data": "null", "offset": 2, "key": "k"},
        {"data": "null", "offset": 3, "key": "k", "removed": True},
    ]
    assert [push["pub"] for push in bob.read()] == [
        {"offset": 2, "key": "k"},
        {"offset": 3, "key": "k", "removed": True},
    ]


# Pushes and replies in both codecs.


def test_pushes_have_the_members_of_the_dialogues() -> None:
    encode = JSON.maps.encoding_of(MapView(tells_offsets=True), b"").encode

    def pushed(publication: Publication) -> Any:
        return json.loads(encode(publication))["push"]["pub"]

    assert pushed(change("k1", b'{"v": 1}', 1, tags={"x": "y"})) == {
        "data": {"v": 1},
        "offset": 1,
        "tags": {"x": "y"},
        "key": "k1",
        "epoch": "pMljobPT",
    }
    assert pushed(change("k", b"5", 4, info=BOB)) == {
        "data": 5,
        "info": {"user": "bob", "client": "n1-2"},
        "offset": 4,
        "key": "k",
    }
    assert pushed(change("k", b"", 5, is_removed=True, info=BOB)) == {"offset": 5, "key": "k", "removed": True}
    assert encode(Publication("per:pb", b"5", Kind.JSON)) == b"", "no change of another program's"


def test_protobuf_replies_and_pushes_are_those_of_the_reference() -> None:
    view = MapView(tells_offsets=True)
    entry = change("k1", b'{"v": 1}', 2, tags={"a": "b"})
    result = {"type": 1, "epoch": "pMljobPT", "offset": 2, "recoverable": True}

    reply = PROTOBUF.codec.reply_with_state(2, result, PROTOBUF.maps.state([entry], view))
    push = PROTOBUF.maps.encoding_of(view, b"").encode(change("k1", b"", 3, is_removed=True, tags={"a": "b"}))

    assert reply == bytes.fromhex(
        "2f 08 02 32 2b 18 01 32 08 70 4d 6c 6a 6f 62 50 54 48 02 78 01 92 01 18"
        "22 08 7b 22 76 22 3a 20 31 7d 30 02 3a 06 0a 01 61 12 01 62 5a 02 6b 31"
    )
    assert push == bytes.fromhex(
        "1c 22 1a 12 06 70 65 72 3a 70 62 22 10 30 03 3a 06 0a 01 61 12 01 62 5a 02 6b 31 60 01"
    )


@pytest.mark.parametrize("count", [1, 5, 40, 600])
def test_protobuf_replies_of_any_size_can_be_read(count: int) -> None:
    view = MapView(tells_offsets=True)
    entries = [change(f"k{number}", b'"%b"' % (b"x" * 30), number + 1) for number in range(count)]

    (reply,) = replies_of(PROTOBUF.codec.reply_with_state(7, {"type": 1}, PROTOBUF.maps.state(entries, view)))

    assert reply.id == 7
    assert reply.subscribe.type == 1
    assert [(each.key, each.offset) for each in reply.subscribe.state] == [
        (f"k{number}", number + 1) for number in range(count)
    ]


def test_protobuf_clients_with_differences_get_no_data_of_removals() -> None:
    view = MapView(tells_offsets=True, is_delta=True)
    (reply,) = replies_of(PROTOBUF.maps.encoding_of(view, b"").encode(change("k", b"", 3, is_removed=True)))

    assert reply.push.pub == client_pb2.Publication(offset=3, key="k", removed=True)


# Pages that clients share.


async def test_clients_that_load_a_map_at_once_share_its_encoded_pages(
    maps: MapBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps.fill("board:a", 7)
    encoded = 0
    state = JsonCodec.state

    def count(self: JsonCodec, entries: Any) -> bytes:
        nonlocal encoded
        encoded += 1
        return state(self, entries)

    monkeypatch.setattr(JsonCodec, "state", count)
    monkeypatch.setattr(map_copy, "_KEYS_A_CHANGE", 1)
    herd = [await watcher(maps) for _ in range(5)]
    for client in herd:
        await client.load()
        assert client.values == maps.values("board:a")
    assert encoded == 3, "once for each page"

    maps.set("board:a", "k000", "changed")
    for each in (await watcher(maps), await watcher(maps, delta="fossil"), await watcher(maps, **NO_TEAM)):
        await each.load()
        assert len(each.values) == 7
    assert encoded == 7, "differences and filters have pages of their own: two, without the changed key"
