"""One channel's gaps, step by step; test_repair.py has the properties."""

from __future__ import annotations

from roomcast.brokers.interface import Read
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump, Publication, Resumption
from roomcast.node.recovery import Window
from roomcast.node.track import Events, Track
from roomcast.node.waiting import WaitingTotal

ROOM = DEFAULTS["room"]


def pub(offset: int, epoch: str = "e") -> Publication:
    return Publication("room:a", b"%d" % offset, position=Position(offset, epoch))


def pubs(*offsets: int, epoch: str = "e") -> list[Publication]:
    return [pub(offset, epoch) for offset in offsets]


def raw(text: str) -> Publication:
    return Publication("room:a", text.encode())


def history(top: int, *offsets: int, epoch: str = "e", base: int = 0) -> History:
    return History(Position(top, epoch), base, pubs(*offsets, epoch=epoch))


def lost(offset: int, epoch: str = "e") -> Resumption:
    return Resumption("room:a", Position(offset, epoch), is_recovered=False)


def new_track() -> Track:
    return Track("room:a", ROOM, WaitingTotal(100_000))


def settled(top: int) -> Track:
    """Return a track that is at this offset."""
    track = new_track()
    assert settle(track, top) == []
    return track


def settle(track: Track, top: int, epoch: str = "e", base: int = 0) -> Events:
    """Read the position."""
    request = track.request(0)
    assert request.target is None
    return track.settle(request, history(top, epoch=epoch, base=base))


def read(track: Track, *kept: int, epoch: str = "e") -> Events:
    """Read one page from a stream that has these offsets."""
    request = track.request(1_000_000)
    since, before = request.read.since, request.read.before
    assert since is not None
    assert before is not None
    found = [offset for offset in kept if since.offset < offset < before.offset][: request.read.limit]
    return track.page(request, history(max(kept, default=0), *found, epoch=epoch))


def test_a_track_begins_where_redis_is_or_with_what_came_since_the_subscription() -> None:
    assert settled(5).position == Position(5, "e")

    track = new_track()
    assert not track.accept(pub(4))
    assert not track.accept(pub(5))
    assert settle(track, 4) == pubs(4, 5)
    assert track.is_resolved
    assert track.accept(pub(6))


def test_the_next_one_is_broadcast_and_a_double_is_not() -> None:
    track = settled(5)

    assert track.accept(pub(6))
    assert not track.accept(pub(6))
    assert not track.accept(pub(3))
    assert track.is_resolved
    assert track.accept(pub(7))


def test_a_jump_is_filled_with_exactly_the_missing_ones() -> None:
    track = settled(5)

    assert not track.accept(pub(8))
    assert not track.accept(pub(9))
    assert track.request(1_000_000).read == Read(
        "room:a", ROOM, (Position(5, "e"), Position(9, "e")), Position(5, "e"), limit=2, before=Position(8, "e")
    )
    assert read(track, *range(1, 10)) == pubs(6, 7, 8, 9)
    assert track.is_resolved
    assert track.accept(pub(10))


def test_pages_are_broadcast_at_once_and_grow() -> None:
    track = settled(0)
    track.accept(pub(201))
    kept = range(1, 202)

    assert read(track, *kept) == pubs(*range(1, 9))
    assert read(track, *kept) == pubs(*range(9, 41))
    assert not track.is_resolved
    assert read(track, *kept) == pubs(*range(41, 169))
    assert read(track, *kept) == pubs(*range(169, 202))
    assert track.is_resolved


def test_a_page_that_was_too_large_is_asked_for_in_parts_of_one_at_least() -> None:
    track = settled(0)
    track.accept(pub(201))

    limits = []
    for _ in range(4):
        limits.append(track.request(1_000_000).read.limit)
        track.shrink_page(track.request(1_000_000))
    assert limits == [8, 2, 1, 1]
    assert track.request(0).read.limit == 1


def test_after_an_outage_everything_up_to_the_position_in_redis_is_read() -> None:
    track = settled(5)
    track.disconnect()

    assert settle(track, 8) == []
    assert track.is_behind
    assert read(track, 6, 7, 8) == pubs(6, 7, 8)
    assert track.is_resolved


