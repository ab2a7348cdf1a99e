"""The arguments that the scripts of histories and of maps share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from roomcast.model.maps import MapMode
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position

IDEMPOTENCY_TTL_MS = 300_000
# What the scripts answer instead of a meta that another program has written.
NOT_OURS = "the channel's position in Redis was not written by a node"
# Longer than a history, so that a client of a channel that was silent for an hour keeps its position.
_META_TTL_S = 24 * 3600.0
_EPHEMERAL_META_TTL_S = 3600.0


def new_epoch() -> str:
    """Return a name for a new epoch, which must differ only from those of the same channel."""
    return f"{random.getrandbits(32):08x}"


def listed(positions: Sequence[Position]) -> str:
    """Return positions as the scripts read them."""
    return " ".join([f"{offset}:{epoch}" for offset, epoch in positions])


def meta_ttl_ms(namespace: Namespace) -> int:
    """Return how long a channel's position is kept after its last use; 0: it stays."""
    options = namespace.map
    if options is None:
        return ms(max(_META_TTL_S, 2 * namespace.history_ttl_s))
    if options.mode is MapMode.PERSISTENT:
        return 0
    if options.meta_ttl_s:
        # The removal of the last key has a position too, and a node may be a little late.
        return ms(options.meta_ttl_s + options.key_ttl_s)
    shortest_s = _EPHEMERAL_META_TTL_S if options.mode is MapMode.EPHEMERAL else _META_TTL_S
    return ms(max(shortest_s, 2 * namespace.history_ttl_s, 2 * options.key_ttl_s))


def ms(seconds: float) -> int:
    """Return milliseconds, rounded up."""
    return math.ceil(seconds * 1000)
