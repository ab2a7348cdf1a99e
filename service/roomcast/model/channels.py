"""Channel names: their rules, and the channels of rooms."""

from __future__ import annotations

import re

from roomcast.model.errors import ClientError, ErrorCode

# str.isprintable() would reject U+3000 and the like; only C0, DEL and C1 do harm in logs and protocols.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
MAX_CHANNEL_BYTES = 255
MAX_ROOM_BYTES = 128

SYSTEM_METRICS = "metrics:system"
LOBBY = "room:lobby"


def is_of_nodes(channel: str) -> bool:
    """Return whether only nodes and workers use a channel (node/survey.py, presence/occupancy.py)."""
    return channel in {"events", "control"} or (channel.startswith("control.") and ":" not in channel)


def check_channel(name: str) -> str:
    """Return a name of 1 to 255 bytes of UTF-8 without control characters and braces, and not the namespace alone.

    Raises: ClientError 107.
    """
    if name.endswith(":") and name.count(":") == 1:
        raise ClientError(ErrorCode.BAD_REQUEST, "channel has no name behind its namespace")
    return _check(name, "channel", MAX_CHANNEL_BYTES)


def check_name(name: str, what: str) -> str:
    """Return the name of a user or a room: 1 to 128 bytes of UTF-8 without control characters and braces.

    Raises: ClientError 107 with the reason, which calls the name `what`.
    """
    return _check(name, what, MAX_ROOM_BYTES)


def room_channel(room: str) -> str:
    """Return the channel of a plain room: `room:lobby` of `lobby`. Raises: ClientError 107 for an invalid room name."""
    if "/" in room or room in {".", ".."}:
        raise ClientError(ErrorCode.BAD_REQUEST, "room name cannot stand in a URL's path")
    return f"room:{check_name(room, 'room name')}"


def _check(name: str, what: str, max_bytes: int) -> str:
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, f"{what} is not valid UTF-8") from None
    if not 1 <= size_bytes <= max_bytes:
        raise ClientError(ErrorCode.BAD_REQUEST, f"{what} must be 1 to {max_bytes} bytes, this one has {size_bytes}")
    if _CONTROL.search(name):
        raise ClientError(ErrorCode.BAD_REQUEST, f"{what} holds a control character")
    if "{" in name or "}" in name:  # they choose the slot of a Redis Cluster
        raise ClientError(ErrorCode.BAD_REQUEST, f"{what} holds a brace")
    if "\ufffd" in name:
        raise ClientError(ErrorCode.BAD_REQUEST, f"{what} is not valid UTF-8")
    return name
