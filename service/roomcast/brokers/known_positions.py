"""The newest position of each channel that this process knows: who has seen more than Redis holds proves a loss."""

from __future__ import annotations

from collections.abc import Sequence

from roomcast.model.positions import Position

_MAX_CHANNELS = 10_000


class KnownPositions:
    """The positions in the replies of Redis, of the channels that were used last; at most 10,000 (2.5 MB)."""

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}

    def note(self, channel: str, position: Position) -> None:
        """Keep a position from a reply."""
        positions = self._positions
        before = positions.pop(channel, None)
        is_older = before is not None and before.epoch == position.epoch and before.offset > position.offset
        positions[channel] = before if before is not None and is_older else position
        if len(positions) > _MAX_CHANNELS:
            del positions[next(iter(positions))]

    def added_to(self, seen: Sequence[Position], channel: str) -> Sequence[Position]:
        """Return the positions that a caller has seen, and the one that is known here."""
        known = self._positions.get(channel)
        return seen if known is None or known in seen else (*seen, known)
