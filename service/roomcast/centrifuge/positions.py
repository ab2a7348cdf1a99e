"""Positions as clients name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.positions import MAX_OFFSET
from roomcast.model.publications import Position

if TYPE_CHECKING:
    from roomcast.centrifuge.codec import Members


def since_of(members: Members) -> Position:
    """Return the position of a command; an empty epoch is the present one. Raises: ClientError 107 if it is none."""
    offset = members.get("offset", 0)
    if not 0 <= offset <= MAX_OFFSET:
        raise ClientError(ErrorCode.BAD_REQUEST, f"an offset is a whole number from 0 to {MAX_OFFSET}")
    return Position(offset, members.get("epoch", ""))
