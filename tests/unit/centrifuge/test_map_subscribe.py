"""Loading a map and going live, on fakes: the dialogues of the protocol, and changes between the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.map_bench import MapBench, Watcher
from tests.support.sessions import turns
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def maps() -> AsyncIterator[MapBench]:
    async with MapBench(anonymous=True) as bench:
        yield bench


async def watcher(maps: MapBench, channel: str = "board:a", **members: Any) -> Watcher:
    return Watcher(await maps.connected(), channel, **members)


async def test_an_empty_map_is_live_at_once(maps: MapBench) -> None:
    ada, bob = await watcher(maps), await watcher(maps, "cursor:a")

    assert await ada.ask(2, flag=1) == {"recoverable": True, "epoch": "e", "type": 1}
    assert await bob.ask(2, flag=1) == {"type": 1}


async def test_pages_are_in_the_order_of_the_keys_and_end_live(maps: MapBench) -> None:
    maps.fill("board:a", 5)
    ada = await watcher(maps)

    first = await ada.ask(2, limit=2)
    second = await ada.ask(2, limit=2, cursor="k001", offset=5, epoch="e")
    last = await ada.ask(2, limit=2, cursor="k003", offset=5, epoch="e")

    state = [{"data": number, "offset": number + 1, "key": f"k{number:03}"} for number in range(5)]
    position = {"epoch": "e", "offset": 5, "type": 1}
    assert first == {**position, "phase": 2, "cursor": "k001", "state": state[:2]}
    assert second == {**position, "phase": 2, "cursor": "k003", "state": state[2:4]}
    assert last == {**position, "recoverable": True, "state": state[4:]}


async def test_an_ephemeral_map_has_no_positions(maps: MapBench) -> None:
    maps.fill("cursor:a", 4)
    ada = await watcher(maps, "cursor:a")

    first = await ada.ask(2)
    maps.set("cursor:a", "k003", "new")
    last = await ada.ask(2, cursor="k002")
    maps.set("cursor:a", "k000", "live")
    maps.remove("cursor:a", "k000")

    state = [{"data": number, "key": f"k{number:03}"} for number in range(3)]
    assert first == {"type": 1, "phase": 2, "cursor": "k002", "state": state}
    assert last == {"type": 1, "publications": [{"data": "new", "key": "k003"}]}
    assert [push["pub"] for push in ada.read()] == [{"data": "live", "key": "k000"}, {"key": "k000", "removed": True}]


@pytest.mark.parametrize("channel", ["board:a", "cursor:a"])
async def test_changes_between_the_pages_are_in_the_last_reply_in_each_mode(maps: MapBench, channel: str) -> None:
    """G1: the reference loses them in ephemeral maps."""
    maps.fill(channel, 7)
    ada = await watcher(maps, channel)
    ada.take(first := await ada.ask(2))
    position = {name: first[name] for name in ("offset", "epoch") if name in first}

    maps.set(channel, "k000", "changed on the first page")
    maps.remove(channel, "k001")
    maps.set(channel, "a", "new before the cursor")
    ada.take(await ada.ask(2, cursor="k002", **position))
    maps.set(channel, "k006", "changed before its page")
    maps.remove(channel, "a")
    maps.set(channel, "k001", "is there again", flush=False)
    reply = await ada.ask(2, cursor="k005", limit=100, **position)
    ada.take(reply)
    maps.set(channel, "live", 1)
    ada.read()

    assert "phase" not in reply
    assert ada.values == maps.values(channel)


async def test_many_changes_come_in_pages_of_their_own(maps: MapBench) -> None:
    maps.fill("board:a", 3)
    ada = await watcher(maps, limit=2)
    ada.take(await ada.ask(2))
    for number in range(9):
        maps.set("board:a", f"n{number}", number)

    ada.take(last := await ada.ask(2, cursor="k001", offset=3, epoch="e"))
    assert last == {
        "epoch": "e",
        "offset": 3,
        "type": 1,
        "phase": 2,
        "state": [{"data": 2, "offset": 3, "key": "k002"}],
    }
    offsets = [3]
    while True:
        ada.take(reply := await ada.ask(1, offset=offsets[-1], epoch="e"))
        offsets.append(reply["offset"])
        assert [each["offset"] for each in reply["publications"]] == list(range(offsets[-2] + 1, offsets[-1] + 1))
        if "phase" not in reply:
            break
        assert reply["phase"] == 1
        assert "recoverable" not in reply

    assert offsets == [3, 5, 7, 9, 11, 12]
    assert reply["recoverable"] is True
    assert ada.values == maps.values("board:a")


async def test_a_client_goes_live_also_while_more_is_written_than_it_reads(maps: MapBench) -> None:
    maps.fill("board:a", 2)
    ada = await watcher(maps, limit=1)
    ada.take(await ada.ask(2))
    written = 0

    def write() -> None:
        nonlocal written
        for _ in range(3):
            written += 1
            maps.set("board:a", f"n{written:03}", written)

    write()
    reply = await ada.ask(2, cursor="k000", offset=2, epoch="e")
    for _ in range(6):
        ada.take(reply)
        if "phase" not in reply:
            break
        write()
        reply = await ada.ask(1, offset=reply["offset"], epoch="e")
    ada.read()

    assert "phase" not in reply, "the changes up to the last page have come"
    assert ada.values == maps.values("board:a")


async def test_a_load_without_a_cursor_begins_afresh_whatever_position_it_has(maps: MapBench) -> None:
    """G2: an SDK sends the position of a load that failed."""
    maps.fill("board:a", 3)
    maps.fill("cursor:a", 3)
    ada, bob = await watcher(maps), await watcher(maps, "cursor:a")

    assert len((await ada.ask(2, offset=1, epoch="other"))["state"]) == 3
    assert len((await bob.ask(2, offset=1, epoch="other"))["state"]) == 3


@pytest.mark.parametrize(
    ("phase", "members", "code"),
    [
        (2, {"cursor": "k001", "offset": 7, "epoch": "e"}, 107),  # skips entries, or repeats some
        (2, {"cursor": "zzz", "offset": 7, "epoch": "e"}, 107),
        (1, {"offset": 7, "epoch": "e"}, 107),  # not all entries have come
        (2, {"cursor": "k002", "offset": 7, "epoch": "other"}, 112),
        (2, {}, 105),
        (1, {"recover": True, "offset": 7, "epoch": "e"}, 105),
        (3, {}, 107),
        (-1, {}, 107),
        (2, {"cursor": "k002", "offset": -0, "epoch": "e", "type": 0}, 103),
    ],
)
async def test_requests_that_do_not_continue_a_load(
    maps: MapBench, phase: int, members: dict[str, object], code: int
) -> None:
    maps.fill("board:a", 7)
    ada = await watcher(maps)
    ada.take(await ada.ask(2))

    assert (await ada.ask(phase, **members))["code"] == code
    if code in {103, 105, 107}:  # a refusal changes nothing
        ada.take(await ada.ask(2, cursor="k002", offset=7, epoch="e"))
        ada.take(await ada.ask(2, cursor="k005", offset=7, epoch="e"))
    else:
        await ada.load()
    assert ada.values == maps.values("board:a")
    assert (await ada.ask(2))["code"] == 105, "it is live"


@pytest.mark.parametrize(
    ("channel", "phase", "members", "code"),
    [
        ("board:a", 2, {"cursor": "k001"}, 103),
        ("board:a", 1, {"offset": 1, "epoch": "e"}, 103),
        ("cursor:a", 1, {"offset": 1, "epoch": "e"}, 107),
        ("cursor:a", 1, {"recover": True, "offset": 1, "epoch": "e"}, 112),  # of a map that was recoverable before
        ("board:a", 1, {"recover": True, "offset": 1}, 112),
        ("board:a", 1, {"recover": True, "offset": 1, "epoch": "other"}, 112),
        ("board:a", 1, {"recover": True, "offset": 8, "epoch": "e"}, 112),  # from the future
        ("board:a", 0, {"offset": 1}, 112),
        ("cursor:a", 0, {}, 112),
        ("board:a", 2, {"type": 2}, 103),
        ("board:a", 2, {"type": 0}, 103),
        ("here:a", 2, {"type": 1}, 103),
        ("room:a", 2, {"type": 1}, 103),
        ("room:a", 0, {"type": 4}, 103),
        ("nothing:a", 2, {}, 102),
        ("board:a", 2, {"delta": "other"}, 107),
        ("cursor:a", 2, {"tf": {"key": "a", "cmp": "eq", "val": "b"}}, 108),
    ],
)
async def test_requests_that_begin_nothing(
    maps: MapBench, channel: str, phase: int, members: dict[str, object], code: int
) -> None:
    maps.fill("board:a", 7)
    ada = await watcher(maps, channel)

    assert (await ada.ask(phase, **members))["code"] == code
    assert not ada.client.session.loads
    assert not maps.node.hub.channels()


async def test_presence_maps_have_their_own_types(maps: MapBench) -> None:
    ada = await watcher(maps, "here:a")

    assert await ada.ask(2, type=2) == {"type": 1}


async def test_a_client_recovers_what_it_missed(maps: MapBench) -> None:
    maps.set("board:a", "a", 1)
    maps.set("board:a", "b", 2)
    maps.remove("board:a", "a")
    ada = await watcher(maps)

    reply = await ada.ask(1, recover=True, offset=1, epoch="e")

    assert reply == {
        "recoverable": True,
        "epoch": "e",
        "publications": [{"data": 2, "offset": 2, "key": "b"}, {"offset": 3, "key": "a", "removed": True}],
        "recovered": True,
        "offset": 3,
        "was_recovering": True,
        "type": 1,
    }
    maps.set("board:a", "c", 3)
    assert [push["pub"] for push in ada.read()] == [{"data": 3, "offset": 4, "key": "c"}]


async def test_a_client_that_missed_nothing_recovers_too_and_jumps_live_without_saying_so(maps: MapBench) -> None:
    maps.fill("board:a", 2)
    ada, bob = await watcher(maps), await watcher(maps)
    live = {"recoverable": True, "epoch": "e", "offset": 2, "type": 1}

    assert await ada.ask(1, recover=True, offset=2, epoch="e") == {**live, "recovered": True, "was_recovering": True}
    assert await bob.ask(0, offset=2, epoch="e") == live


async def test_more_than_the_stream_keeps_is_not_recovered(maps: MapBench) -> None:
    maps.fill("board:a", 10)
    ada, bob = await watcher(maps), await watcher(maps)

    assert (await ada.ask(1, recover=True, offset=1, epoch="e"))["code"] == 112
    assert "code" not in await bob.ask(1, recover=True, offset=2, epoch="e")
    await ada.load()
    assert ada.values == maps.values("board:a")


async def test_large_recoveries_continue_as_pushes_after_the_position_of_the_reply(maps: MapBench) -> None:
    for number in range(6):
        maps.set("board:a", f"k{number}", "x" * 30_000)
    ada = await watcher(maps)
    ada.client.connection.max_unsent_bytes = 10_000_000

    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 1, "recover": True, "offset": 1, "epoch": "e"}})
    reply, *pushes = await ada.client.replies(4)

    assert [each["offset"] for each in reply["subscribe"]["publications"]] == [2, 3]
    assert reply["subscribe"]["offset"] == 3
    assert [line["push"]["pub"]["offset"] for line in pushes] == [4, 5, 6]


async def test_changes_that_wait_for_the_next_flush_come_once(maps: MapBench) -> None:
    maps.fill("board:a", 2)
    bob = await watcher(maps)
    await bob.load()
    maps.set("board:a", "k000", "waits", flush=False)

    ada = await watcher(maps)
    reply = await ada.load()
    maps.turn.run()

    # Its first page has the change, so it was written to the others before.
    assert reply["offset"] == 3
    assert [push["pub"]["key"] for push in bob.read()] == ["k000"]
    assert ada.read() == []
    assert ada.values == maps.values("board:a")


async def test_a_client_goes_live_with_the_map_of_one_position(maps: MapBench) -> None:
    maps.fill("board:a", 4)
    bob = await watcher(maps)
    await bob.load()
    ada = await watcher(maps)
    ada.take(await ada.ask(2))
    maps.set("board:a", "k000", "changed")
    at_5 = maps.values("board:a")
    maps.set("board:a", "k000", "changed again, and not written yet", flush=False)

    reply = await ada.ask(2, cursor="k002", offset=4, epoch="e")
    ada.take(reply)

    # At offset 5 without the first change it would be a map that never was.
    assert ada.values == {5: at_5, 6: maps.values("board:a")}[reply["offset"]]
    maps.turn.run()
    ada.read()
    assert ada.values == maps.values("board:a")


async def test_a_load_that_loses_changes_ends_with_112_and_can_begin_again(maps: MapBench) -> None:
    maps.fill("board:a", 7)
    ada = await watcher(maps)
    ada.take(await ada.ask(2))

    maps.lose_changes("board:a")
    maps.node.tracker.disconnected()
    maps.node.tracker.connected()
    await turns()

    assert (await ada.ask(2, cursor="k002", offset=7, epoch="e"))["code"] == 112
    await ada.load()
    assert ada.values == maps.values("board:a")


@pytest.mark.parametrize("channel", ["board:a", "cursor:a"])
async def test_a_loss_ends_a_subscription_with_2500_in_each_mode(maps: MapBench, channel: str) -> None:
    maps.fill(channel, 1)
    ada = await watcher(maps, channel)
    await ada.load()

    maps.lose_changes(channel)
    maps.node.tracker.disconnected()
    maps.node.tracker.connected()
    await turns()
    maps.set(channel, "k000", "after the loss")

    assert ada.read()[0] == {"channel": channel, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    assert not ada.client.session.subscriptions


async def test_a_client_that_takes_long_for_the_next_page_is_closed(maps: MapBench) -> None:
    maps.fill("board:a", 7)
    ada, bob = await watcher(maps), await watcher(maps)
    await ada.ask(2)
    await bob.ask(2)
    maps.at(maps.now_s + 4.9)
    ada.take(await ada.ask(2, cursor="k002", offset=7, epoch="e"))  # each page has the whole time
    maps.at(maps.now_s + 4.9)
    await turns()
    assert maps.node.interest.channels() == {"board:a"}

    maps.at(maps.now_s + 5.1)

    assert not maps.node.interest.channels(), "abandoned loads hold nothing"
    assert [each.load for each in bob.client.session.loads.values()] == [None], "no copy of the map either"
    ada.client.send({"id": 9, "subscribe": {**ada.members, "phase": 2, "cursor": "k005"}})
    await turns()
    assert ada.client.codes == [3008]
    await bob.load()
    assert bob.values == maps.values("board:a"), "a load from the beginning may begin at any time"


async def test_to_unsubscribe_cancels_a_load_and_is_answered_at_once(maps: MapBench) -> None:
    """G10: also while the load waits for Redis."""
    maps.fill("board:a", 7)
    ada, bob = await watcher(maps), await watcher(maps)
    await ada.ask(2)
    ada.client.send({"id": 3, "unsubscribe": {"channel": "board:a"}})
    assert ada.client.got() == [{"id": 3, "unsubscribe": {}}]
    assert (await ada.ask(2, cursor="k002", offset=7, epoch="e"))["code"] == 103

    await turns()
    maps.store.gate = asyncio.Event()
    bob.client.send({"id": 2, "subscribe": {**bob.members, "phase": 2}})
    await turns()
    bob.client.send({"id": 3, "unsubscribe": {"channel": "board:a"}}, {"id": 4, "ping": {}})
    refused, *others = await bob.client.replies(3)

    assert refused["error"]["code"] == 112
    assert others == [{"id": 3, "unsubscribe": {}}, {"id": 4, "ping": {}}]
    maps.store.gate.set()
    await bob.load()
    assert bob.values == maps.values("board:a")


async def test_what_ends_a_session_or_a_service_ends_a_load(maps: MapBench) -> None:
    maps.fill("board:a", 7)
    ada, bob = await watcher(maps), await watcher(maps)
    await ada.ask(2)
    await bob.ask(2)

    ada.client.vanish()
    assert maps.node.interest.channels() == {"board:a"}
    await maps.handlers["unsubscribe"]({"user": "", "channel": "board:a"})

    assert bob.client.got() == [
        {"push": {"channel": "board:a", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}}
    ]
    assert not maps.node.interest.channels()


async def test_loads_count_for_the_limit_of_channels() -> None:
    async with MapBench(anonymous=True, channel_limit=2) as maps:
        maps.fill("board:a", 7)
        ada = await watcher(maps)
        await ada.ask(2)
        assert "code" not in await ada.ask(0, channel="room:a", type=0)
        for channel, kind in (("room:b", 0), ("board:b", 1)):
            assert (await ada.ask(2, channel=channel, type=kind))["code"] == 106
        maps.at(maps.now_s + 5.1)
        assert "code" not in await ada.ask(2, channel="board:b"), "the load was abandoned"
        assert set(ada.client.session.subscriptions) == {"room:a", "board:b"}


async def test_only_clients_subscribe_to_maps(maps: MapBench) -> None:
    client = maps.client()

    client.send({"id": 1, "connect": {"token": signed({"sub": "ada", "channels": ["board:a"]})}})
    (reply,) = await client.replies(1)

    assert reply["error"]["code"] == 103