def test_two_gaps_are_filled_one_after_the_other() -> None:
    track = settled(5)
    track.disconnect()
    track.accept(pub(7))
    track.disconnect()
    track.accept(pub(9))

    assert settle(track, 9) == []
    assert read(track, *range(1, 10)) == pubs(6, 7)
    assert read(track, *range(1, 10)) == pubs(8, 9)
    assert track.is_resolved


def test_missing_publications_that_redis_has_no_more_are_reported_as_lost() -> None:
    track = settled(5)
    track.disconnect()
    settle(track, 20)
    assert read(track, 18, 19, 20) == [lost(17), *pubs(18, 19, 20)]

    track.disconnect()
    settle(track, 25)
    assert read(track) == [lost(25)]
    assert track.position == Position(25, "e")
    assert track.is_resolved


def test_an_entry_that_is_missing_in_the_middle_is_reported() -> None:
    track = settled(5)
    track.disconnect()
    settle(track, 9)

    assert read(track, 6, 7, 9) == [*pubs(6, 7), lost(8), pub(9)]


def test_a_new_epoch_is_reported_and_all_of_it_is_broadcast() -> None:
    track = settled(100)

    assert not track.accept(pub(98, "f"))
    assert settle(track, 98, "f", base=97) == [lost(97, "f"), pub(98, "f")]
    assert track.accept(pub(99, "f"))


def test_after_a_promotion_that_lost_nothing_nothing_is_left_out() -> None:
    track = settled(100)
    track.disconnect()

    assert settle(track, 103, "f", base=102) == []
    assert read(track, 101, 102, 103, epoch="f") == [lost(100, "f"), *pubs(101, 102, 103, epoch="f")]


def test_publications_of_a_lost_tail_that_wait_are_forgotten() -> None:
    track = settled(100)
    track.disconnect()
    track.accept(pub(101))

    assert settle(track, 97, "f", base=97) == [lost(97, "f")]
    assert track.is_resolved


def test_an_epoch_that_ends_during_the_repair_is_noticed_by_the_next_page() -> None:
    track = settled(5)
    track.accept(pub(8))

    assert track.page(track.request(1000), history(0, epoch="f")) == []
    assert settle(track, 0, "f") == [lost(0, "f")]
    assert track.is_resolved


def test_a_jump_of_the_offsets_is_no_gap() -> None:
    track = settled(5)
    jumps = (Jump(7, 1000), Jump(1001, 3000))

    assert not track.accept(pub(3001))
    assert track.page(track.request(2), History(Position(3001, "e"), 0, pubs(6, 7), jumps)) == pubs(6, 7)
    assert track.request(1).read.since == Position(1000, "e")
    assert track.page(track.request(1), History(Position(3001, "e"), 0, pubs(1001), jumps)) == pubs(1001, 3001)
    assert track.is_resolved
    assert track.accept(pub(3002))


def test_a_position_in_a_jump_is_of_lost_data() -> None:
    track = settled(9)
    track.disconnect()
    settle(track, 1001)

    found = History(Position(1001, "e"), 0, pubs(1001), (Jump(7, 1000),))
    assert track.page(track.request(1), found) == [lost(1000), pub(1001)]


def test_a_start_without_publications_moves_a_track_and_nothing_is_reported() -> None:
    track = settled(7)
    track.disconnect()

    assert track.settle(track.request(0), History(Position(1000, "e"), 0, [], (Jump(7, 1000),))) == []
    assert track.position == Position(1000, "e")
    assert track.is_resolved


def test_live_publications_of_lost_and_of_present_data_both_prove_what_was_there() -> None:
    track = settled(5)

    for offset in (7, 8, 1001, 1002):
        track.accept(pub(offset))
    assert list(track.seen) == [Position(5, "e"), Position(8, "e"), Position(1002, "e")]
    track.give_up()
    assert list(track.seen) == [Position(1002, "e")]


def test_masters_that_answer_in_turn_are_continued_where_each_was_left() -> None:
    track = settled(8)

    def answer(top: int, epoch: str, base: int, *former: str) -> Events:
        track.disconnect()
        found = track.settle(track.request(0), History(Position(top, epoch), base, [], (), former))
        while not track.is_resolved:
            found += read(track, *range(1, top + 1), epoch=epoch)
        return found

    assert answer(7, "f", 6, "e") == [lost(6, "f"), pub(7, "f")]
    # The former master has 9 meanwhile, and ends its epoch: it does not know of f.
    assert answer(9, "g", 9, "e") == [lost(8, "g"), pub(9, "g")]
    assert answer(8, "h", 8, "e", "f") == [lost(7, "h"), pub(8, "h")]


