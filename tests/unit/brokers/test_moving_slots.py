"""Commands that wait while their slot moves."""

from __future__ import annotations

from roomcast.brokers.moving_slots import MovingSlots, Waiting


def waiting(key: str, number: int, *, size_bytes: int = 1) -> Waiting:
    return Waiting(("EVALSHA", "sha", 1, key, number), size_bytes, lambda _: None)


def test_commands_of_a_slot_wait_behind_its_first_one_and_no_other_does() -> None:
    slots = MovingSlots(max_bytes=100)
    first, second, other = waiting("{a}:meta", 1), waiting("{a}:meta", 2), waiting("{b}:meta", 3)
    assert not slots.follows(first)
    assert slots.put(first, 0.0)
    assert slots.follows(second)
    assert slots.put(second, 0.0)
    assert not slots.follows(other)

    assert slots.due(0.01) == []
    assert slots.due(0.2) == [first]
    assert (slots.is_first(first), slots.is_first(second), slots.is_first(other)) == (True, False, False)
    assert slots.end(first) == [second]
    assert not slots
    assert slots.size_bytes == 0


def test_what_waits_is_bounded_in_bytes_and_time() -> None:
    slots = MovingSlots(max_bytes=3)
    first = waiting("{a}:meta", 1, size_bytes=2)
    assert slots.put(first, 0.0)
    assert not slots.put(waiting("{b}:meta", 2, size_bytes=2), 0.0)

    assert not slots.is_stuck(first, 30.0)
    assert slots.is_stuck(first, 31.0)
    assert slots.clear() == [first]
