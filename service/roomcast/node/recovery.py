"""A node's position in a channel's history: duplicates, gaps, and the recovery of reconnecting clients. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise

from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump, Publication, Resumption

# At most so many live publications wait while a gap is repaired; older ones are dropped and read from the stream again.
_MAX_WAITING = 1000
_MAX_FORMER = 8
_MAX_ENDS = 8


class Window:
    """The newest publications of a channel without a gap, up to the node's position; kept while clients reconnect.

    floor: the offset before the oldest one: a client with this offset, or a higher one that is in no jump, can recover.
    """

    __slots__ = ("_jumps", "_max_length", "_publications", "floor", "used_at_s")

    def __init__(self, floor: int, *, max_length: int, now_s: float) -> None:
        self.floor = floor
        self.used_at_s = now_s
        self._max_length = max_length
        self._publications: deque[Publication] = deque()
        self._jumps: Sequence[Jump] = ()

    def append(self, publication: Publication) -> None:
        """Add the next one."""
        self._publications.append(publication)
        if len(self._publications) > self._max_length:
            self.floor = _offset(self._publications.popleft())

    def extend_back(self, history: History) -> None:
        """Add the older ones of a history, as far as they reach the floor without a gap."""
        self._jumps = history.jumps
        before = {jump.to: jump.after for jump in history.jumps}
        self._lower_floor(before)
        for publication in sorted(history.publications, key=_offset, reverse=True):
            if _offset(publication) == self.floor and len(self._publications) < self._max_length:
                self._publications.appendleft(publication)
                self.floor -= 1
                self._lower_floor(before)

    def after(self, offset: int) -> list[Publication] | None:
        """Return the publications after an offset, or None if older ones are missing."""
        if offset < self.floor or any(jump.after < offset < jump.to for jump in self._jumps):
            return None
        return [publication for publication in self._publications if _offset(publication) > offset]

    def _lower_floor(self, before: Mapping[int, int]) -> None:
        while self.floor in before:
            self.floor = before[self.floor]


def catch_up_stream(
    channel: str, since: Position | None, top: Position, window: Window | None
) -> list[Publication | Resumption]:
    """Return what a new subscriber is sent first: every missed publication up to `top`, or the report of a loss.

    Args:
        since: the client's position; None: it is new.
        top: later publications will be broadcast to it.
    """
    if since is None:
        return [Resumption(channel, top, is_recovered=None)]
    if window is None or since.epoch != top.epoch or since.offset > top.offset:
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
    """Return the newest publication up to `top`, unless the client has it; see `catch_up_stream`.

    Nothing is recovered if the history is empty (nothing was published, or it expired or was removed): the application
    then has to load the state of the channel.
    """
    kept = (window.after(window.floor) if window is not None else None) or []
    newest = [publication for publication in kept if _offset(publication) <= top.offset][-1:]
    if window is None or not newest:
        return [Resumption(channel, top, is_recovered=None if since is None else bool(kept) and since == top)]
    before = Position(_offset(newest[0]) - 1, top.epoch)
    has_newest = since is not None and before < since <= top and since.epoch == top.epoch
    if since is not None and has_newest and window.after(since.offset) is not None:
        return [Resumption(channel, top, is_recovered=True)]
    return [Resumption(channel, before, is_recovered=None if since is None else True), *newest]


class Track:
    """The position of a node in one channel with history.

    It is *resolved* while every publication follows the previous one. After a sign of loss live publications wait until
    `resolve` gets the history from Redis: the node repairs the gap, and its clients notice only a pause.
    """

    __slots__ = ("_epoch", "_former", "_offset", "_waiting", "channel", "is_resolved", "window")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.is_resolved = False  # its first position is unknown
        self.window: Window | None = None
        self._offset = -1
        self._epoch = ""
        self._former: dict[str, int] = {}  # former epochs, and the offset that was broadcast last in each
        self._waiting: deque[Publication] = deque(maxlen=_MAX_WAITING)

    @property
    def position(self) -> Position | None:
        """Return the newest position that was broadcast; None before the first `resolve`."""
        return Position(self._offset, self._epoch) if self._epoch else None

    @property
    def seen(self) -> Sequence[Position]:
        """Return the positions that prove a loss if Redis has them no more: the last of each run without a gap."""
        last = (Position(self._offset, self._epoch),) if self._epoch else ()
        if not self._waiting:
            return last
        waiting = [publication.position for publication in self._waiting if publication.position is not None]
        ends = [a for a, b in pairwise(waiting) if b != (a.offset + 1, a.epoch)]
        return (*last, *ends[-_MAX_ENDS:], waiting[-1])

    def accept(self, publication: Publication) -> bool:
        """Return whether a live publication is the next one, to be broadcast now: else it is a duplicate, or waits."""
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
        """Make live publications wait until the track is resolved again: some may be missing."""
        self.is_resolved = False

    def resolve(self, history: History) -> list[Publication | Resumption]:
        """Continue from the history after `position`; the first call uses its position alone.

        Returns: the events to broadcast, in order; a Resumption marks lost publications. If `is_resolved` is still
            false, a later publication is missing: read again.
        """
        top, epoch = history.position
        live = {
            _offset(publication): publication
            for publication in self._waiting
            if publication.position is not None and publication.position.epoch == epoch
        }
        found: list[Publication | Resumption] = []
        if not self._epoch:
            # Clients that have subscribed meanwhile receive the publications since then, and no older ones.
            self._offset = min(live) - 1 if live else top
        else:
            if epoch != self._epoch:
                self.window = None
                self._enter(epoch, history)
                found.append(Resumption(self.channel, Position(self._offset, epoch), is_recovered=False))
            self._epoch = epoch
            jumps = dict(history.jumps)
            self._jump(jumps)
            kept = {_offset(publication): publication for publication in history.publications}
            for offset, publication in sorted({**live, **kept}.items()):
                if self._offset < offset <= top:
                    self._report_lost(offset - 1, found)
                    self._continue_with(publication, found)
                    self._jump(jumps)
            self._report_lost(top, found)
        self._epoch = epoch
        for offset in sorted(live):
            if offset == self._offset + 1:
                self._continue_with(live[offset], found)
        self._waiting.clear()
        self._waiting.extend(publication for offset, publication in sorted(live.items()) if offset > self._offset)
        # Ahead of a former epoch: Redis has lost its tail, and ends it once it is asked with this position.
        self.is_resolved = not self._waiting and self._offset <= max(top, *live, 0)
        return found

    def _enter(self, epoch: str, history: History) -> None:
        """Continue in another epoch where this node has left its data: only later entries are new here.

        Two masters of a split cluster may answer in turn, so the data can be that of an epoch before this one.
        """
        self._former[self._epoch] = self._offset
        known = [self._former[name] for name in (*history.former, epoch) if name in self._former]
        # An epoch of other data restarts at zero: all of its entries are new.
        last = known[-1] if known else self._offset
        self._offset = last if epoch in self._former else min(history.base, last)
        self._former.pop(epoch, None)
        while len(self._former) > _MAX_FORMER:
            del self._former[next(iter(self._former))]

    def _continue_with(self, publication: Publication, found: list[Publication | Resumption]) -> None:
        self._offset = _offset(publication)
        found.append(publication)
        if self.window is not None:
            self.window.append(publication)

    def _jump(self, jumps: Mapping[int, int]) -> None:
        while self._offset in jumps:
            self._offset = jumps[self._offset]

    def _report_lost(self, offset: int, found: list[Publication | Resumption]) -> None:
        """Report as lost the missing publications up to an offset, that the history has no more."""
        if offset > self._offset:
            self._offset = offset
            self.window = None
            if found and isinstance(found[-1], Resumption):
                found.pop()
            found.append(Resumption(self.channel, Position(offset, self._epoch), is_recovered=False))


def _offset(publication: Publication) -> int:
    assert publication.position is not None  # noqa: S101  (for the type checker)
    return publication.position.offset