def test_an_epoch_that_returns_with_less_is_asked_for_again() -> None:
    track = settled(8)
    track.disconnect()
    settle(track, 0, "f")
    track.disconnect()

    assert settle(track, 6) == []
    assert not track.is_resolved
    assert track.needs_position
    assert list(track.seen) == [Position(8, "e")]
    assert settle(track, 6, "g", base=6) == [lost(6, "g")], "Redis has ended the epoch"


def test_a_message_without_a_position_waits_between_its_neighbours() -> None:
    track = settled(5)
    for live in (pub(8), raw("a"), raw("b"), pub(9), raw("c")):
        assert not track.accept(live)

    assert read(track, *range(1, 10)) == [*pubs(6, 7, 8), raw("a"), raw("b"), pub(9), raw("c")]
    assert track.accept(raw("d"))


def test_a_message_without_a_position_comes_after_everything_that_was_missed_before_it() -> None:
    track = settled(5)
    track.disconnect()
    track.accept(raw("a"))
    assert settle(track, 7) == []
    track.accept(raw("b"))
    assert read(track, 6, 7) == [*pubs(6, 7), raw("a"), raw("b")]

    track.disconnect()
    track.accept(raw("c"))
    track.accept(pub(9))
    settle(track, 9)
    assert read(track, 8, 9) == [pub(8), raw("c"), pub(9)]


def test_a_message_whose_place_is_lost_with_the_connection_is_dropped_and_counted() -> None:
    total = WaitingTotal(1000)
    track = Track("room:a", ROOM, total)
    settle(track, 5)
    track.disconnect()
    track.accept(raw("a"))
    track.disconnect()

    assert settle(track, 5) == []
    assert (total.unplaced_count, total.used_bytes) == (1, 0)


def test_live_traffic_goes_on_after_a_repair_was_given_up_and_the_loss_is_reported() -> None:
    track = settled(5)
    for live in (pub(8), raw("a"), pub(9)):
        track.accept(live)
    request = track.request(1000)

    assert track.give_up() == [lost(7), pub(8), raw("a"), pub(9)]
    assert track.is_resolved
    assert track.page(request, history(9, 6, 7)) == [], "it comes too late"

    track.disconnect()
    settle(track, 12)
    assert track.give_up() == [lost(12)], "nothing is live, and those that are missing cannot be read"
    assert track.is_resolved


def test_what_is_missing_in_an_epoch_that_has_ended_is_not_reported_in_the_next_one() -> None:
    track = settled(5)
    track.disconnect()
    settle(track, 100)
    for offset in (1, 2):
        track.accept(pub(offset, "f"))

    assert track.give_up() == [lost(0, "f"), pub(1, "f"), pub(2, "f")]
    assert track.accept(pub(3, "f"))


def test_a_window_does_not_outlive_a_jump() -> None:
    """The server's replication id also changes when its first replica attaches, and no connection is lost."""
    track = settled(5)
    track.window = Window(5, max_length=10, now_s=0.0)
    track.accept(pub(106))
    track.doubt()

    found = track.settle(track.request(0), History(Position(106, "e"), 0, [], (Jump(5, 105),)))

    assert found == [pub(106)]
    assert track.window is None


def test_a_track_whose_position_is_unknown_stays_unresolved_when_it_is_given_up() -> None:
    track = settled(5)
    track.disconnect()
    track.accept(raw("a"))

    assert track.give_up() == []
    assert not track.is_resolved
    track.accept(pub(9))
    assert track.give_up() == [lost(8), pub(9)]
    assert track.is_resolved


def test_a_track_without_subscribers_yet_begins_with_the_newest_when_it_is_given_up() -> None:
    track = new_track()
    track.accept(raw("a"))
    assert track.give_up() == []
    assert not track.is_resolved

    track.accept(pub(7))
    assert track.give_up() == []
    assert track.position == Position(7, "e")
    assert track.accept(pub(8))
