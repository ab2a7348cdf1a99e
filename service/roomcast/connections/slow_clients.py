"""Slow clients: the bounded backlog of a congested client, in channels that may drop publications.

In other channels `Connection.send` closes a client with more than `max_unsent_bytes` unsent (3008). Publications that a
client missed while it was away may be more than that: it receives them in pieces.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

# The number of the one publication that waits in a channel whose newest one replaces it.
_CONFLATED = 0


class Backlog:
    """Encoded publications in the order of their arrival; beyond the bound the oldest are dropped, but none of maps.

    The changes of a map are conflated by key: the last one of each waits. None of them may be dropped, because a map's
    client would keep the old value of that key and not know it. There is no order between channels, so maps wait apart.
    """

    __slots__ = ("_bytes", "_maps", "_max_bytes", "_missed_count", "_numbers", "_waiting")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: OrderedDict[tuple[str, int], bytes] = OrderedDict()  # by channel and number
        self._numbers = itertools.count(_CONFLATED + 1)
        self._maps: dict[str, dict[str, bytes]] = {}  # by channel and key, in the order of the last changes
        self._bytes = 0
        self._missed_count = 0

    @property
    def is_over(self) -> bool:
        """Return whether more waits than the bound allows, and nothing of it may be dropped."""
        return self._bytes > self._max_bytes

    def add(self, channel: str, frames: Sequence[bytes], *, only_latest: bool) -> int:
        """Add frames of one channel, or only the last of them; return how many were dropped for it.

        Dropped publications of a channel with `only_latest` are conflated: the client does not count them as missed.
        """
        dropped_count = 0
        if only_latest and frames:
            dropped_count += len(frames) - 1
            frames = frames[-1:]
            waiting = self._waiting.pop((channel, _CONFLATED), None)
            if waiting is not None:
                self._bytes -= len(waiting)
                dropped_count += 1
        for frame in frames:
            self._waiting[channel, _CONFLATED if only_latest else next(self._numbers)] = frame
            self._bytes += len(frame)
        return dropped_count + self._drop_oldest()

    def add_changes(self, channel: str, frames: Sequence[bytes], keys: Sequence[str]) -> int:
        """Add changes of a map, one of each frame's key; return how many were conflated, and dropped for them."""
        changes = self._maps.setdefault(channel, {})
        dropped_count = 0
        for key, frame in zip(keys, frames, strict=True):
            waiting = changes.pop(key, None)  # not only replaced: the last change of all is the last one here too
            if waiting is not None:
                self._bytes -= len(waiting)
                dropped_count += 1
            changes[key] = frame
            self._bytes += len(frame)
        return dropped_count + self._drop_oldest()

    def forget(self, channel: str) -> None:
        """Forget the frames of a channel."""
        for key in [key for key in self._waiting if key[0] == channel]:
            self._bytes -= len(self._waiting.pop(key))
        self._bytes -= sum(map(len, self._maps.pop(channel, {}).values()))

    def drain(self) -> tuple[int, list[bytes]]:
        """Return how many publications the client has missed, and the frames."""
        changes = (frame for frames in self._maps.values() for frame in frames.values())
        return self._missed_count, [*self._waiting.values(), *changes]

    def _drop_oldest(self) -> int:
        """Drop frames until the rest is within the bound, or only changes of maps are left; return their number."""
        dropped_count = 0
        while self._bytes > self._max_bytes and self._waiting:
            self._bytes -= len(self._waiting.popitem(last=False)[1])
            dropped_count += 1
        self._missed_count += dropped_count
        return dropped_count


class Held:
    """Frames for a client that is not open yet, or that has not read all of the publications that it missed.

    sent_bytes: of the frames that are encoded. Missed publications are encoded when their piece is written: until then
        they cost no memory, because all clients share the channel's window.
    """

    __slots__ = ("_parts", "sent_bytes")

    def __init__(self) -> None:
        self._parts: deque[bytes | Iterator[bytes]] = deque()
        self.sent_bytes = 0

    def add(self, frames: bytes) -> None:
        """Add encoded frames behind everything else."""
        self._parts.append(frames)
        self.sent_bytes += len(frames)

    def add_missed(self, frames: Iterator[bytes]) -> None:
        """Add frames that are encoded when they are written."""
        self._parts.append(frames)

    def next_piece(self, size_bytes: int) -> bytes:
        """Return the next whole frames: at least one, and no more than it takes to reach a size; nothing at the end."""
        piece = bytearray()
        while self._parts and len(piece) < size_bytes:
            part = self._parts[0]
            frames = part if isinstance(part, bytes) else next(part, None)
            if frames is not None:
                piece += frames
            if frames is None or frames is part:
                self._parts.popleft()
            if frames is part:
                self.sent_bytes -= len(frames)
        return bytes(piece)
