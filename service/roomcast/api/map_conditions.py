"""The conditions of a write into a map, and of a read, in the headers of HTTP (RFC 9110, 13.1)."""

from __future__ import annotations

import re

from starlette.requests import Request

from roomcast.brokers.interface import ALWAYS, MAX_KEY_LENGTH, Once
from roomcast.brokers.map_interface import Conditions
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import KeyMode
from roomcast.model.positions import Position, position_of

_ANY = "*"
# A proxy that compresses an answer makes its tag a weak one: it names the same write.
_ETAG = re.compile(r'(?:W/)?"([0-9]+)-([0-9A-Za-z]+)"')


def etag_of(position: Position) -> str:
    """Return a position as an entity tag: `"7-5f0c2a91"`."""
    return f'"{position.offset}-{position.epoch}"'


def is_unchanged(request: Request, headers: dict[str, str]) -> bool:
    """Return whether the client of a read has what these headers have the tag of."""
    wanted = request.headers.get("if-none-match", "")
    etag = headers.get("ETag")
    return etag is not None and etag in {each.strip().removeprefix("W/") for each in wanted.split(",")}


def conditions_of(request: Request, *, user: str | None, tells_positions: bool) -> Conditions:
    """Return the conditions of a write.

    Args:
        user: of the client; None: a service. Their idempotency keys are apart.
    Raises: ClientError 107 for headers that cannot be a condition, 108 for a position in a map without positions.
    """
    once = _once(request.headers.get("idempotency-key", "").strip().strip('"'), user)
    if_match, if_none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if if_none_match is not None:
        if if_none_match.strip() != _ANY or if_match is not None or request.method == "DELETE":
            raise ClientError(ErrorCode.BAD_REQUEST, "If-None-Match of a write is *, of PUT, without If-Match")
        return Conditions(once, KeyMode.IF_NEW)
    if if_match is None:
        return Conditions(once)
    if if_match.strip() == _ANY:
        return Conditions(once, KeyMode.IF_EXISTS)
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise ClientError(ErrorCode.BAD_REQUEST, "If-Match is * or one ETag of this map")
    if not tells_positions:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "an ephemeral map has no ETags")
    return Conditions(once, expected=position_of(found[1], found[2]))


def _once(key: str, user: str | None) -> Once:
    if not key:
        return ALWAYS
    if len(key) > MAX_KEY_LENGTH:
        raise ClientError(ErrorCode.BAD_REQUEST, f"Idempotency-Key has more than {MAX_KEY_LENGTH} characters")
    return Once(key if user is None else f"{user}\n{key}")
