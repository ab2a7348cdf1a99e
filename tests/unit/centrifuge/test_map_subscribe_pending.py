"""Clients that go live while changes wait for the flush: what they are sent builds on what they have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from centrifuge.fossil import apply_delta

from roomcast.brokers.map_interface import MapPage, MapRead
from roomcast.model.errors import BrokerUnavailable
from tests.support.map_bench import MapBench, Watcher
from tests.support.sessions import turns
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio

ENG, SALES = {"team": "eng"}, {"team": "sales"}
FILTER = {"key": "team", "cmp": "eq", "val": "eng"}


@pytest.fixture
async def maps() -> AsyncIterator[MapBench]:
    async with MapBench(anonymous=True) as bench:
        yield bench


async def watcher(maps: MapBench, **members: object) -> Watcher:
    return Watcher(await maps.connected(), "board:a", **members)


async def test_a_value_that_left_the_view_before_a_change_that_waits_is_removed(maps: MapBench) -> None:
    """The change that waits takes nothing out of the view, so its push would say nothing."""
    maps.set("board:a", "a", 1, tags=ENG)
    maps.set("board:a", "b", 1, tags=ENG)
    ada, bob = await watcher(maps, tf=FILTER, limit=1), await watcher(maps)
    await bob.load()
    ada.take(first := await ada.ask(2))
    maps.set("board:a", "a", 2, tags=SALES)
    maps.set("board:a", "a", 3, tags=SALES, flush=False)

    ada.take(await ada.ask(2, cursor=first["cursor"], offset=2, epoch="e"))
    maps.turn.run()
    ada.read()

    assert ada.values == {"b": 1}


def value(number: int) -> str:
    """Return a text of which the next one repeats all but the end."""
    return "the first one " * 10 if number == 0 else "another one " * 10 + str(number)


async def test_a_difference_that_waits_builds_on_the_value_that_the_client_has(maps: MapBench) -> None:
    maps.set("board:a", "a", value(0))
    maps.set("board:a", "b", value(0))
    ada, bob = await watcher(maps, delta="fossil", limit=1), await watcher(maps, delta="fossil")
    await bob.load()
    ada.take(first := await ada.ask(2))
    maps.set("board:a", "a", value(1))
    maps.set("board:a", "a", value(2), flush=False)

    ada.take(live := await ada.ask(2, cursor=first["cursor"], offset=2, epoch="e"))
    assert live["delta"] is True
    base = ada.values["a"]
    maps.turn.run()
    maps.set("board:a", "a", value(3))
    for push in ada.read():
        data = push["pub"]["data"]
        base = bytes(apply_delta(base.encode(), data.encode())).decode() if push["pub"].get("delta") else data

    assert json.loads(base) == value(3)


async def test_a_token_that_expires_while_a_map_is_loaded_is_replaced(maps: MapBench) -> None:
    """Not 110, with which the SDK gives the subscription up."""
    channel = "board:a"
    maps.fill(channel, 3)
    ada = Watcher(await maps.connected(signed({"sub": "ada"})), channel, limit=1)
    claims = {"sub": "ada", "channel": channel}
    first = await ada.ask(2, token=signed({**claims, "exp": int(maps.now_s) + 10}))
    maps.at(maps.now_s + 3)
    second = await ada.ask(2, cursor=first["cursor"], offset=3, epoch="e")
    maps.now_s += 100

    refused = await ada.ask(2, cursor=second["cursor"], offset=3, epoch="e")

    assert refused["code"] == 109
    again = await ada.ask(2, token=signed({**claims, "expire_at": int(maps.now_s) - 60}))
    assert again["code"] == 110


@pytest.mark.parametrize("members", [{"phase": 2}, {"phase": 1, "recover": True, "offset": 1, "epoch": "e"}])
async def test_a_client_that_the_server_unsubscribes_while_redis_is_asked_does_not_go_live(
    maps: MapBench, members: dict[str, object]
) -> None:
    maps.set("board:a", "a", 1)
    ada = await watcher(maps)
    maps.store.gate = asyncio.Event()
    maps.broker.shut("board:a")
    ada.client.send({"id": 2, "subscribe": {**ada.members, **members}})
    await turns()

    await maps.handlers["unsubscribe"]({"user": "", "channel": "board:a"})
    maps.store.gate.set()
    maps.broker.open()
    await turns()

    push, refused = ada.client.got()
    assert push["push"]["unsubscribe"]["code"] == 2000
    assert refused["error"]["code"] == 103, "with which the SDK does not load again"
    assert not ada.client.session.subscriptions
    assert not maps.node.interest.channels()


async def test_to_unsubscribe_again_before_the_load_has_ended_changes_nothing(maps: MapBench) -> None:
    maps.set("board:a", "a", 1)
    ada = await watcher(maps)
    maps.store.gate = asyncio.Event()
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 2}})
    await turns()

    for number in range(3, 6):
        ada.client.send({"id": number, "unsubscribe": {"channel": "board:a"}})
        await asyncio.sleep(0)

    refused, *others = await ada.client.replies(4)
    assert refused["error"]["code"] == 112
    assert others == [{"id": number, "unsubscribe": {}} for number in range(3, 6)]


async def test_a_copy_that_could_not_be_read_to_its_end_is_no_map(
    maps: MapBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for a client that comes in the turn of the loop in which the read has failed."""
    maps.fill("board:a", 1500)
    ada, bob = await watcher(maps), await watcher(maps, limit=1000)
    read, failures = maps.store.read, 1

    async def fail_once(wanted: MapRead) -> MapPage:
        nonlocal failures
        if wanted.after and failures:
            failures -= 1
            maps.broker.open()
            raise BrokerUnavailable("away")
        return await read(wanted)

    monkeypatch.setattr(maps.store, "read", fail_once)
    maps.store.gate = asyncio.Event()
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 2}})
    await turns()
    maps.broker.shut("board:a")
    bob.client.send({"id": 2, "subscribe": {**bob.members, "phase": 2}})
    await turns()
    maps.store.gate.set()

    assert (await ada.client.replies(1))[0]["error"]["code"] == 100
    assert "subscribe" in (await bob.client.replies(1))[0]
    load = bob.client.session.loads["board:a"].load
    assert load is not None
    assert len(load.copy) == 1500


