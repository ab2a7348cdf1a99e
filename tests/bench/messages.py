"""The messages that are published: JSON of a fixed size with the number and the time at fixed places.

The number is first and has a fixed width, and no other bytes look like the beginning of a message. So a subscriber
finds messages, loss, duplicates and disorder by searching bytes, in the frames of every protocol.
"""

from __future__ import annotations

MARK = b'{"seq":"'
_NUMBER_DIGITS = 12
_BEFORE_TIME = b'","at":"'
_TIME_DIGITS = 20
_BEFORE_PAD = b'","pad":"'
_END = b'"}'

# From the beginning of a message.
NUMBER = slice(len(MARK), len(MARK) + _NUMBER_DIGITS)
_TIME_START = NUMBER.stop + len(_BEFORE_TIME)
TIME = slice(_TIME_START, _TIME_START + _TIME_DIGITS)

MIN_BYTES = TIME.stop + len(_BEFORE_PAD) + len(_END)


def message(number: int, published_ns: int, *, size_bytes: int) -> bytes:
    """Return message `number`, published at `published_ns` of the monotonic clock, `size_bytes` (>= MIN_BYTES) long."""
    head = b"%b%012d%b%020d%b" % (MARK, number, _BEFORE_TIME, published_ns, _BEFORE_PAD)
    return head + b"x" * (size_bytes - len(head) - len(_END)) + _END
