"""The recovery of reconnecting clients: what they missed, from the newest publications of a channel. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from roomcast.model.positions import Position
from roomcast.model.publications import Publication, Resumption


class Window:
    """The newest publications of a channel without a gap, up to the node's position; kept while clients reconnect.

    floor: the offset before the oldest one: a client with this offset, or a higher one, can recover.
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
        """Add older ones, given in their order, as far as they reach the floor without a gap."""
        for publication in sorted(publications, key=_offset, reverse=True):
            if _offset(publication) == self.floor and len(self._publications) < self._max_length:
                self._publications.appendleft(publication)
                self.floor -= 1

    def after(self, offset: int) -> list[Publication] | None:
        """Return the publications after an offset, or None if older ones are missing."""
        if offset < self.floor:
            return None
        return [publication for publication in self._publications if _offset(publication) > offset]


def catch_up_stream(
    channel: str, since: Position | None, top: Position, window: Window | None
) -> list[Publication | Resumption]:
    """Return what a new subscriber is sent first: every missed publication up to `top`, or the report of a loss.

    Args:
        since: the client's position; None: it is new.
        top: later publications will be broadcast to it.
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
    """Return the newest publication up to `top`, unless the client has it; see `catch_up_stream`.

    Nothing is recovered if the history is empty (nothing was published, or it expired or was removed): the application
    then has to load the state of the channel.
    """
    kept = (window.after(top.offset - 1) if window is not None else None) or []
    newest = [publication for publication in kept if _offset(publication) == top.offset]
    if since == top:
        is_empty = window is None or not window.after(window.floor)
        return [Resumption(channel, top, is_recovered=not is_empty)]
    if not newest:
        return [Resumption(channel, top, is_recovered=False)]
    return [Resumption(channel, Position(top.offset - 1, top.epoch), is_recovered=True), *newest]


def _offset(publication: Publication) -> int:
    assert publication.position is not None  # noqa: S101  (for the type checker)
    return publication.position.offset
