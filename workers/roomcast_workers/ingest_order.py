"""Which entries of the ingest stream are next, while some channels wait for Redis. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

_START = b"0-0"
# Channels that Redis is known to forbid; beyond them it is found out again.
_MAX_FORBIDDEN = 10_000
# An entry that was accepted this long before another one was forbidden says that the user may publish at all.
_EVIDENCE_S = 0.5


class _Waiting(NamedTuple):
    """A channel whose oldest entry was refused. Later ones stay in the stream, and are read again after that one."""

    entry_id: bytes
    retry_at_s: float


class IngestOrder:
    """Publishes each channel's entries in their order, while entries of other channels overtake those that wait.

    cursor: the worker reads the entries after this id. It moves back when a channel or a shard continues.
    """

    def __init__(self) -> None:
        self.cursor = _START
        self._waiting: dict[str, _Waiting] = {}
        self._in_flight: dict[str, frozenset[str]] = {}  # shard -> channels of the batch that it is publishing
        self._skipped_from: dict[str, bytes] = {}  # shard -> the first entry that was skipped meanwhile
        self._accepted_at_s = float("-inf")
        self._forbidden_since_s: dict[str, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Return whether any channel waits."""
        return bool(self._waiting)

    def start_over(self) -> None:
        """Read from the beginning: another worker has had the lease."""
        self.cursor = _START
        self._waiting.clear()

    def is_busy(self, shard: str) -> bool:
        """Return whether a shard is publishing a batch."""
        return shard in self._in_flight

    def may_start(self, entry_id: bytes, channel: str, shard: str) -> bool:
        """Return whether an entry may be published now; if not, it will be read again."""
        if channel in self._waiting:
            return False
        for busy, channels in self._in_flight.items():
            # By its channel too: the channel's slot may have moved meanwhile.
            if busy == shard or channel in channels:
                self._skipped_from.setdefault(busy, entry_id)
                return False
        return True

    def started(self, shard: str, channels: Iterable[str]) -> None:
        """Note that a shard is publishing entries of channels."""
        self._in_flight[shard] = frozenset(channels)

    def ended(self, shard: str) -> None:
        """Note that a shard can publish again."""
        del self._in_flight[shard]
        if (skipped_from := self._skipped_from.pop(shard, None)) is not None:
            self.read_again(skipped_from)

    def read_again(self, entry_id: bytes) -> None:
        """Read an entry, and those after it, again."""
        self._move_back(_before(entry_id))

    def due(self, now_s: float, shard_of: Callable[[str], str], *, limit: int) -> dict[bytes, str]:
        """Return the oldest entries, with their channels, that are to be retried now; none of busy shards."""
        found: dict[bytes, str] = {}
        for channel, waiting in self._waiting.items():  # in the order of their times
            if len(found) == limit or waiting.retry_at_s > now_s:
                break
            if shard_of(channel) not in self._in_flight:
                found[waiting.entry_id] = channel
        return found

    def wait(self, channel: str, entry_id: bytes, *, retry_at_s: float) -> None:
        """Let a channel wait, because an entry was refused. The times of the calls rise."""
        self._waiting.pop(channel, None)
        self._waiting[channel] = _Waiting(entry_id, retry_at_s)

    def proceed(self, channel: str) -> None:
        """Continue with a channel, behind the entry that it has waited for."""
        if (waiting := self._waiting.pop(channel, None)) is not None:
            self._move_back(waiting.entry_id)

    def accepted(self, channels: Iterable[str], now_s: float) -> None:
        """Note that Redis has accepted entries of channels."""
        for channel in channels:
            self._accepted_at_s = now_s
            self._forbidden_since_s.pop(channel, None)

    def is_forbidden_for_good(self, channel: str, now_s: float) -> bool:
        """Return whether Redis forbids this channel and not all of them: an operator may correct the user's rights."""
        if len(self._forbidden_since_s) >= _MAX_FORBIDDEN:
            self._forbidden_since_s.clear()
        return self._accepted_at_s >= self._forbidden_since_s.setdefault(channel, now_s) - _EVIDENCE_S

    def _move_back(self, entry_id: bytes) -> None:
        if _place(entry_id) < _place(self.cursor):
            self.cursor = entry_id


def _place(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


def _before(entry_id: bytes) -> bytes:
    """Return the id before one."""
    milliseconds, number = _place(entry_id)
    return b"%d-%d" % ((milliseconds, number - 1) if number else (milliseconds - 1, 2**64 - 1))
