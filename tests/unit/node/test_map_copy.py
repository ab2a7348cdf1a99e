"""A node's copy of a map, and clients that load it, while the map changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from typing_extensions import override

from roomcast.brokers.map_interface import MapPage
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import Change
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, offset_of
from roomcast.node import map_copy
from roomcast.node.map_copy import MapCopy
from roomcast.node.map_load import MapLoad

KEYS = ["a", "b", "c", "d", "é", "\U0001f600", "~"]
ALL_BYTES = 10**9


def written(key: str, offset: int, data: bytes = b"1", *, is_removed: bool = False) -> Publication:
    return Publication("state:x", data, position=Position(offset, "e"), change=Change(key, is_removed))


def lines(entries: Sequence[Publication]) -> bytes:
    return "".join(f"{entry.change.key}={entry.data.decode()}\n" for entry in entries if entry.change).encode()


def load_of(copy: MapCopy) -> MapLoad:
    return MapLoad(copy, is_current=lambda _: True, keep=lambda _: None, close=lambda: None)


class Redis:
    """A map in Redis, and its changes."""

    def __init__(self) -> None:
        self.state: dict[str, Publication] = {}
        self.changes: list[Publication] = []

    @property
    def position(self) -> Position:
        return Position(len(self.changes), "e")

    def write(self, key: str, *, is_removed: bool) -> None:
        change = written(key, len(self.changes) + 1, b"%d" % len(self.changes), is_removed=is_removed)
        self.changes.append(change)
        if is_removed:
            self.state.pop(key, None)
        else:
            self.state[key] = change

    def page(self, after: str, limit: int) -> MapPage:
        keys = sorted((key for key in self.state if key.encode() > after.encode()), key=str.encode)
        return MapPage(
            self.position, [self.state[key] for key in keys[:limit]], keys[limit - 1] if len(keys) > limit else ""
        )


class Client:
    """A client that loads the map; `map` is what it holds."""

    def __init__(self, load: MapLoad) -> None:
        self.load = load
        self.cursor: str = ""
        self.map: dict[str, bytes] = {}
        self.has_pages = False
        self.live_from: int | None = None  # the offset after which changes come live

    def apply(self, publication: Publication) -> None:
        assert publication.change is not None
        if publication.change.is_removed:
            self.map.pop(publication.change.key, None)
        else:
            self.map[publication.change.key] = publication.data


class LoadingClients(RuleBasedStateMachine):
    """A node reads a map page by page, changes arrive late, and clients load its copy meanwhile."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(map_copy, "_KEYS_A_CHANGE", 1)

    @override
    def teardown(self) -> None:
        self.patch.undo()

    @initialize(before=st.lists(st.sampled_from(KEYS), max_size=8), known=st.integers(0, 8))
    def start(self, before: list[str], known: int) -> None:
        self.redis = Redis()
        for key in before:
            self.redis.write(key, is_removed=False)
        # The node has received this many of the changes.
        self.received = min(known, len(before))
        self.copy = MapCopy(Position(self.received, "e"), needed_until_s=0)
        self.after: str | None = ""
        self.page: MapPage | None = None  # on its way to the node
        self.read_up_to = 0
        self.live: list[Client] = []

    @rule(key=st.sampled_from(KEYS), is_removed=st.booleans())
    def write(self, key: str, is_removed: bool) -> None:
        self.redis.write(key, is_removed=is_removed)

    @rule()
    @precondition(lambda self: self.received < len(self.redis.changes))
    def receive(self) -> None:
        change = self.redis.changes[self.received]
        self.received += 1
        self.copy.apply(change)
        for client in self.live:
            client.apply(change)

    @rule(limit=st.integers(1, 3))
    @precondition(lambda self: self.after is not None and self.page is None)
    def read_page(self, limit: int) -> None:
        assert self.after is not None
        self.page = self.redis.page(self.after, limit)

    @rule()
    @precondition(lambda self: self.page is not None)
    def take_page(self) -> None:
        page, self.page = self.page, None
        assert page is not None
        assert self.copy.fill(page)
        self.after = page.cursor or None
        self.read_up_to = page.position.offset

    @property
    def is_whole(self) -> bool:
        return self.after is None and self.received >= self.read_up_to

    @rule(target=clients)
    @precondition(lambda self: self.is_whole)
    def begin(self) -> Client:
        return Client(load_of(self.copy))

    @rule(client=clients, length=st.integers(1, 3))
    def load_page(self, client: Client, length: int) -> None:
        if client.has_pages:
            return
        text, client.cursor = client.load.encoded_page(client.cursor, length, "lines", lines)
        entries = dict(line.split("=") for line in text.decode().splitlines())
        assert len(entries) <= length
        client.map |= {key: data.encode() for key, data in entries.items()}
        client.has_pages = not client.cursor

    @rule(client=consumes(clients))
    def go_live(self, client: Client) -> None:
        while not client.has_pages:
            self.load_page(client, 3)
        for change in client.load.changes(client.load.position.offset):
            client.apply(change)
        self.live.append(client)

    @invariant()
    def a_live_client_holds_the_map_at_the_node_s_position(self) -> None:
        expected: dict[str, bytes] = {}
        for change in self.redis.changes[: self.received]:
            assert change.change is not None
            if change.change.is_removed:
                expected.pop(change.change.key, None)
            else:
                expected[change.change.key] = change.data
        if self.is_whole:
            assert {key: entry.data for key, entry in self.copy.entries().items()} == expected
        for client in self.live:
            assert client.map == expected


