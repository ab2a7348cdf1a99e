from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.model.errors import ClientError
from roomcast.model.positions import Position, position_of
from roomcast.model.publications import History, Jump, Publication, Resumption
from roomcast.node.recovery import Track, Window, catch_up_cache, catch_up_stream


def pub(offset: int, epoch: str = "e") -> Publication:
    return Publication("room:a", b"%d" % offset, position=Position(offset, epoch))


def pubs(*offsets: int, epoch: str = "e") -> list[Publication]:
    return [pub(offset, epoch) for offset in offsets]


def history(top: int, *offsets: int, epoch: str = "e", base: int = 0) -> History:
    return History(Position(top, epoch), base, pubs(*offsets, epoch=epoch))


def lost(offset: int, epoch: str = "e") -> Resumption:
    return Resumption("room:a", Position(offset, epoch), is_recovered=False)


def settled(top: int) -> Track:
    """Return a track that is at this offset."""
    track = Track("room:a")
    assert track.resolve(history(top)) == []
    return track


def test_a_track_begins_where_redis_is_or_with_what_came_since_the_subscription() -> None:
    assert settled(5).position == Position(5, "e")

    track = Track("room:a")
    assert not track.accept(pub(4))
    assert not track.accept(pub(5))
    assert track.resolve(history(4)) == pubs(4, 5)
    assert track.is_resolved
    assert track.accept(pub(6))


def test_the_next_one_is_broadcast_and_a_double_is_not() -> None:
    track = settled(5)

    assert track.accept(pub(6))
    assert not track.accept(pub(6))
    assert not track.accept(pub(3))
    assert track.is_resolved
    assert track.accept(pub(7))


def test_a_gap_is_filled_from_what_is_kept_and_what_came_meanwhile() -> None:
    track = settled(5)

    assert not track.accept(pub(8))
    assert not track.accept(pub(9))
    assert track.resolve(history(8, 6, 7, 8)) == pubs(6, 7, 8, 9)
    assert track.is_resolved
    assert track.accept(pub(10))


def test_what_came_later_than_what_was_read_but_leaves_a_hole_is_read_again() -> None:
    track = settled(5)

    track.accept(pub(9))
    assert track.resolve(history(7, 6, 7)) == pubs(6, 7)
    assert not track.is_resolved
    assert track.seen == (Position(7, "e"), Position(9, "e"))
    assert track.resolve(history(9, 8, 9)) == pubs(8, 9)
    assert track.is_resolved


def test_what_is_not_kept_any_more_is_said() -> None:
    track = settled(5)
    track.doubt()
    assert track.resolve(history(20, 18, 19, 20)) == [lost(17), *pubs(18, 19, 20)]

    track.doubt()
    assert track.resolve(history(25)) == [lost(25)]
    assert track.position == Position(25, "e")


def test_an_entry_that_is_missing_in_the_middle_is_said_too() -> None:
    track = settled(5)
    track.doubt()

    assert track.resolve(history(9, 6, 7, 9)) == [*pubs(6, 7), lost(8), pub(9)]


def test_a_new_epoch_is_said_and_everything_of_it_is_given() -> None:
    track = settled(100)

    assert not track.accept(pub(98, "f"))
    assert track.resolve(history(98, 98, epoch="f", base=97)) == [lost(97, "f"), pub(98, "f")]
    assert track.accept(pub(99, "f"))


def test_after_a_promotion_that_lost_nothing_nothing_is_left_out() -> None:
    track = settled(100)
    track.doubt()

    found = track.resolve(history(103, 101, 102, 103, epoch="f", base=102))
    assert found == [lost(100, "f"), *pubs(101, 102, 103, epoch="f")]


def test_publications_of_a_lost_tail_that_wait_are_forgotten() -> None:
    track = settled(100)
    track.doubt()
    track.accept(pub(101))

    assert track.resolve(history(97, epoch="f", base=97)) == [lost(97, "f")]
    assert track.is_resolved


