"""Slow clients: the bounded backlog of a congested client, in channels that may drop publications.

In other channels `Connection.send` closes a client with more than `max_unsent_bytes` unsent (3008). Publications that a
client missed while it was away may be more than that: it receives them in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class _Waiting(NamedTuple):
    channel: str
    frame: bytes
    is_conflated: bool  # the next one of its channel replaces it


class Backlog:
    """Encoded publications in the order of their arrival; beyond the bound the oldest are dropped."""

    __slots__ = ("_bytes", "_max_bytes", "_missed_count", "_waiting")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._missed_count = 0

    def add(self, channel: str, frames: Sequence[bytes], *, only_latest: bool) -> int:
        """Add frames of one channel, or only the last of them; return how many were dropped for it.

        Dropped publications of a channel with `only_latest` are conflated: the client does not count them as missed.
        """
        dropped_count = 0
        if only_latest and frames:
            dropped_count += len(frames) - 1
            frames = frames[-1:]
            for waiting in [each for each in self._waiting if each.is_conflated and each.channel == channel]:
                self._waiting.remove(waiting)
                self._bytes -= len(waiting.frame)
                dropped_count += 1
        for frame in frames:
            self._waiting.append(_Waiting(channel, frame, only_latest))
            self._bytes += len(frame)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._waiting.popleft().frame)
            self._missed_count += 1
            dropped_count += 1
        return dropped_count

    def drain(self) -> tuple[int, list[bytes]]:
        """Return how many publications the client has missed, and the frames."""
        return self._missed_count, [waiting.frame for waiting in self._waiting]


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
