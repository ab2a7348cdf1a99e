"""The check of positions that clients and services send."""

from __future__ import annotations

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.publications import Position

# The largest integer that a JSON number holds exactly in every language.
MAX_OFFSET = 2**53 - 1
_MAX_EPOCH_BYTES = 32


def position_of(offset: str, epoch: str) -> Position:
    """Return the position that a client sent. Raises: ClientError 107 if it is invalid."""
    if not offset.isascii() or not offset.isdigit() or len(offset) > 16 or int(offset) > MAX_OFFSET:
        raise ClientError(ErrorCode.BAD_REQUEST, f"an offset is a whole number from 0 to {MAX_OFFSET}")
    if not 1 <= len(epoch) <= _MAX_EPOCH_BYTES or not epoch.isascii() or not epoch.isalnum():
        raise ClientError(ErrorCode.BAD_REQUEST, "an epoch is the text that came with the offset")
    return Position(int(offset), epoch)
