"""Where a node is in a channel's history: doubles, gaps, and what clients that come back have missed. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from roomcast.model.publications import Position, Publication, Resumption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roomcast.model.publications import History

# While a gap is being repaired so many live publications wait at most; what gives way is read from the stream again.
_MAX_WAITING = 1000


class Window:
    """The newest publications of a channel without a hole, up to where the node is; kept while clients come back.

    floor: the offset before the oldest one: whoever has that, or more, can be given all that it missed.
    """

    __slots__ = ("_max_length", "_publications", "floor", "used_at_s")

    def __init__(self, floor: int, *, max_length: int, now_s: float) -> None:
        self.floor = floor
        self.used_at_s = now_s
        self._max_length = max_length
        self._publications: deque[Publication] = deque()

    def append(self, publication: Publication) -> None:
        """Add the next one."""
        self._publications.append(publication)
        if len(self._publications) > self._max_length:
            self._publications.popleft()
            self.floor += 1

    def extend_back(self, publications: Iterable[Publication]) -> None:
        """Add older ones, given in their order: as many as reach the floor without a hole."""
        for publication in sorted(publications, key=_offset, reverse=True):
            if _offset(publication) == self.floor and len(self._publications) < self._max_length:
                self._publications.appendleft(publication)
                self.floor -= 1

    def after(self, offset: int) -> list[Publication] | None:
        """Return all that came after an offset, or None if they do not reach back so far."""
        if offset < self.floor:
            return None
        return [publication for publication in self._publications if _offset(publication) > offset]


def catch_up_stream(
    channel: str, since: Position | None, top: Position, window: Window | None
) -> list[Publication | Resumption]:
    """Return what a new subscriber is told first, so that it has all up to `top`, or knows that it has not.

    Args:
        since: what the client says that it has; None: it begins.
        top: what comes after this will be broadcast to it.
    """
    if since is None or window is None or since.epoch != top.epoch or since.offset > top.offset:
        return [Resumption(channel, top, is_recovered=False)]
    missed = window.after(since.offset)
    if missed is None:
        return [Resumption(channel, top, is_recovered=False)]
    return [
        Resumption(channel, since, is_recovered=True),
        *[publication for publication in missed if _offset(publication) <= top.offset],
    ]


def catch_up_cache(
    channel: str, since: Position | None, top: Position, window: Window | None
) -> list[Publication | Resumption]:
    """Return the newest publication up to `top`, unless the client has it; see `catch_up_stream`."""
    kept = (window.after(top.offset - 1) if window is not None else None) or []
    newest = [publication for publication in kept if _offset(publication) == top.offset]
    if since == top:
        return [Resumption(channel, top, is_recovered=True)]
    if not newest:
        return [Resumption(channel, top, is_recovered=False)]
    return [Resumption(channel, Position(top.offset - 1, top.epoch), is_recovered=True), *newest]


class Track:
    """How far a node is in one channel with history.

    It is *resolved* while every publication follows the one before. After a sign of loss what comes waits, until
    `resolve` is given what Redis keeps: the node repairs the gap, and its clients notice nothing.
    """

    __slots__ = ("_epoch", "_offset", "_waiting", "channel", "is_resolved", "window")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.is_resolved = False  # it does not know yet where it begins
        self.window: Window | None = None
        self._offset = -1
        self._epoch = ""
        self._waiting: deque[Publication] = deque(maxlen=_MAX_WAITING)

    @property
    def position(self) -> Position | None:
        """Return the newest position that was broadcast; None before the first `resolve`."""
        return Position(self._offset, self._epoch) if self._epoch else None

    @property
    def seen(self) -> Position | None:
        """Return the newest position that was heard of, broadcast or not."""
        return self._waiting[-1].position if self._waiting else self.position

    def accept(self, publication: Publication) -> bool:
        """Take a live publication with a position; return whether it is the next one, to be broadcast now.

        If not, it is a double, or it waits until the track is resolved.
        """
        assert publication.position is not None  # noqa: S101  (for the type checker)
        offset, epoch = publication.position
        if self.is_resolved and epoch == self._epoch:
            if offset == self._offset + 1:
                self._offset = offset
                if self.window is not None:
                    self.window.append(publication)
                return True
            if offset <= self._offset:
                return False
        self.is_resolved = False
        self._waiting.append(publication)
        return False

    def doubt(self) -> None:
        """Let what comes wait until the track is resolved again: publications may be missing."""
        self.is_resolved = False

    def resolve(self, history: History) -> list[Publication | Resumption]:
        """Go on from what Redis keeps after `position`; before the first call from its position alone.

        Returns: what is to be broadcast, in order; a Resumption in it stands where publications are lost. If
        `is_resolved` is still false after it, something is missing that came later: read again.
        """
        top, epoch = history.position
        live = {
            _offset(publication): publication
            for publication in self._waiting
            if publication.position is not None and publication.position.epoch == epoch
        }
        found: list[Publication | Resumption] = []
        if not self._epoch:
            # Whoever has subscribed meanwhile is owed what has come since, and nothing older.
            self._offset = min(live) - 1 if live else top
        else:
            if epoch != self._epoch:
                self.window = None
                # Where the numbers go on, what is kept beyond those broadcast is new; where they begin anew, all is.
                self._offset = min(history.base, self._offset)
                found.append(Resumption(self.channel, Position(self._offset, epoch), is_recovered=False))
            self._epoch = epoch
            kept = {_offset(publication): publication for publication in history.publications}
            for offset, publication in sorted({**live, **kept}.items()):
                if self._offset < offset <= top:
                    self._lose_until(offset - 1, found)
                    self._go_on(publication, found)
            self._lose_until(top, found)
        self._epoch = epoch
        for offset in sorted(live):
            if offset == self._offset + 1:
                self._go_on(live[offset], found)
        self._waiting.clear()
        self._waiting.extend(publication for offset, publication in sorted(live.items()) if offset > self._offset)
        self.is_resolved = not self._waiting
        return found

    def _go_on(self, publication: Publication, found: list[Publication | Resumption]) -> None:
        self._offset = _offset(publication)
        found.append(publication)
        if self.window is not None:
            self.window.append(publication)

    def _lose_until(self, offset: int, found: list[Publication | Resumption]) -> None:
        """Note that what is missing up to an offset is not kept any more."""
        if offset > self._offset:
            self._offset = offset
            self.window = None
            if found and isinstance(found[-1], Resumption):
                found.pop()
            found.append(Resumption(self.channel, Position(offset, self._epoch), is_recovered=False))


def _offset(publication: Publication) -> int:
    assert publication.position is not None  # noqa: S101  (for the type checker)
    return publication.position.offset
