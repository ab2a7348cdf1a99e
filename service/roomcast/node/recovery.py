"""The recovery of reconnecting clients: what they missed, from the newest publications of a channel. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump, Publication, Resumption, offset_of


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

    @property
    def room(self) -> int:
        """Return how many older publications may be added."""
        return self._max_length - len(self._publications)

    def append(self, publication: Publication) -> None:
        """Add the next one."""
        self._publications.append(publication)
        if len(self._publications) > self._max_length:
            self.floor = offset_of(self._publications.popleft())

    def extend_back(self, history: History) -> None:
        """Add the older ones of a history, as far as they reach the floor without a gap."""
        self._jumps = history.jumps
        before = {jump.to: jump.after for jump in history.jumps}
        self._lower_floor(before)
        for publication in sorted(history.publications, key=offset_of, reverse=True):
            if offset_of(publication) == self.floor and len(self._publications) < self._max_length:
                self._publications.appendleft(publication)
                self.floor -= 1
                self._lower_floor(before)

    def after(self, offset: int) -> list[Publication] | None:
        """Return the publications after an offset, or None if older ones are missing."""
        if offset < self.floor or is_in_jump(self._jumps, offset):
            return None
        return [publication for publication in self._publications if offset_of(publication) > offset]

    def _lower_floor(self, before: Mapping[int, int]) -> None:
        while self.floor in before:
            self.floor = before[self.floor]


def is_in_jump(jumps: Sequence[Jump], offset: int) -> bool:
    """Return whether the publication with an offset is lost: Redis has started again without it."""
    return any(jump.after < offset < jump.to for jump in jumps)


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
        *[publication for publication in missed if offset_of(publication) <= top.offset],
    ]


def catch_up_cache(
    channel: str, since: Position | None, top: Position, window: Window | None
) -> list[Publication | Resumption]:
    """Return the newest publication up to `top`, unless the client has it; see `catch_up_stream`.

    Nothing is recovered if the history is empty (nothing was published, or it expired or was removed): the application
    then has to load the state of the channel.
    """
    kept = (window.after(window.floor) if window is not None else None) or []
    newest = [publication for publication in kept if offset_of(publication) <= top.offset][-1:]
    if window is None or not newest:
        return [Resumption(channel, top, is_recovered=None if since is None else bool(kept) and since == top)]
    before = Position(offset_of(newest[0]) - 1, top.epoch)
    has_newest = since is not None and before < since <= top and since.epoch == top.epoch
    if since is not None and has_newest and window.after(since.offset) is not None:
        return [Resumption(channel, top, is_recovered=True)]
    return [Resumption(channel, before, is_recovered=None if since is None else True), *newest]
