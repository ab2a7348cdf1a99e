"""Differences between two payloads in the Fossil delta format, which clients of the Centrifuge protocol can apply.

A delta is the size of the result, a newline, commands, and a checksum of the result with a `;`. `5@2,` copies 5 bytes
from place 2 of the payload before, `3:abc` inserts those 3 bytes. Numbers have 6 bits a digit, highest digit first.
Source: fossil-scm.org, "Fossil Delta Format"; the search for copies is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_BLOCK_BYTES = 16
# Blocks of the payload before are known at every 4th place, and looked for at every 5th of the other. As two numbers in
# sequence have no common divisor, each run of 16 + 4 * 5 - 1 bytes that both have is found, with half the look-ups.
_STEP = 4
# Limits of the work, 10 ms each: beyond 64 KiB the steps grow, and after so many copies the rest is inserted.
_MOST_LOOK_UPS = 16 * 1024
_MOST_COPIES = 2048
# A copy takes 4 to 7 bytes, and the command after it one or two of its own: below this, inserting is as short.
_SHORTEST_COPY_BYTES = 8


class _Copy(NamedTuple):
    """Bytes `start` to `end` of the payload are also in the one before it, from `source` on."""

    start: int
    end: int
    source: int


def create_delta(before: bytes, after: bytes, *, is_text: bool) -> bytes:
    """Return the delta that makes `after` of `before`; it may be longer than `after`.

    Args:
        is_text: both are UTF-8, and the delta is too: it cuts no character.
    """
    parts = [_number(len(after)), b"\n"]
    done = 0
    for found in _copies(before, after):
        start, end, source = _whole_characters(found, after) if is_text else found
        if end - start < _SHORTEST_COPY_BYTES:
            continue
        if start > done:
            parts += (_number(start - done), b":", after[done:start])
        parts += (_number(end - start), b"@", _number(source), b",")
        done = end
    if done < len(after):
        parts += (_number(len(after) - done), b":", after[done:])
    parts += (_number(_checksum(after)), b";")
    return b"".join(parts)


def _copies(before: bytes, after: bytes) -> Iterator[_Copy]:
    """Yield copies in the order of `after`: most changes leave the beginning and the end unchanged."""
    shorter = min(len(before), len(after))
    head = _longest(shorter, lambda low, high: before[low:high] == after[low:high])
    tail = _shared_before(before, len(before), after, len(after), shorter - head)
    yield _Copy(0, head, 0)
    yield from _blocks(before, after, head, len(after) - tail)
    yield _Copy(len(after) - tail, len(after), len(before) - tail)


def _blocks(before: bytes, after: bytes, start: int, stop: int) -> Iterator[_Copy]:
    """Yield copies of `after` from `start` to `stop`. None is searched again: hostile payloads cost little more."""
    if stop - start < _BLOCK_BYTES:
        return
    step = max(_STEP, len(before) // _MOST_LOOK_UPS, (stop - start) // _MOST_LOOK_UPS)
    # Backwards, so that a repeated block is known by its first place: the copy from there may be the longest.
    places = range(0, len(before) - _BLOCK_BYTES + 1, step)
    known = {before[at : at + _BLOCK_BYTES]: at for at in reversed(places)}
    at = done = start
    shift = copies = 0
    while at + _BLOCK_BYTES <= stop and copies < _MOST_COPIES:
        block = after[at : at + _BLOCK_BYTES]
        source = known.get(block)
        if source is None:
            at += step + 1
            continue
        # A repeated block mostly continues the copy before it: the rows of a table have the same keys.
        if before[at + shift : at + shift + _BLOCK_BYTES] == block:
            source = at + shift
        back = _shared_before(before, source, after, at, min(source, at - done))
        more = _shared_from(before, source, after, at, min(len(before) - source, stop - at))
        yield _Copy(at - back, at + more, source - back)
        shift = source - at
        copies += 1
        at = done = at + more


def _shared_from(before: bytes, source: int, after: bytes, at: int, limit: int) -> int:
    return _longest(limit, lambda low, high: before[source + low : source + high] == after[at + low : at + high])


def _shared_before(before: bytes, source: int, after: bytes, at: int, limit: int) -> int:
    return _longest(limit, lambda low, high: before[source - high : source - low] == after[at - high : at - low])


def _longest(limit: int, is_same: Callable[[int, int], bool]) -> int:
    """Return how far two runs of bytes are equal; compares only a few times as many bytes as are equal."""
    low, high = 0, 64
    while high < limit and is_same(low, high):
        low, high = high, 2 * high
    high = min(high, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if is_same(low, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _whole_characters(copy: _Copy, after: bytes) -> _Copy:
    start, end = copy.start, copy.end
    while start < end and after[start] & 0xC0 == 0x80:
        start += 1
    while start < end < len(after) and after[end] & 0xC0 == 0x80:
        end -= 1
    return _Copy(start, end, copy.source + start - copy.start)


def _number(value: int) -> bytes:
    digits = bytearray((_DIGITS[value & 63],))
    while value := value >> 6:
        digits.append(_DIGITS[value & 63])
    digits.reverse()
    return bytes(digits)


def _checksum(data: bytes) -> int:
    """Return the sum of the data's big-endian words of 32 bits, the last one filled with zeros."""
    columns = (sum(data[place::4]) << (24 - 8 * place) for place in range(4))
    return sum(columns) & 0xFFFFFFFF