async def test_pages_wait_until_the_client_has_read_what_it_was_sent(maps: MapBench) -> None:
    """Those of many maps together would exceed max_unsent_bytes."""
    maps.set("board:a", "a", 1)
    ada = await watcher(maps)
    ada.client.connection.on_congested()
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 2}}, {"id": 3, "ping": {}})
    await turns()
    assert ada.client.got() == []

    ada.client.connection.on_drained()

    first, _ = await ada.client.replies(2)
    assert [entry["key"] for entry in first["subscribe"]["state"]] == ["a"]


@pytest.mark.parametrize(("is_lost", "codes"), [(False, []), (True, [3008])])
async def test_a_request_is_in_time_although_it_waits_behind_others(
    maps: MapBench, is_lost: bool, codes: list[int]
) -> None:
    """As long as the node's copy is kept in step: a busy client must not hold one that is not."""
    for number in range(3):
        maps.set("board:a", f"k{number}", number)
    ada = await watcher(maps, limit=1)
    first = await ada.ask(2)
    maps.store.gate = asyncio.Event()
    ada.client.send({"id": 2, "subscribe": {**ada.members, "channel": "board:b", "phase": 2}})
    ada.client.send({"id": 3, "subscribe": {**ada.members, "phase": 2, "cursor": first["cursor"]}})
    await turns()
    if is_lost:
        maps.lose_changes("board:a")
        maps.node.tracker.disconnected()
        maps.node.tracker.connected()
        await turns()
    for _ in range(2):
        maps.at(maps.now_s + 5.1)
        await turns()

    maps.store.gate.set()
    await turns()

    assert ada.client.codes == codes
    assert ["error" in line for line in ada.client.got()[1:]] == [False] * (not is_lost)


async def test_a_load_that_finds_another_epoch_in_redis_continues_in_it(maps: MapBench) -> None:
    """Not only after the next check of all positions, which is 5 s later."""
    maps.set("board:a", "a", 1)
    ada, bob = await watcher(maps), await watcher(maps)
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 0, "offset": 1, "epoch": "e"}})
    assert "subscribe" in (await ada.client.replies(1))[0]
    maps.lose_changes("board:a")

    await bob.load()

    assert bob.values == {"a": 1}
    assert ada.read()[0]["unsubscribe"]["code"] == 2500


async def test_a_load_that_finds_a_change_that_the_node_has_not_received_repairs_the_gap(
    maps: MapBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps.set("board:a", "a", 1)
    ada, bob = await watcher(maps), await watcher(maps)
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 0, "offset": 1, "epoch": "e"}})
    assert "subscribe" in (await ada.client.replies(1))[0]
    monkeypatch.setattr(maps.node, "on_event", lambda event: None)
    maps.set("board:a", "b", 2)
    monkeypatch.undo()

    await bob.load()
    maps.turn.run()

    assert bob.values == {"a": 1, "b": 2}
    assert [push["pub"]["key"] for push in ada.read()] == ["b"]


async def test_a_map_is_not_read_to_its_end_for_a_client_that_has_left(maps: MapBench) -> None:
    maps.fill("board:a", 3500)
    ada = await watcher(maps)
    maps.store.gate = asyncio.Event()
    ada.client.send({"id": 2, "subscribe": {**ada.members, "phase": 2}})
    await turns()

    ada.client.vanish()
    maps.store.gate.set()
    await turns()

    assert maps.store.read_count == 1
