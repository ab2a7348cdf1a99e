"""Live publications of one channel that wait for missing ones, in the order in which Redis published them. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from roomcast.model.positions import Position
from roomcast.model.publications import Publication

# What a waiting publication needs besides its payload.
OVERHEAD_BYTES = 256
_MAX_ENDS = 8


@dataclass(slots=True)
class WaitingTotal:
    """All publications that wait on a node.

    unplaced_count: messages without a position that were dropped, because their place could not be known.
    """

    max_bytes: int
    used_bytes: int = 0
    unplaced_count: int = 0

    def is_exceeded(self) -> bool:
        """Return whether more wait than may."""
        return self.used_bytes > self.max_bytes


class Held(NamedTuple):
    """A publication that waits. place: the offset after which it comes, in this epoch; number: of its arrival."""

    place: int
    epoch: str
    publication: Publication
    number: int


class Waiting:
    """The publications of one channel that wait.

    A message without a position (PUBLISH, skip_history) waits at its place: after the live publication before it, or
    else before the next one. While neither is known it is *unplaced*.

    live: the newest position that has come live on this connection to Redis. arrival_count: of everything that waited.
    """

    __slots__ = ("_ends", "_held", "_total", "_unplaced", "arrival_count", "live", "newest")

    def __init__(self, total: WaitingTotal) -> None:
        self._total = total
        self._held: deque[Held] = deque()
        self._ends: deque[Position] = deque(maxlen=_MAX_ENDS)  # the last position before each gap
        self._unplaced: list[Publication] = []
        self.live: Position | None = None
        self.newest: Position | None = None  # of those that wait
        self.arrival_count = 0

    def __bool__(self) -> bool:
        return bool(self._held or self._unplaced)

    @property
    def first(self) -> Held | None:
        """Return the first one whose place is known."""
        return self._held[0] if self._held else None

    @property
    def seen(self) -> tuple[Position, ...]:
        """Return the positions that prove a loss if Redis has them no more: the last of each run without a gap."""
        return (*self._ends, self.newest) if self.newest is not None else ()

    def add(self, publication: Publication, newest: Position | None) -> None:
        """Add a live publication, unless it is not newer than the newest one and so a duplicate."""
        self.arrival_count += 1
        if publication.position is None:
            self._total.used_bytes += size_of(publication)
            if self.live is None:
                self._unplaced.append(publication)
            else:
                self._held.append(Held(self.live.offset, self.live.epoch, publication, self.arrival_count))
            return
        offset, epoch = publication.position
        is_duplicate = newest is not None and newest.epoch == epoch and offset <= newest.offset
        place = newest.offset if newest is not None and is_duplicate else offset - 1
        for message in self._unplaced:
            self._held.append(Held(place, epoch, message, self.arrival_count))
        self._unplaced.clear()
        if is_duplicate:
            self.live = newest
            return
        if self.newest is not None and (place, epoch) != self.newest:
            self._ends.append(self.newest)
        self._total.used_bytes += size_of(publication)
        self._held.append(Held(place, epoch, publication, self.arrival_count))
        self.live = self.newest = publication.position

    def pop(self) -> Held:
        """Remove and return the first one."""
        held = self._held.popleft()
        self._total.used_bytes -= size_of(held.publication)
        if self._ends and self._ends[0] == held.publication.position:
            self._ends.popleft()
        if not self._held:
            self.newest = None
            self._ends.clear()
        return held

    def drop(self) -> Publication:
        """Remove and return the first one; it is counted if it has no position, and so cannot be read again."""
        publication = self.pop().publication
        self._total.unplaced_count += publication.position is None
        return publication

    def pop_unplaced(self) -> list[Publication]:
        """Remove and return the unplaced messages."""
        taken, self._unplaced = self._unplaced, []
        self._total.used_bytes -= sum(map(size_of, taken))
        return taken

    def drop_unplaced(self) -> None:
        """Remove the unplaced messages, and count them."""
        self._total.unplaced_count += len(self.pop_unplaced())

    def clear(self) -> None:
        """Remove everything."""
        while self._held:
            self.pop()
        self.pop_unplaced()


def size_of(publication: Publication) -> int:
    """Return the bytes that a publication needs."""
    return len(publication.data) + OVERHEAD_BYTES
