from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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


def test_of_a_map_the_last_change_of_each_key_waits_in_the_order_of_the_last_changes() -> None:
    backlog = Backlog(max_bytes=100)

    assert backlog.add_changes("cursors", [b"a1", b"b1", b"a2"], ["a", "b", "a"]) == 1
    assert backlog.add_changes("cursors", [b"c1", b"b2"], ["c", "b"]) == 1
    assert backlog.add_changes("scores", [b"x"], ["a"]) == 0

    assert backlog.drain() == (0, [b"a2", b"c1", b"b2", b"x"])


def test_publications_are_dropped_for_changes_of_maps_and_never_the_other_way_round() -> None:
    backlog = Backlog(max_bytes=6)

    assert backlog.add("draw", [b"12", b"34"], only_latest=False) == 0
    assert backlog.add_changes("cursors", [b"ab", b"cd"], ["a", "c"]) == 1
    assert backlog.add("draw", [b"5678"], only_latest=False) == 2
    assert not backlog.is_over

    assert backlog.drain() == (3, [b"ab", b"cd"])


def test_changes_of_maps_beyond_the_bound_are_over_it() -> None:
    backlog = Backlog(max_bytes=6)

    backlog.add_changes("cursors", [b"aaa", b"bbb", b"AAA"], ["a", "b", "a"])
    assert not backlog.is_over
    backlog.add_changes("cursors", [b"c"], ["c"])
    assert backlog.is_over


def test_a_channel_is_forgotten_with_its_bytes() -> None:
    backlog = Backlog(max_bytes=6)
    backlog.add("draw", [b"1"], only_latest=False)
    backlog.add("figures", [b"2"], only_latest=True)
    backlog.add_changes("cursors", [b"aaa"], ["a"])

    for channel in ("figures", "cursors", "unknown"):
        backlog.forget(channel)

    assert backlog.add("draw", [b"23456"], only_latest=False) == 0
    assert backlog.drain() == (0, [b"1", b"23456"])


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["m", "n"]), st.sampled_from("abcd"), st.integers(0, 99999)), max_size=4),
        max_size=12,
    ),
    st.integers(10, 60),
)
def test_a_client_receives_the_last_change_of_each_key_or_is_over_its_bound(
    flushes: list[list[tuple[str, str, int]]], max_bytes: int
) -> None:
    backlog = Backlog(max_bytes=max_bytes)
    expected: dict[tuple[str, str], bytes] = {}
    dropped_count = 0
    for flush in flushes:
        for channel in ("m", "n"):
            changes = [(key, f"{channel}{key}{value};".encode()) for of, key, value in flush if of == channel]
            for key, frame in changes:
                expected.pop((channel, key), None)
                expected[channel, key] = frame
            keys, frames = [key for key, _ in changes], [frame for _, frame in changes]
            dropped_count += backlog.add_changes(channel, frames, keys)
        assert backlog.is_over == (sum(map(len, expected.values())) > max_bytes)

    missed_count, frames = backlog.drain()
    for channel in "mn":
        of_channel = [frame for frame in frames if frame.startswith(channel.encode())]
        assert of_channel == [frame for (of, _), frame in expected.items() if of == channel]
    assert missed_count == 0
    assert dropped_count + len(frames) == sum(map(len, flushes))
