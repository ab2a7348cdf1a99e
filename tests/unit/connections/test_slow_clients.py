from __future__ import annotations

from roomcast.connections.slow_clients import Backlog


def test_what_waits_comes_back_in_order() -> None:
    backlog = Backlog(max_bytes=100)

    assert backlog.add("a", [b"1", b"2"], only_latest=False) == 0
    assert backlog.add("b", [b"3"], only_latest=False) == 0

    assert backlog.drain() == (0, [b"1", b"2", b"3"])


def test_past_the_bound_the_oldest_are_dropped_and_told() -> None:
    backlog = Backlog(max_bytes=5)

    dropped_count = sum(backlog.add("a", [b"%d%d" % (number, number)], only_latest=False) for number in range(4))

    assert dropped_count == 2
    assert backlog.drain() == (2, [b"22", b"33"])


def test_of_a_channel_that_keeps_the_latest_one_waits_and_the_others_are_not_missed() -> None:
    backlog = Backlog(max_bytes=100)

    backlog.add("figures", [b"1", b"2"], only_latest=True)
    backlog.add("chat", [b"hi"], only_latest=False)
    dropped_count = backlog.add("figures", [b"3", b"4", b"5"], only_latest=True)

    assert dropped_count == 3
    assert backlog.drain() == (0, [b"hi", b"5"])


def test_a_frame_over_the_bound_is_dropped_itself() -> None:
    backlog = Backlog(max_bytes=5)

    assert backlog.add("a", [b"x" * 6], only_latest=False) == 1

    assert backlog.drain() == (1, [])


def test_what_is_not_conflated_stays_in_a_channel_that_keeps_the_latest() -> None:
    backlog = Backlog(max_bytes=100)

    backlog.add("game", [b"1"], only_latest=True)
    backlog.add("game", [b"join"], only_latest=False)
    assert backlog.add("game", [], only_latest=True) == 0
    assert backlog.add("game", [b"2"], only_latest=True) == 1

    assert backlog.drain() == (0, [b"join", b"2"])
