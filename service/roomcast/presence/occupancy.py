"""The events of occupied and vacated channels, and the channels that are occupied now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson
from redis.exceptions import ResponseError

from roomcast.presence.node_registry import NodeKeys
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import batches, run_all

# The broker channel of these events.
EVENTS = "events"
_CHANNELS_AT_ONCE = 1000


async def occupied_channels(client: Client, *, prefix: str, known: Collection[str]) -> set[str]:
    """Return the occupied channels, with or without those that change meanwhile. Raises: redis.RedisError.

    Args:
        known: channels that are also looked at: Redis may have lost a node's list of channels.
    """
    keys = NodeKeys(prefix)
    (leases,) = await run_all(client, [("SMEMBERS", keys.leases)], ())
    found = await _occupied(client, prefix, list(known))
    for lease in leases:
        cursor = 0
        while True:
            channels_key = keys.channels(str(lease, "utf-8", "replace"))
            try:
                cursor, batch = await client.sscan(channels_key, cursor, count=_CHANNELS_AT_ONCE)
            except ResponseError as exc:
                if not str(exc).startswith("WRONGTYPE"):
                    raise
                break  # written by another program; the other nodes' channels are occupied nevertheless
            channels = [str(member, "utf-8", "replace") for member in batch]  # type: ignore[arg-type]  # bytes
            found |= await _occupied(client, prefix, channels)
            if not cursor:
                break
    return found


async def _occupied(client: Client, prefix: str, channels: Sequence[str]) -> set[str]:
    keys = ChannelKeys(prefix)
    found: set[str] = set()
    for some in batches(channels, _CHANNELS_AT_ONCE):
        exist = await run_all(client, [("EXISTS", keys.key(channel, "nodes")) for channel in some], ())
        found.update(channel for channel, is_there in zip(some, exist, strict=True) if is_there)
    return found


def occupied(channel: str) -> bytes:
    """Return the event of a channel's first subscriber: `{"event":"occupied","channel":"room:lobby"}`."""
    return orjson.dumps({"event": "occupied", "channel": channel})


def vacated(channel: str) -> bytes:
    """Return the event of a channel that has lost its last subscriber."""
    return orjson.dumps({"event": "vacated", "channel": channel})