TestLoadingClients = LoadingClients.TestCase
TestLoadingClients.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_pages_are_in_the_order_of_the_keys_bytes_and_of_the_wanted_length() -> None:
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    for offset, key in enumerate(KEYS, 1):
        copy.apply(written(key, offset))
    pages: list[list[str]] = []
    cursor = ""
    while not pages or cursor:
        entries, cursor = copy.page(cursor, 3, up_to=len(KEYS), max_bytes=ALL_BYTES)
        pages.append([entry.change.key for entry in entries if entry.change])

    assert pages == [["a", "b", "c"], ["d", "~", "é"], ["\U0001f600"]]


def test_a_page_has_no_more_bytes_than_allowed_but_one_entry_at_least() -> None:
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    for offset, (key, size) in enumerate({"a": 1000, "b": 1000, "c": 10_000}.items(), 1):
        copy.apply(written(key, offset, b"x" * size))

    assert [len(entry.data) for entry in copy.page("", 9, up_to=3, max_bytes=2500)[0]] == [1000, 1000]
    assert copy.page("b", 9, up_to=3, max_bytes=25) == ([copy.get("c")], "")


def test_a_page_that_arrives_after_a_live_change_does_not_undo_it() -> None:
    copy = MapCopy(Position(2, "e"), needed_until_s=0)
    copy.apply(written("a", 3))
    copy.apply(written("b", 4, is_removed=True))

    assert copy.fill(MapPage(Position(2, "e"), [written("a", 1), written("b", 2)]))

    assert copy.entries() == {"a": written("a", 3)}


def test_what_was_written_after_the_first_page_comes_as_a_change_and_not_in_a_page() -> None:
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    for offset, key in enumerate("abcbd", 1):
        copy.apply(written(key, offset))

    assert [entry.data for entry in copy.page("", 9, up_to=3, max_bytes=ALL_BYTES)[0]] == [b"1", b"1"]
    assert [offset_of(change) for change in copy.changes(3) or ()] == [4, 5]
    assert [offset_of(change) for change in copy.changes(1) or ()] == [3, 4, 5]


def test_loads_that_begin_while_the_map_changes_share_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_copy, "_KEYS_A_CHANGE", 1)
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    copy.apply(written("a", 1, b"old"))
    encoded: list[bytes] = []

    def encode(entries: Sequence[Publication]) -> bytes:
        encoded.append(lines(entries))
        return encoded[-1]

    first = load_of(copy)
    assert first.encoded_page("", 9, "lines", encode) == (b"a=old\n", "")
    copy.apply(written("a", 2, b"new"))
    second = load_of(copy)

    assert second.encoded_page("", 9, "lines", encode) == (b"a=old\n", "")
    assert encoded == [b"a=old\n"], "encoded once"
    assert [change.data for change in second.changes(second.position.offset)] == [b"new"]


@pytest.mark.parametrize(
    ("key_count", "starts"), [(9, [9, 10, 11, 12]), (10, [10, 10, 12, 12]), (999, [999] * 3 + [1002])]
)
def test_a_load_starts_at_most_a_few_changes_before_the_newest(
    monkeypatch: pytest.MonkeyPatch, key_count: int, starts: list[int]
) -> None:
    monkeypatch.setattr(map_copy, "_MAX_SHARED_CHANGES", 2)
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    for offset in range(key_count):
        copy.apply(written(f"k{offset}", offset + 1))
    found = [load_of(copy).position.offset]
    for offset in range(key_count + 1, key_count + 4):
        copy.apply(written("k0", offset))
        found.append(load_of(copy).position.offset)

    assert found == starts


def test_the_pages_of_a_start_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_copy, "_MAX_PAGES", 1)
    start = map_copy.LoadStart(Position(0, "e"))
    encoded: list[str] = []

    def ask(name: str) -> None:
        def encode() -> map_copy.EncodedPage:
            encoded.append(name)
            return map_copy.EncodedPage(b"", "")

        start.page(name, encode)

    for name in "aabba":
        ask(name)

    assert encoded == ["a", "b", "a"]


def test_a_load_whose_changes_are_forgotten_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_copy, "_MAX_CHANGES", 2)
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    load = load_of(copy)
    for offset, key in enumerate("abc", 1):
        copy.apply(written(key, offset))

    with pytest.raises(ClientError) as caught:
        load.changes(0)

    assert caught.value.error is ErrorCode.UNRECOVERABLE_POSITION
    assert [offset_of(change) for change in load.changes(1)] == [2, 3]


def test_a_page_that_is_older_than_the_forgotten_changes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_copy, "_MAX_CHANGES", 1)
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    copy.apply(written("a", 1, is_removed=True))
    copy.apply(written("b", 2))

    assert not copy.fill(MapPage(Position(0, "e"), [written("a", 0)]))
    assert copy.get("a") is None


@pytest.mark.parametrize("how", ["closed", "replaced"])
def test_a_load_of_a_copy_that_is_no_longer_in_step_begins_again(how: str) -> None:
    copy = MapCopy(Position(0, "e"), needed_until_s=0)
    closed: list[None] = []
    load = MapLoad(copy, is_current=lambda _: how != "replaced", keep=lambda _: None, close=lambda: closed.append(None))
    if how == "closed":
        load.close()
        load.close()

    for ask in (lambda: load.encoded_page("", 1, None, lambda _: b""), lambda: load.changes(0)):
        with pytest.raises(ClientError) as caught:
            ask()
        assert caught.value.error is ErrorCode.UNRECOVERABLE_POSITION
    assert len(closed) == (how == "closed")
