"""Requests of one client that overtook each other on their way through several connections and nodes."""

from __future__ import annotations

from roomcast.centrifuge.codec import Codec, MalformedFrame

# Requests that wait for an earlier one; at this limit the next one no longer waits.
MAX_EARLY = 16


class RequestOrder:
    """Returns requests in the order in which their client sent them: SDKs number commands 1, 2, 3 and so on.

    A request that comes early waits for those before it. The caller gives up on these after a while.
    """

    __slots__ = ("_early", "_next_id")

    def __init__(self) -> None:
        self._next_id = 0  # 0: no request has come yet
        self._early: dict[int, tuple[int, bytes]] = {}  # by the first id: the last one, and the request

    @property
    def is_waiting(self) -> bool:
        """Return whether a request waits for one before it."""
        return bool(self._early)

    def put(self, codec: Codec, data: bytes) -> list[bytes]:
        """Add a request; return those whose turn it is, in their order."""
        ids = _ids(codec, data)
        if not ids:  # a pong, or a malformed frame
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
        """Return all that wait, in their order, without the missing ones between them."""
        waiting = [self._early[first] for first in sorted(self._early)]
        self._early.clear()
        self._next_id = max([self._next_id, *(last + 1 for last, _ in waiting)])
        return [data for _, data in waiting]


def _ids(codec: Codec, data: bytes) -> list[int]:
    try:
        return [command.id for command in codec.commands(data) if command.id]
    except MalformedFrame:
        return []
