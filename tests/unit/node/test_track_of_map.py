"""The track of a map keeps a copy in step, while clients load it."""

from __future__ import annotations

from roomcast.brokers.interface import Read
from roomcast.model.maps import Change
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump, Publication
from roomcast.node.map_copy import MapCopy
from roomcast.node.track import Track
from roomcast.node.waiting import WaitingTotal

CHANNEL = "state:a"


def change(offset: int, key: str = "k") -> Publication:
    return Publication(CHANNEL, b"%d" % offset, position=Position(offset, "e"), change=Change(key))


def track_with_copy(offset: int) -> tuple[Track, MapCopy]:
    track = Track(CHANNEL, DEFAULTS["state"], WaitingTotal(100_000))
    track.settle(track.request(0), History(Position(offset, "e"), 0, []))
    copy = track.copy = MapCopy(Position(offset, "e"), needed_until_s=0)
    return track, copy


def test_live_and_repaired_changes_are_applied_in_their_order() -> None:
    track, copy = track_with_copy(1)

    assert track.accept(change(2))
    assert not track.accept(change(4))
    assert copy.get("k") == change(2)
    track.page(track.request(1000), History(Position(4, "e"), 0, [change(3)]))

    assert copy.get("k") == change(4)
    assert (copy.position, track.copy) == (Position(4, "e"), copy)


def test_a_copy_without_lost_changes_is_dropped() -> None:
    track, _ = track_with_copy(1)

    assert not track.accept(change(4))
    track.page(track.request(1000), History(Position(4, "e"), 0, []))

    assert track.copy is None


def test_a_copy_of_a_former_epoch_is_dropped() -> None:
    track, _ = track_with_copy(1)

    track.doubt()
    request = track.request(0)
    assert request.read == Read(CHANNEL, DEFAULTS["state"], seen=(Position(1, "e"),))
    track.settle(request, History(Position(1, "f"), 1, []))

    assert track.copy is None


def test_a_copy_jumps_with_the_offsets_after_a_start_of_redis() -> None:
    track, copy = track_with_copy(7)

    track.disconnect()
    track.settle(track.request(0), History(Position(1000, "e"), 0, [], (Jump(7, 1000),)))

    assert track.copy is copy
    assert copy.position == Position(1000, "e")


def test_each_change_is_reported_and_the_end_of_each_doubt_after_which_changes_may_be_unknown() -> None:
    track = Track(CHANNEL, DEFAULTS["cursors"], WaitingTotal(100_000))
    calls: list[int] = []
    track.on_change = lambda: calls.append(track.position.offset if track.position is not None else -1)

    track.settle(track.request(0), History(Position(1, "e"), 0, []))
    track.accept(change(2))
    track.accept(change(2))
    track.accept(change(4))
    track.page(track.request(1000), History(Position(4, "e"), 0, []))

    assert calls == [1, 2, 4, 4]
