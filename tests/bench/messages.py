"""The messages that are published: JSON of a fixed size with the number and the time at fixed places.

The number comes first and has a fixed width, so that the order of two messages is the order of their bytes: a
subscriber finds loss, repetition and disorder with one comparison, without parsing.
"""

from __future__ import annotations

_BEFORE_NUMBER = '{"seq":"'
_NUMBER_DIGITS = 12
_BEFORE_TIME = '","at":"'
_TIME_DIGITS = 20
_BEFORE_PAD = '","pad":"'
_END = '"}'

_TIME_START = len(_BEFORE_NUMBER) + _NUMBER_DIGITS + len(_BEFORE_TIME)
_TIME_STOP = _TIME_START + _TIME_DIGITS

MIN_BYTES = _TIME_STOP + len(_BEFORE_PAD) + len(_END)


def message(number: int, published_ns: int, *, size_bytes: int) -> str:
    """Return message `number`, published at `published_ns` of the monotonic clock, `size_bytes` (>= MIN_BYTES) long."""
    head = f"{_BEFORE_NUMBER}{number:0{_NUMBER_DIGITS}}{_BEFORE_TIME}{published_ns:0{_TIME_DIGITS}}{_BEFORE_PAD}"
    return head + "x" * (size_bytes - len(head) - len(_END)) + _END


def published_ns(message: bytes) -> int:
    """Return when a message was published, in ns of the monotonic clock, which all processes share."""
    return int(message[_TIME_START:_TIME_STOP])
