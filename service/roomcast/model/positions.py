"""Positions in a history, and the check of those that clients and services send."""

from __future__ import annotations

from typing import NamedTuple

from roomcast.model.errors import ClientError, ErrorCode

# The next offset is the largest integer that a JSON number holds exactly in every language.
MAX_OFFSET = 2**53 - 2
_MAX_EPOCH_BYTES = 32


class Position(NamedTuple):
    """A place in a channel's history: the publication with this offset, in the numbering of this epoch.

    offset: 1 for the first publication; 0 is before it.
    epoch: changes when the numbering may not continue: offsets of two epochs cannot be compared.
    """

    offset: int
    epoch: str


def position_of(offset: str, epoch: str) -> Position:
    """Return the position that a client sent. Raises: ClientError 107 if it is invalid."""
    if not offset.isascii() or not offset.isdigit() or len(offset) > 16 or int(offset) > MAX_OFFSET:
        raise ClientError(ErrorCode.BAD_REQUEST, f"an offset is a whole number from 0 to {MAX_OFFSET}")
    if not 1 <= len(epoch) <= _MAX_EPOCH_BYTES or not epoch.isascii() or not epoch.isalnum():
        raise ClientError(ErrorCode.BAD_REQUEST, "an epoch is the text that came with the offset")
    return Position(int(offset), epoch)
