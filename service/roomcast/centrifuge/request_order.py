"""Requests of one client that overtook each other on their way, through several connections and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.centrifuge.codec import MalformedFrame

if TYPE_CHECKING:
    from roomcast.centrifuge.codec import Codec

# So many wait at most for the one before them; of those the next one waits for nobody.
MAX_EARLY = 16


class RequestOrder:
    """Gives requests back in the order in which their client sent them: SDKs number commands 1, 2, 3 and so on.

    One that comes before its turn waits for those in between, and whoever uses this gives up on them after a while.
    """

    __slots__ = ("_early", "_next_id")

    def __init__(self) -> None:
        self._next_id = 0  # 0: nothing has come yet
        self._early: dict[int, tuple[int, bytes]] = {}  # by the first id: the last one, and the request

    @property
    def is_waiting(self) -> bool:
        """Return whether some request waits for one before it."""
        return bool(self._early)

    def put(self, codec: Codec, data: bytes) -> list[bytes]:
        """Take a request; return those whose turn it is, in their order."""
        ids = _ids(codec, data)
        if not ids:  # a pong, or what is none of ours to understand
            return [data]
        first, last = min(ids), max(ids)
        if 0 < self._next_id < first and len(self._early) < MAX_EARLY:
            self._early[first] = (last, data)
            return []
        due = [data]
        self._next_id = max(self._next_id, last + 1)
        while (following := self._early.pop(self._next_id, None)) is not None:
            last, data = following
            due.append(data)
            self._next_id = last + 1
        return due

    def give_up(self) -> list[bytes]:
        """Return all that waits, in its order: what is missing in between does not come any more."""
        waiting = [self._early[first] for first in sorted(self._early)]
        self._early.clear()
        self._next_id = max([self._next_id, *(last + 1 for last, _ in waiting)])
        return [data for _, data in waiting]


def _ids(codec: Codec, data: bytes) -> list[int]:
    try:
        return [command.id for command in codec.commands(data) if command.id]
    except MalformedFrame:
        return []