@given(st.lists(st.sampled_from(["live", "drop", "again", "read"]), max_size=60), st.integers(1, 5))
def test_whatever_is_lost_on_the_way_every_publication_comes_once_in_order_or_is_said_to_be_lost(
    steps: list[str], size: int
) -> None:
    track, top, announced = settled(0), 0, 0
    got: list[int] = []

    def read() -> None:
        nonlocal announced
        assert track.position is not None
        kept = range(max(1, top - size + 1, track.position.offset + 1), top + 1)
        for event in track.resolve(history(top, *kept)):
            if isinstance(event, Resumption):
                assert event.position is not None
                assert not event.is_recovered
                announced += event.position.offset - (got[-1] if got else 0)
                got.append(event.position.offset)
            else:
                assert event.position is not None
                got.append(event.position.offset)

    for step in steps:
        if step in {"live", "drop"}:
            top += 1
        if step in {"live", "again"} and top and track.accept(pub(top)):
            got.append(top)
        if step == "read" or not track.is_resolved:
            read()
    track.doubt()
    read()

    assert got == sorted(set(got))
    assert (got[-1] if got else 0) == top
    missing = set(range(1, top + 1)) - set(got)
    assert len(missing) <= announced


def test_a_jump_of_the_offsets_is_no_gap() -> None:
    track = settled(5)
    jumps = (Jump(7, 1000), Jump(1001, 3000))

    assert not track.accept(pub(3001))
    found = History(Position(3001, "e"), 0, pubs(6, 7, 1001, 3001), jumps)
    assert track.resolve(found) == pubs(6, 7, 1001, 3001)
    assert track.is_resolved
    assert track.accept(pub(3002))


def test_a_position_in_a_jump_is_of_lost_data() -> None:
    track = settled(9)
    track.doubt()

    assert track.resolve(History(Position(1001, "e"), 0, pubs(1001), (Jump(7, 1000),))) == [lost(1000), pub(1001)]


def test_a_start_without_publications_moves_a_track_and_nothing_is_reported() -> None:
    track = settled(7)
    track.doubt()

    assert track.resolve(History(Position(1000, "e"), 0, [], (Jump(7, 1000),))) == []
    assert track.position == Position(1000, "e")


def test_live_publications_of_lost_and_of_present_data_both_prove_what_was_there() -> None:
    track = settled(5)

    for offset in (7, 8, 1001, 1002):
        track.accept(pub(offset))
    assert track.seen == (Position(5, "e"), Position(8, "e"), Position(1002, "e"))


def test_masters_that_answer_in_turn_are_continued_where_each_was_left() -> None:
    track = settled(8)
    track.doubt()
    assert track.resolve(History(Position(7, "f"), 6, pubs(7, epoch="f"), (), ("e",))) == [lost(6, "f"), pub(7, "f")]

    track.doubt()  # the former master has 9 meanwhile, and ends its epoch: it does not know of f
    found = History(Position(9, "g"), 9, pubs(7, 8, 9, epoch="g"), (), ("e",))
    assert track.resolve(found) == [lost(8, "g"), pub(9, "g")]

    track.doubt()
    found = History(Position(8, "h"), 8, pubs(7, 8, epoch="h"), (), ("e", "f"))
    assert track.resolve(found) == [lost(7, "h"), pub(8, "h")]


def test_an_epoch_that_returns_with_less_is_asked_for_again() -> None:
    track = settled(8)
    track.doubt()
    track.resolve(history(0, epoch="f"))

    track.doubt()
    assert track.resolve(history(6, 5, 6)) == [lost(8)]
    assert not track.is_resolved
    assert track.seen == (Position(8, "e"),)


def window(floor: int, *offsets: int, max_length: int = 100) -> Window:
    found = Window(floor, max_length=max_length, now_s=0.0)
    for offset in offsets:
        found.append(pub(offset))
    return found


def test_a_window_gives_what_came_after_an_offset_or_nothing_if_it_does_not_reach_back() -> None:
    found = window(5, 6, 7)
    found.extend_back(history(7, 3, 5, 4, 6))

    assert found.after(2) == pubs(3, 4, 5, 6, 7)
    assert found.after(7) == []
    assert found.after(1) is None


def test_a_window_has_no_hole_and_a_bound() -> None:
    found = window(5, 6)
    found.extend_back(history(5, 2, 3, 5))
    assert found.floor == 4

    found = window(0, 1, 2, 3, max_length=2)
    assert found.after(0) is None
    assert found.after(1) == pubs(2, 3)


