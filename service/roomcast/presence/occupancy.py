"""The events of occupied and vacated channels, and the channels that are occupied now."""

from __future__ import annotations

import orjson

from roomcast.presence.node_registry import NodeKeys
from roomcast.redis_access.client import Client
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_all

# The broker channel of these events.
EVENTS = "events"
_CHANNELS_AT_ONCE = 1000


async def occupied_channels(client: Client, *, prefix: str) -> set[str]:
    """Return the occupied channels, with or without those that change meanwhile. Raises: redis.RedisError."""
    keys, channel_keys = NodeKeys(prefix), ChannelKeys(prefix)
    (leases,) = await run_all(client, [("SMEMBERS", keys.leases)], ())
    found: set[str] = set()
    for lease in leases:
        cursor = 0
        while True:
            channels_key = keys.channels(str(lease, "utf-8", "replace"))
            cursor, batch = await client.sscan(channels_key, cursor, count=_CHANNELS_AT_ONCE)
            channels = [str(member, "utf-8", "replace") for member in batch]  # type: ignore[arg-type]  # bytes
            exist = await run_all(client, [("EXISTS", channel_keys.key(channel, "nodes")) for channel in channels], ())
            found.update(channel for channel, is_there in zip(channels, exist, strict=True) if is_there)
            if not cursor:
                break
    return found


def occupied(channel: str) -> bytes:
    """Return the event of a channel's first subscriber: `{"event":"occupied","channel":"room:lobby"}`."""
    return orjson.dumps({"event": "occupied", "channel": channel})


def vacated(channel: str) -> bytes:
    """Return the event of a channel that has lost its last subscriber."""
    return orjson.dumps({"event": "vacated", "channel": channel})
