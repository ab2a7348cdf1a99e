"""The chaos test's subscribers of maps: what they hold, and what they ask for, as the libraries and pages do."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.chaos.fleet import Fleet
from tests.chaos.journal import Place
from tests.chaos.map_centrifuge import MapSubscription
from tests.chaos.map_doors import PlainMap
from tests.chaos.map_journal import Changed, Invalidated, Loaded, MapEvent, Paged, Recovered
from tests.chaos.map_subscriber import MapSubscriber, MapWay

Message = dict[str, Any]  # Any: JSON


class Server:
    """A server of the Centrifuge protocol for one subscription: its requests, and the events of its replies."""

    def __init__(self) -> None:
        self.subscription = MapSubscription("m:a", limit=2, round_trip_s=lambda: 0)
        self.asked: Message = json.loads(self.subscription.begin())

    def reply(self, **reply: object) -> list[MapEvent]:
        return self._say({"id": self.asked["id"], "subscribe": {"type": 1, **reply}})

    def push(self, **push: object) -> list[MapEvent]:
        return self._say({"push": {"channel": "m:a", **push}})

    def fail(self, code: int) -> list[MapEvent]:
        return self._say({"id": self.asked["id"], "error": {"code": code, "message": ""}})

    def reconnect(self) -> None:
        self.asked = json.loads(self.subscription.begin())

    def _say(self, said: Message) -> list[MapEvent]:
        request, events = self.subscription.take(said)
        if request:
            self.asked = json.loads(request)
        for event in events:
            self.subscription.pass_on(event)
        return list(events)

    @property
    def terms(self) -> Message:
        return {
            name: value
            for name, value in self.asked["subscribe"].items()
            if name not in ("channel", "type", "flag", "limit")
        }


def entry(key: str, data: int, offset: int) -> Message:
    return {"key": key, "data": data, "offset": offset}


def removal(key: str, offset: int) -> Message:
    return {"key": key, "removed": True, "offset": offset}


def test_a_load_has_pages_then_changes_and_all_of_it_is_merged() -> None:
    server = Server()
    assert server.terms == {"phase": 2}

    assert server.reply(phase=2, cursor="b", offset=9, epoch="e", state=[entry("a", 1, 3), entry("b", 2, 9)])
    assert server.terms == {"phase": 2, "cursor": "b", "offset": 9, "epoch": "e"}
    server.reply(phase=2, offset=9, epoch="e", state=[entry("c", 3, 4)])
    assert server.terms == {"phase": 1, "offset": 9, "epoch": "e"}
    server.reply(phase=1, offset=11, epoch="e", publications=[removal("a", 10), entry("b", 5, 11)])
    assert server.terms == {"phase": 1, "offset": 11, "epoch": "e"}
    live = server.reply(offset=12, epoch="e", recoverable=True, publications=[entry("d", 6, 12)])

    assert live == [Loaded(Place("e", 12), {"b": "5", "c": "3", "d": "6"})]
    assert server.push(pub=entry("a", 7, 13)) == [Changed(Place("e", 13), "a", "7")]


def test_a_client_that_returns_recovers_from_the_last_change_that_it_has() -> None:
    server = Server()
    server.reply(offset=5, epoch="e", recoverable=True)
    server.push(pub=removal("a", 6))

    server.reconnect()
    assert server.terms == {"phase": 1, "offset": 6, "epoch": "e", "recover": True}
    events = server.reply(offset=7, epoch="e", recoverable=True, recovered=True, publications=[entry("a", 1, 7)])

    assert events == [Changed(Place("e", 7), "a", "1"), Recovered(Place("e", 7))]


def test_what_the_server_says_was_not_recovered_replaces_the_copy() -> None:
    server = Server()
    server.reply(offset=5, epoch="e", recoverable=True, state=[entry("a", 1, 5)])

    server.reconnect()

    assert server.reply(offset=7, epoch="e", recoverable=True) == [Loaded(Place("e", 7), {})]


def test_an_ephemeral_map_is_always_loaded_again() -> None:
    server = Server()
    assert server.reply(state=[{"key": "a", "data": 1}]) == [Loaded(None, {"a": "1"})]
    assert server.push(pub={"key": "a", "removed": True}) == [Changed(None, "a", None)]

    assert server.push(unsubscribe={"code": 2500}) == [Invalidated("2500")]
    assert server.terms == {"phase": 2}


def test_an_unrecoverable_position_is_forgotten() -> None:
    server = Server()
    server.reply(offset=5, epoch="e", recoverable=True)
    server.reconnect()

    assert server.fail(112) == [Invalidated("112")]
    assert server.terms == {"phase": 2}


def test_a_load_that_broke_sends_its_position_with_the_next_one() -> None:
    server = Server()
    server.reply(phase=2, cursor="b", offset=9, epoch="e", state=[entry("b", 2, 9)])

    server.reconnect()

    assert server.terms == {"phase": 2, "offset": 9, "epoch": "e"}
    assert server.reply(offset=9, epoch="e", recoverable=True) == [Loaded(Place("e", 9), {})]


def test_another_epoch_in_the_middle_of_a_load_restarts_it() -> None:
    server = Server()
    server.reply(phase=2, cursor="b", offset=9, epoch="e")

    assert server.reply(phase=2, offset=9, epoch="f") == [Invalidated("the epoch has changed")]
    assert server.terms == {"phase": 2}


def test_a_page_holds_a_map_and_continues_from_what_it_was_told() -> None:
    page = PlainMap("m:a")

    said: list[Message] = [
        {"reset": True},
        entry("a", 1, 3),
        entry("b", 2, 4),
        removal("a", 6),
        {"synced": True, "offset": 6, "epoch": "e"},
    ]
    assert [page.take(each, page.place_after(each)) for each in said] == [
        Invalidated("reset"),
        Paged(1),
        Paged(1),
        Paged(1),
        Loaded(Place("e", 6), {"b": "2"}),
    ]
    change = entry("c", 3, 7)
    assert page.take(change, page.place_after(change)) == Changed(Place("e", 7), "c", "3")
    assert page.since == Place("e", 7)

    page.take({"reset": True}, None)

    assert page.since is None, "a page that is loading again has no position"


def test_a_page_that_continues_receives_what_it_has_missed() -> None:
    page = PlainMap("m:a")
    for said in ({"reset": True}, {"synced": True, "offset": 6, "epoch": "e"}, entry("a", 1, 8)):
        page.take(said, page.place_after(said))

    synced = {"synced": True, "offset": 8, "epoch": "e"}
    assert page.take(synced, page.place_after(synced)) == Recovered(Place("e", 8))


def test_a_subscriber_notes_only_copies_that_are_whole() -> None:
    subscriber = MapSubscriber("s", "m:a", Fleet([], random.Random(1)), random.Random(1), MapWay.SSE)
    events: list[MapEvent] = [Paged(1), Loaded(Place("e", 1), {"a": "1"}), Invalidated("reset")]
    events += [Changed(Place("e", offset), "a", str(offset)) for offset in range(2, 100)]  # until it has recovered
    events += [Recovered(Place("e", 99)), Changed(Place("e", 100), "a", None)]
    events += [Changed(Place("e", offset), "a", str(offset)) for offset in range(101, 200)]

    for event in events:
        subscriber.take(event, is_first=False)

    first, second, *others = subscriber.log.notes
    assert first == (2, Place("e", 1), {"a": "1"})
    assert second == (102, Place("e", 99), {"a": "99"})
    assert 5 < len(others) < 60
    assert all(note.entries == {"a": str(note.place.offset)} for note in others)
    assert subscriber.live_copy() == {"a": "199"}
    subscriber.take(Invalidated("reset"), is_first=False)
    assert subscriber.live_copy() is None