def test_a_window_reaches_back_over_jumps_but_not_for_a_position_in_one() -> None:
    found = Window(1002, max_length=10, now_s=0.0)
    found.extend_back(History(Position(1002, "e"), 0, pubs(4, 5, 1001, 1002), (Jump(5, 1000),)))

    assert found.after(4) == pubs(5, 1001, 1002)
    assert found.after(5) == found.after(1000) == pubs(1001, 1002)
    assert found.after(6) is None
    assert found.after(999) is None
    found.append(pub(1003))
    assert found.after(1002) == pubs(1003)


def test_where_only_the_newest_counts_it_is_sent_after_a_jump_too() -> None:
    top = Position(1000, "e")
    kept = Window(1000, max_length=10, now_s=0.0)
    kept.extend_back(History(top, 0, pubs(4, 5), (Jump(5, 1000),)))

    for since in (None, Position(4, "e"), Position(6, "e"), Position(1000, "x")):
        expected = [Resumption("room:a", Position(4, "e"), is_recovered=None if since is None else True), pub(5)]
        assert catch_up_cache("room:a", since, top, kept) == expected
    for since in (Position(5, "e"), top):
        assert catch_up_cache("room:a", since, top, kept) == [Resumption("room:a", top, is_recovered=True)]


TOP = Position(7, "e")


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, [Resumption("room:a", TOP, is_recovered=None)]),
        (Position(5, "e"), [Resumption("room:a", Position(5, "e"), is_recovered=True), *pubs(6, 7)]),
        (TOP, [Resumption("room:a", TOP, is_recovered=True)]),
        (Position(3, "e"), [lost(7)]),  # older than the history
        (Position(8, "e"), [lost(7)]),  # from the future
        (Position(5, "f"), [lost(7)]),
    ],
)
def test_a_client_that_comes_back_gets_what_it_missed_or_is_told_that_it_cannot(
    since: Position | None, expected: list[Publication | Resumption]
) -> None:
    # 8 has been broadcast, but waits for the next flush: it will be written to the newcomer too.
    assert catch_up_stream("room:a", since, TOP, window(4, 5, 6, 7, 8)) == expected


def test_where_only_the_newest_counts_nothing_is_recovered_from_an_empty_history() -> None:
    for offset in (0, 7):  # never published to; expired or removed
        top, empty = Position(offset, "e"), Window(offset, max_length=10, now_s=0.0)

        assert catch_up_cache("room:a", None, top, empty) == [Resumption("room:a", top, is_recovered=None)]
        for since in (top, Position(0, "e"), Position(offset, "x")):
            assert catch_up_cache("room:a", since, top, empty) == [Resumption("room:a", top, is_recovered=False)]
        assert catch_up_stream("room:a", top, top, empty) == [Resumption("room:a", top, is_recovered=True)]


def test_where_only_the_newest_counts_a_client_at_the_top_recovers_while_a_newer_one_waits() -> None:
    kept = Window(7, max_length=1, now_s=0.0)
    kept.append(pub(8))

    assert catch_up_cache("room:a", TOP, TOP, kept) == [Resumption("room:a", TOP, is_recovered=True)]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, [Resumption("room:a", Position(6, "e"), is_recovered=None), pub(7)]),
        (Position(2, "f"), [Resumption("room:a", Position(6, "e"), is_recovered=True), pub(7)]),
        (TOP, [Resumption("room:a", TOP, is_recovered=True)]),
    ],
)
def test_where_only_the_newest_counts_everyone_gets_it(
    since: Position | None, expected: list[Publication | Resumption]
) -> None:
    assert catch_up_cache("room:a", since, TOP, window(6, 7)) == expected
    assert catch_up_cache("room:a", Position(1, "x"), TOP, window(7)) == [lost(7)]
    assert catch_up_cache("room:a", Position(1, "x"), TOP, None) == [lost(7)]


@pytest.mark.parametrize(
    ("offset", "epoch"),
    [
        *[(offset, "e") for offset in ("", "-1", "1.5", "²", "9" * 5000, "0" * 5000, str(2**53 - 1))],
        ("1", ""),
        ("1", "x" * 33),
    ]
    + [("1", epoch) for epoch in ("x" * 33, "a b", "é", "a\n")],
)
def test_a_position_that_is_none_is_refused(offset: str, epoch: str) -> None:
    with pytest.raises(ClientError) as caught:
        position_of(offset, epoch)
    assert caught.value.error.code == 107


def test_the_largest_position_is_one() -> None:
    assert position_of("9007199254740990", "5f0c2a91") == Position(2**53 - 2, "5f0c2a91")
