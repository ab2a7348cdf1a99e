"""What `roomcast map watch` prints, on a store in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typing_extensions import override

from roomcast.brokers.map_interface import MapPage, MapRead
from roomcast.cli.map_watch import MapWatch, entry_line
from roomcast.cli.terminal import Lines
from roomcast.model.maps import Change, MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication, Removal
from roomcast.tasks import end
from tests.support.map_store import FakeMapStore
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio

BOARD, STATE = "state:board", DEFAULTS["state"]


class Store(FakeMapStore):
    """Pages of two entries. `before_page`: called before each page but the first."""

    before_page: Any = None

    @override
    async def read(self, read: MapRead) -> MapPage:
        if read.after and self.before_page is not None:
            self.before_page, call = None, self.before_page
            await call()
        return await super().read(read._replace(limit=2))


class Watch:
    """A watch, its store, and the lines that it has printed."""

    def __init__(self, namespace: Namespace = STATE) -> None:
        self.store = Store(self._on_change)
        self.namespace = namespace
        self.lines = Lines()
        self.watch = MapWatch(self.lines, BOARD, namespace)
        self.is_connected = True
        self.printed: list[Any] = []
        self.lines.print = lambda line: self.printed.append(_short(json.loads(line)))  # type: ignore[method-assign]

    def _on_change(self, change: Publication) -> None:
        if self.is_connected:
            self.watch.on_event(change)

    async def set(self, key: str, data: object) -> None:
        publication = Publication(BOARD, json.dumps(data).encode(), Kind.JSON, change=Change(key))
        await self.store.write(publication, self.namespace)

    async def remove(self, key: str) -> None:
        await self.store.write(Publication(BOARD, b"", Kind.JSON, change=Change(key, is_removed=True)), self.namespace)

    async def expect(self, *lines: Any) -> None:
        """Wait for the lines that are printed next."""

        async def is_printed() -> bool:
            return len(self.printed) >= len(lines)

        await eventually(is_printed, within_s=5)
        assert self.printed == list(lines)
        self.printed.clear()


def _short(entry: Any) -> Any:
    return [entry["key"], "removed" if "removed" in entry else entry["data"]]


@pytest.fixture
async def board() -> AsyncIterator[Watch]:
    board = Watch()
    for key in ("a", "b", "c"):
        await board.set(key, 1)
    running = asyncio.create_task(board.watch.run(board.store))
    await board.expect(["a", 1], ["b", 1], ["c", 1])
    yield board
    assert not running.done()
    await end(running)


async def test_after_the_map_each_change_is_printed(board: Watch) -> None:
    await board.set("b", 2)
    await board.set("d", 1)
    await board.remove("a")
    await board.remove("none")
    await board.set("a", 3)

    await board.expect(["b", 2], ["d", 1], ["a", "removed"], ["a", 3])


async def test_after_an_outage_the_differences_are_printed(board: Watch) -> None:
    board.is_connected = False
    await board.set("b", 2)
    await board.set("b", 3)
    await board.remove("a")
    await board.set("d", 1)
    board.is_connected = True
    board.watch.on_connected(is_again=True)

    await board.expect(["b", 3], ["d", 1], ["a", "removed"])
    await board.set("e", 1)
    await board.expect(["e", 1])


async def test_a_lost_change_is_noticed_by_the_next_one(board: Watch) -> None:
    board.is_connected = False
    await board.remove("a")
    board.is_connected = True
    await board.set("b", 2)

    await board.expect(["b", 2], ["a", "removed"])


async def test_a_malformed_change_is_read_from_the_map(board: Watch) -> None:
    board.is_connected = False
    await board.set("a", 2)
    board.is_connected = True
    board.watch.on_malformed(BOARD, "nonsense")

    await board.expect(["a", 2])


async def test_a_cleared_map_is_printed_as_removals(board: Watch) -> None:
    await board.store.clear(BOARD, STATE)
    board.watch.on_event(Removal(BOARD))

    await board.expect(["a", "removed"], ["b", "removed"], ["c", "removed"])
    await board.set("a", 2)
    await board.expect(["a", 2])


async def test_a_map_in_another_epoch_is_read_again(board: Watch) -> None:
    board.is_connected = False
    await board.store.clear(BOARD, STATE)
    board.is_connected = True
    await board.set("b", 2)

    await board.expect(["b", 2], ["a", "removed"], ["c", "removed"])


async def test_what_is_no_change_is_not_printed(board: Watch) -> None:
    board.watch.on_event(Publication(BOARD, b"1", Kind.JSON))
    board.watch.on_event(Publication(BOARD, b"1", Kind.JSON, position=Position(4, "e0")))
    await board.set("a", 2)

    await board.expect(["a", 2])


async def test_while_redis_is_away_the_map_is_read_until_it_answers(
    board: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomcast.cli.map_watch._RETRY_S", 0.01)
    board.is_connected = False
    await board.set("a", 2)
    board.store.away = "Redis is away"
    board.is_connected = True
    board.watch.on_disconnected()
    board.watch.on_connected(is_again=True)
    reads: list[MapRead] = []
    read = board.store.read

    async def counted(wanted: MapRead) -> MapPage:
        reads.append(wanted)
        return await read(wanted)

    monkeypatch.setattr(board.store, "read", counted)

    async def has_tried_twice() -> bool:
        return len(reads) >= 2

    await eventually(has_tried_twice, within_s=5)
    board.store.away = None

    await board.expect(["a", 2])


@pytest.mark.parametrize("is_lost", [False, True])
async def test_changes_between_two_pages_are_printed_once(is_lost: bool) -> None:
    """Key a is on the first page, which was read, and c on the second, which was not."""
    board = Watch()
    for key in ("a", "b", "c"):
        await board.set(key, 1)

    async def change() -> None:
        board.is_connected = not is_lost
        await board.set("a", 2)
        await board.set("c", 2)
        await board.remove("b")
        board.is_connected = True
        if is_lost:
            board.watch.on_connected(is_again=True)

    board.store.before_page = change
    running = asyncio.create_task(board.watch.run(board.store))

    await board.expect(["a", 1], ["b", 1], ["c", 2], ["a", 2], ["b", "removed"])
    await end(running)


async def test_a_map_that_is_cleared_between_two_pages_is_read_again() -> None:
    board = Watch()
    for key in ("a", "b", "c"):
        await board.set(key, 1)

    async def clear() -> None:
        await board.store.clear(BOARD, STATE)

    board.store.before_page = clear
    running = asyncio.create_task(board.watch.run(board.store))

    await board.expect(["a", 1], ["b", 1], ["a", "removed"], ["b", "removed"])
    await end(running)


async def test_keys_expire_without_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    options = MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=0.1)
    board = Watch(Namespace(type=ChannelType.MAP, map=options))
    running = asyncio.create_task(board.watch.run(board.store))
    await board.set("a", 1)
    await board.expect(["a", 1])
    board.store.now_s += 1

    await board.expect(["a", "removed"])
    await end(running)


def test_an_entry_is_one_line_whatever_a_service_wrote() -> None:
    entry = Publication(BOARD, b'{\n "a": "\\n"\r\n}', Kind.JSON, Position(7, "e"), change=Change("k"))

    assert entry_line(entry, STATE) == '{"key":"k","data":{  "a": "\\n"  },"offset":7}'
    assert entry_line(entry, DEFAULTS["cursors"]) == '{"key":"k","data":{  "a": "\\n"  }}'
