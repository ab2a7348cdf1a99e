"""What is told in the channel `events`: that some other channel is occupied now, or vacated, anywhere in the cluster.

Delivery: at most once, in order for each channel. Who must not miss one looks also at who is there (docs/presence.md).
"""

from __future__ import annotations

import orjson

EVENTS = "events"


def occupied(channel: str) -> bytes:
    """Return what is told when a channel gets its first subscriber: `{"event":"occupied","channel":"room:lobby"}`."""
    return orjson.dumps({"event": "occupied", "channel": channel})


def vacated(channel: str) -> bytes:
    """Return what is told when a channel has lost its last subscriber."""
    return orjson.dumps({"event": "vacated", "channel": channel})
