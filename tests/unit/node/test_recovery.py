from __future__ import annotations

import pytest

from roomcast.model.errors import ClientError
from roomcast.model.positions import Position, position_of
from roomcast.model.publications import History, Jump, Publication, Resumption
from roomcast.node.recovery import Window, catch_up_cache, catch_up_stream


def pub(offset: int, epoch: str = "e") -> Publication:
    return Publication("room:a", b"%d" % offset, position=Position(offset, epoch))


def pubs(*offsets: int, epoch: str = "e") -> list[Publication]:
    return [pub(offset, epoch) for offset in offsets]


def history(top: int, *offsets: int, epoch: str = "e", base: int = 0) -> History:
    return History(Position(top, epoch), base, pubs(*offsets, epoch=epoch))


def lost(offset: int, epoch: str = "e") -> Resumption:
    return Resumption("room:a", Position(offset, epoch), is_recovered=False)


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
